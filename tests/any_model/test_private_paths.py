"""Each private path of PyTorch, broken: scores are as exact without it, and it is told once."""

import warnings

import pytest
import torch
from fastgradnorm_kernels import _matmul, checkpoints, functorch, operators, proof, switches
from fastgradnorm_kernels.proof import SlowPathWarning
from torch import nn
from torch.func import vjp, vmap
from torch.nn.utils import parametrizations, parametrize
from torch.utils.checkpoint import checkpoint

from fastgradnorm import score_pool
from tests.support import oracle
from tests.support.asserts import assert_close_relative
from tests.support.broken_paths import (
    assert_exact_without,
    attending,
    checkpointed,
    convolutional,
    frozen_front,
    missing,
    unchecked,
)
from tests.support.cases import Custom, linear, perturb
from tests.support.shared_models import after, tokens

pytestmark = pytest.mark.usefixtures("unproved")


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


def normed():
    """So many numbers of a sample that they are added up by PyTorch's own sums."""
    return after(nn.BatchNorm2d(8), 8, before=nn.Conv2d(2, 8, 1))


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
    "batch_norm_gradients": (
        "torch.ops.aten.native_batch_norm_backward", normed, (4, 2, 64, 64)
    ),
    "max_pool": ("torch.ops.aten.max_pool2d_with_indices", convolutional, (4, 2, 14, 14)),
    "max_pool_pulled": ("torch.ops.aten.max_pool2d_with_indices", pooled_3d, (4, 2, 4, 4, 4)),
    "convolution_pulled": ("torch.ops.aten.convolution_backward", convolutional, (4, 2, 14, 14)),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("how", ["missing", "another"])
@pytest.mark.parametrize("name", OPERATORS)
def test_operators(name, how, monkeypatch):
    path, make, shape = OPERATORS[name]
    if name == "onednn_linear" and not torch.backends.mkldnn.is_available():
        pytest.skip("no oneDNN")
    broken = missing if how == "missing" else twice(getattr(operators, name))
    monkeypatch.setattr(operators, name, broken)
    monkeypatch.setattr(_matmul, "has_fast_mkl", lambda: False)  # where it takes oneDNN's place
    assert_exact_without(path, make(), torch.randn(shape))


@pytest.mark.slow
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
    @pytest.mark.slow
    @pytest.mark.parametrize("name", ["unwatched", "DisableTorchFunction"])
    @pytest.mark.parametrize("causal", [False, True])
    def test_modes_that_look_on(self, name, causal, monkeypatch):
        if name == "unwatched":  # it is there, and does nothing
            monkeypatch.setattr(torch._C, "DisableTorchFunction", lambda: warnings.catch_warnings())
        else:
            monkeypatch.delattr(torch._C, "DisableTorchFunction")
        assert_exact_without("torch._C.DisableTorchFunction", attending(is_causal=causal), tokens())

    @pytest.mark.slow
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
            names = dict.fromkeys(checkpoints._CHECKPOINTS, missing)
        monkeypatch.setattr(checkpoints, "_CHECKPOINTS", names)
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

    @pytest.mark.slow
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
        functorch.PATH, "torch._C.DisableTorchFunction", "torch.Tensor._version",
        "torch.utils.checkpoint", "torch.nn.utils.parametrize", "torch._foreach_mul",
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


@pytest.mark.parametrize(
    "how", [missing, lambda tensors, by: tensors, lambda tensors, by: [t + 1 for t in tensors]]
)
def test_copies_made_together_are_proved_first(how, monkeypatch):
    assert operators.has_copied_together()
    operators.has_copied_together.cache_clear()
    with monkeypatch.context() as patch, pytest.warns(SlowPathWarning, match="_foreach_mul"):
        patch.setattr(torch, "_foreach_mul", how)
        assert not operators.has_copied_together()
    operators.has_copied_together.cache_clear()
