"""Each private path of PyTorch, broken: scores are as exact without it, and it is told once."""

import re
import warnings
from pathlib import Path

import pytest
import torch
from fastgradnorm_kernels import functorch, operators, proof, switches
from fastgradnorm_kernels.proof import SlowPathWarning
from torch import nn
from torch.func import vjp, vmap
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize
from torch.utils.checkpoint import checkpoint

from fastgradnorm import gradient_sketch, score_pool
from tests.support import oracle
from tests.support.asserts import assert_close_relative, assert_exact
from tests.support.cases import CASES, Custom, linear, perturb
from tests.support.shared_models import Attention, Branching, after, tokens


@pytest.fixture(autouse=True)
def unproved():
    """Every path proves itself anew in a test, and after it."""
    for is_proved in proof.PATHS.values():
        is_proved.cache_clear()
    yield
    for is_proved in proof.PATHS.values():
        is_proved.cache_clear()


def assert_exact_without(path, model, x):
    """Exact for every scheme, warned of once, and scored without the loop over samples."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert_exact(model, x)
    slow = [str(w.message) for w in caught if issubclass(w.category, SlowPathWarning)]
    assert len(slow) == 1, slow
    assert f"`{path}`" in slow[0]
    assert "exact" in slow[0]


def missing(*args, **kwargs):
    raise AttributeError("this PyTorch has no such name")


def heads(q, k, v, **options):
    return F.scaled_dot_product_attention(q, k, v, **options)


def attending(**options):
    """Queries, keys and values of two heads from one layer."""

    def forward(m, x):
        q, k, v = m.body(x).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4)
        return m.head(heads(q, k, v, **options).transpose(1, 2).flatten(2).mean(1))

    return Custom(forward, body=linear(8, 24), head=linear(8, 3))


def convolutional():
    layers = [nn.Conv2d(2, 4, 3, padding=1), nn.GroupNorm(2, 4), nn.ReLU(), nn.MaxPool2d(2)]
    layers += [nn.Conv2d(4, 6, 3, stride=2, groups=2), nn.BatchNorm2d(6), nn.Flatten()]
    return perturb(nn.Sequential(*layers, nn.Linear(54, 3))).eval()


def checkpointed(reentrant, twice=False):
    def forward(m, x):
        x = checkpoint(m.first, x, use_reentrant=reentrant, preserve_rng_state=False)
        return m.head(torch.tanh(checkpoint(m.first, x, use_reentrant=reentrant) if twice else x))

    return Custom(forward, first=linear(4, 4), head=linear(4, 3))


def unchecked(model, twice):
    """The same model without checkpoints."""

    def forward(m, x):
        x = m.first(x)
        return m.head(torch.tanh(m.first(x) if twice else x))

    return Custom(forward, first=model.first, head=model.head)


def normalised():
    layer = parametrizations.weight_norm(linear(4, 5))
    return Custom(lambda m, x: m.head(torch.tanh(m.layer(x))), layer=layer, head=linear(5, 3))


def calls_vmap():
    def forward(m, x):
        each = vmap(lambda h: F.linear(h, m.body.weight), 1, 1)(x.unflatten(-1, (3, 4)))
        return m.head((each + m.body(x[:, :4])[:, None]).tanh().flatten(1))

    return Custom(forward, body=linear(4, 4), head=linear(12, 3))


def takes_derivatives():
    def forward(m, x):
        _, pull = vjp(lambda x: torch.tanh(m.body(x)).sum(-1), x)
        return m.head(x + pull(torch.ones(len(x)))[0])

    return Custom(forward, body=linear(4, 4), head=linear(4, 3))


def shared():
    """One weight used twice: its norms need the output gradients of both."""
    return Custom(
        lambda m, x: m.head(torch.tanh(m.body(torch.tanh(m.body(x))))),
        body=linear(4, 4), head=linear(4, 3),
    )  # fmt: skip


def frozen_front():
    """Frozen layers before and behind trained ones, in which light functions compute."""
    model = convolutional()
    for i in (0, 1, 4):
        model[i].requires_grad_(False)
    return model


def from_case(name):
    return lambda: CASES[name].random()[0], CASES[name].draw


def rows(width):
    return lambda n: torch.randn(n, width)


MODELS = {
    **{name: from_case(name) for name in CASES if name != "resnet18"},
    "convolutional": (convolutional, lambda n: torch.randn(n, 2, 14, 14)),
    "frozen layers": (frozen_front, lambda n: torch.randn(n, 2, 14, 14)),
    "attention": (attending, tokens),
    "attention, causal": (lambda: attending(is_causal=True), tokens),
    "attention, masked": (lambda: Attention(masked=True, batch_first=True), tokens),
    "checkpoints": (lambda: checkpointed(False, twice=True), rows(4)),
    "weight norm": (normalised, rows(4)),
    "branches": (lambda: Branching(lambda x: (x > -1).all()), rows(4)),
    "calls vmap": (calls_vmap, rows(12)),
    "derivatives": (takes_derivatives, rows(4)),
    "shared weight": (shared, rows(4)),
}


class Without:
    """A module as it is, but for one name."""

    def __init__(self, module, name, value=None):
        self._module, self._name, self._value = module, name, value

    def __getattr__(self, name):
        if name != self._name:
            return getattr(self._module, name)
        if self._value is None:
            raise AttributeError(f"no {name}")
        return self._value


FUNCTORCH = sorted({*re.findall(r"\b_functorch\.(\w+)\(", Path(functorch.__file__).read_text())})


class TestFunctorch:
    """Without it nothing is light, and a public function looks into the wrappers."""

    path = functorch.PATH

    @pytest.mark.parametrize("name", MODELS)
    def test_any_model(self, name, monkeypatch):
        monkeypatch.setattr(functorch, "_functorch", None)
        make, draw = MODELS[name]
        assert_exact_without(self.path, make(), draw(5))

    @pytest.mark.parametrize("name", FUNCTORCH)
    def test_any_name(self, name, monkeypatch):
        monkeypatch.setattr(functorch, "_functorch", Without(functorch._functorch, name))
        assert_exact_without(self.path, frozen_front(), torch.randn(4, 2, 14, 14))

    @pytest.mark.parametrize(
        "name, value",
        [
            ("maybe_get_bdim", lambda tensor: 1),
            ("is_gradtrackingtensor", lambda tensor: False),
            ("is_batchedtensor", lambda tensor: True),
            ("maybe_current_level", lambda: 1),
            ("_wrap_for_grad", lambda tensor, level: 2 * tensor),
            ("_unwrap_for_grad", lambda tensor, level: tensor),
        ],
    )
    def test_names_that_mean_something_else(self, name, value, monkeypatch):
        monkeypatch.setattr(functorch, "_functorch", Without(functorch._functorch, name, value))
        assert_exact_without(self.path, frozen_front(), torch.randn(4, 2, 14, 14))

    @pytest.mark.parametrize("how", ["no context", "no base", "another apply"])
    def test_what_is_no_function_of_that_module(self, how, monkeypatch):
        if how == "no context":
            monkeypatch.setattr(functorch, "outside", None)
        elif how == "no base":  # as where light functions derive from `autograd.Function`
            public = classmethod(lambda cls, *inputs: torch.autograd.Function.apply(*inputs))
            monkeypatch.setattr(functorch.SingleLevel, "apply", public)
        else:
            monkeypatch.setattr(functorch.SingleLevel, "apply", missing)
        assert_exact_without(self.path, convolutional(), torch.randn(4, 2, 14, 14))

    @pytest.mark.parametrize("how", ["differ", "double", "unlike"])
    def test_samples_that_branch_apart(self, how, monkeypatch):
        monkeypatch.setattr(functorch, "_functorch", None)
        x = torch.randn(9, 4)
        choices = {
            "differ": lambda x: bool(x.sum() > 0),
            "double": lambda x: x.double().sum() > 0,
            "unlike": lambda x: torch.equal(x.sign()[:, :1], x.sign()[:, 1:2]),
        }
        assert_exact_without(self.path, Branching(choices[how]), x)

    def test_a_sketch(self, monkeypatch):
        model, x = convolutional(), torch.randn(4, 2, 14, 14)
        expected = gradient_sketch(model, [x], progress=False)
        functorch.works.cache_clear()
        monkeypatch.setattr(functorch, "_functorch", None)
        with pytest.warns(SlowPathWarning, match=functorch.PATH):
            actual = gradient_sketch(model, [x], progress=False)
        assert torch.allclose(actual, expected, 1e-4, 1e-5)


def twice(function):
    """The same, but that what it gives is another number."""

    def run(*args, **kwargs):
        output = function(*args, **kwargs)
        return 2 * output if isinstance(output, torch.Tensor) else (2 * output[0], *output[1:])

    return run


def large():
    """Its linear layer is large enough for a product of its own."""
    modules = {"body": linear(512, 512), "head": linear(512, 3)}
    return Custom(lambda m, x: m.head(torch.tanh(m.body(x)).mean(1)), **modules)


def pooled_3d():
    return after(nn.MaxPool3d(2), 4, before=nn.Conv3d(2, 4, 1))


OPERATORS = {
    "onednn_linear": ("torch.ops.mkldnn._linear_pointwise", large, (4, 8, 512)),
    "flash_attention": (
        "torch.ops.aten._scaled_dot_product_flash_attention_for_cpu", attending, (4, 5, 8)
    ),
    "flash_attention_backward": (
        "torch.ops.aten._scaled_dot_product_flash_attention_for_cpu",
        lambda: attending(is_causal=True), (4, 5, 8),
    ),
    "group_norm_parts": ("torch.native_group_norm", frozen_front, (4, 2, 14, 14)),
    "group_norm_pulled": ("torch.native_group_norm", frozen_front, (4, 2, 14, 14)),
    "max_pool": ("torch.ops.aten.max_pool2d_with_indices", convolutional, (4, 2, 14, 14)),
    "max_pool_pulled": ("torch.ops.aten.max_pool2d_with_indices", pooled_3d, (4, 2, 4, 4, 4)),
    "convolution_pulled": ("torch.ops.aten.convolution_backward", convolutional, (4, 2, 14, 14)),
}  # fmt: skip


@pytest.mark.parametrize("how", ["missing", "another"])
@pytest.mark.parametrize("name", OPERATORS)
def test_operators(name, how, monkeypatch):
    path, make, shape = OPERATORS[name]
    if name == "onednn_linear" and not torch.backends.mkldnn.is_available():
        pytest.skip("no oneDNN")
    broken = missing if how == "missing" else twice(getattr(operators, name))
    for module in [
        operators,
        __import__("fastgradnorm._operations.attention", fromlist=["attention"]),
    ]:
        if hasattr(module, name):
            monkeypatch.setattr(module, name, broken)
    assert_exact_without(path, make(), torch.randn(shape))


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_convolutions_of_all_dimensions(dims, monkeypatch):
    monkeypatch.setattr(operators, "convolution_pulled", missing)
    kind = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1]
    model = perturb(nn.Sequential(kind(2, 4, 3), nn.Tanh(), kind(4, 4, 2, 2, 1, groups=2)))
    model.extend([nn.Flatten(), nn.Linear(4 * 3**dims, 3)])
    assert_exact_without(
        "torch.ops.aten.convolution_backward", model, torch.randn(4, 2, *(6,) * dims)
    )


class TestSwitches:
    @pytest.mark.parametrize("name", ["unwatched", "DisableTorchFunction"])
    @pytest.mark.parametrize("causal", [False, True])
    def test_modes_that_look_on(self, name, causal, monkeypatch):
        if name == "unwatched":  # it is there, and does nothing
            monkeypatch.setattr(torch._C, "DisableTorchFunction", lambda: warnings.catch_warnings())
        else:
            monkeypatch.delattr(torch._C, "DisableTorchFunction")
        assert_exact_without("torch._C.DisableTorchFunction", attending(is_causal=causal), tokens())

    @pytest.mark.parametrize("how", ["frozen", "missing"])
    def test_versions(self, how, monkeypatch):
        version = property(lambda self: 0) if how == "frozen" else property(missing)
        monkeypatch.setattr(torch.Tensor, "_version", version)
        assert_exact_without("torch.Tensor._version", convolutional(), torch.randn(4, 2, 14, 14))

    def test_parameters_changed_in_place_without_versions(self, monkeypatch):
        monkeypatch.setattr(torch.Tensor, "_version", property(missing))

        def forward(m, x):
            with torch.no_grad():
                m.head.weight.mul_(0.5)
            return m.head(x)

        with (
            pytest.warns(SlowPathWarning, match="_version"),
            pytest.raises(ValueError, match=r"`head\.weight`, changed in place"),
        ):
            score_pool(Custom(forward, head=linear(4, 3)), [torch.randn(3, 4)], progress=False)

    @pytest.mark.parametrize("how", ["no names", "another use"])
    @pytest.mark.parametrize("reentrant", [False, True])
    @pytest.mark.parametrize("blocks", [1, 2])
    def test_checkpoints(self, how, reentrant, blocks, monkeypatch):
        names = {}
        if how == "another use":
            names = dict.fromkeys(switches._CHECKPOINTS, missing)
        monkeypatch.setattr(switches, "_CHECKPOINTS", names)
        model, x = checkpointed(reentrant, blocks == 2), torch.randn(4, 4)
        if reentrant:  # plain autograd takes no gradients through these
            expected = oracle.scores(unchecked(model, blocks == 2), oracle.ones(x))
            with pytest.warns(SlowPathWarning, match="torch.utils.checkpoint") as caught:
                scores = score_pool(model, [x], progress=False)
            assert len(caught) == 1
            assert_close_relative(scores, expected, 1e-5)
        else:
            assert_exact_without("torch.utils.checkpoint", model, x)
        runs = []
        x = torch.randn(3, requires_grad=True)
        checkpoint(lambda x: runs.append(1) or x.sin(), x, use_reentrant=reentrant).sum().backward()
        assert len(runs) == 2  # it is PyTorch's again

    @pytest.mark.parametrize("broken", [False, True])
    @pytest.mark.parametrize("kind", ["two", "orthogonal"])
    def test_caches_of_parametrized_modules(self, kind, broken, monkeypatch):
        """One filled before is neither used nor left behind, nor lost."""

        class Twice(nn.Module):
            def forward(self, weight):
                return 2 * weight

        model = Custom(
            lambda m, x: m.head(torch.tanh(m.body(x))), body=linear(4, 4), head=linear(4, 3)
        )
        if kind == "orthogonal":
            parametrizations.orthogonal(model.body)
        else:
            parametrize.register_parametrization(model.body, "weight", Twice())
            parametrize.register_parametrization(model.head, "bias", Twice())
        x = torch.randn(4, 4)
        expected = oracle.scores(model, oracle.ones(x))
        if broken:
            monkeypatch.setattr(switches, "_CACHE", {"_no_such_name": 0})
        with parametrize.cached():
            kept = model.body.weight
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                for _ in range(2):
                    scores = score_pool(model, x.split(3), progress=False)
                    assert_close_relative(scores, expected, 1e-5)
            assert ["parametrize" in str(w.message) for w in caught] == [True] * broken
            assert model.body.weight is kept
        assert model.body.weight is not kept


def test_all_that_can_prove_itself_has_been_broken_here():
    told = {path for path, *_ in OPERATORS.values()} | {
        TestFunctorch.path, "torch._C.DisableTorchFunction", "torch.Tensor._version",
        "torch.utils.checkpoint", "torch.nn.utils.parametrize",
    }  # fmt: skip
    assert told == {*proof.PATHS}


def test_every_path_is_proved_here():
    assert {path: is_proved() for path, is_proved in proof.PATHS.items()} == dict.fromkeys(
        proof.PATHS, True
    )


def test_a_proof_is_not_disturbed_by_what_the_caller_does():
    """It may be asked for first inside of transforms, modes, autocast, or without gradients."""

    def per_sample(x):
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16), torch.device("meta"):
            assert all(is_proved() for is_proved in proof.PATHS.values())
        return x

    state = torch.get_rng_state()
    vmap(lambda x: vjp(per_sample, x)[0])(torch.ones(3))
    assert torch.equal(torch.get_rng_state(), state)
    for is_proved in proof.PATHS.values():
        is_proved.cache_clear()
    with torch.inference_mode():
        assert all(is_proved() for is_proved in proof.PATHS.values())
