"""Models that call ATen's operators: exported programs, graphs, and code that names them."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.export import Dim, export

from fastgradnorm import GradNormScorer, UnsupportedModelError, score_pool
from fastgradnorm._operations import in_python
from tests.support import oracle
from tests.support.asserts import assert_close_relative
from tests.support.cases import ChannelsLastGradient, Custom, linear, perturb

aten = torch.ops.aten
# Of PyTorch's own code, where an exported program is copied.
pytestmark = pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec:FutureWarning")


def images():
    body = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.MaxPool2d(2), nn.GELU(),
        nn.ConvTranspose2d(4, 6, 2, groups=2), nn.GroupNorm(3, 6), nn.SiLU(),
        nn.AdaptiveAvgPool2d(2), nn.Conv2d(6, 4, 2, groups=2),
    )  # fmt: skip
    return Custom(lambda m, x: m.head(m.body(x).flatten(1)), body=body, head=linear(4, 3))


def images_input():
    return torch.randn(5, 2, 6, 6)


class Texts(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(9, 8, padding_idx=0)
        self.place = nn.Parameter(torch.randn(5, 8))
        self.norm, self.last = nn.LayerNorm(8), nn.RMSNorm(8)
        self.packed, self.out = linear(8, 24), linear(8, 8)
        self.head = nn.Linear(8, 3, bias=False)

    def forward(self, ids):
        x = self.embed(ids) + self.place
        q, k, v = self.packed(self.norm(x)).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4)
        x = x + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return self.head(self.last(x).mean(1))


def ids():
    return torch.randint(0, 9, (5, 5))


def instances():
    norm = nn.InstanceNorm1d(3, affine=True, track_running_stats=True)
    return Custom(lambda m, x: m.head(m.norm(x).square().mean(2)), norm=norm, head=linear(3, 3))


def sequences():
    return torch.randn(5, 3, 4)


def written():
    """New memory, some of which is written to."""

    def forward(m, x):
        y = m.body(x)
        canvas = torch.zeros(x.shape[0], 6, dtype=x.dtype)
        canvas[:, 1:5] += y
        return m.head(torch.tanh(canvas))

    return Custom(forward, body=linear(3, 4), head=linear(6, 3))


def rows():
    return torch.randn(5, 3)


def halves():
    """Chunks of a packed weight."""

    def forward(m, x):
        first, second = m.weight.split(4)
        return m.head(torch.tanh(x @ first.T) * torch.sigmoid(F.linear(x, second)))

    weight = nn.Parameter(torch.randn(8, 3))
    return Custom(forward, weight=weight, head=linear(4, 3))


MODELS = {
    "images": (images, images_input),
    "texts": (Texts, ids),
    "instances": (instances, sequences),
    "halves": (halves, rows),
    "written": (written, rows),  # last: PyTorch has no derivative of what it is decomposed into
}


def exported(model, x, way):
    program = export(model.eval(), (x,), dynamic_shapes=({0: Dim("batch", max=64)},))
    return (program.run_decompositions() if way == "decomposed" else program).module()


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, way",
    [(name, way) for name in MODELS for way in ("as it is", "decomposed")][:-1],
)
def test_exported_programs_are_exact_and_fast(name, way):
    make, inputs = MODELS[name]
    model, x = perturb(make()).eval(), inputs()
    program = exported(model, x[:3], way)
    table = oracle.norms(model, oracle.ones(x))
    for verify in (True, "all", False):  # warnings are errors, of slow paths too
        options = {"progress": False, "verify": verify, "scheme": ["expected", "entropy"]}
        actual = score_pool(program, x.split(3), **options)
        for scheme, scores in actual.items():
            assert_close_relative(scores, table.scores(scheme), 1e-4, scheme)
    estimated = score_pool(program, [x], rtol=1e-9, progress=False)
    assert_close_relative(estimated, table.scores("expected"), 1e-4, "in rounds")
    head = score_pool(program, [x], params="last_layer", progress=False)
    expected = table.scores("expected", keep=lambda name: name.startswith("head"))
    assert_close_relative(head, expected, 1e-4, "last layer")


@pytest.mark.slow
@pytest.mark.parametrize("way", ["as it is", "decomposed"])
def test_rules_are_those_of_the_functions(way):
    for make, inputs in (MODELS["images"], MODELS["halves"]):
        model, x = perturb(make()).eval(), inputs()
        found = GradNormScorer(exported(model, x[:3], way)).explain(x).to_dict()
        assert {row["rule"] for row in found["rows"]} <= {"closed form", "direct", "ghost"}


def by_operator(m, x):
    y = aten.linear.default(x, m.body.weight, m.body.bias)
    return aten.addmm(m.head.bias, torch.tanh(y), aten.t.default(m.head.weight))


@pytest.mark.parametrize("params", ["all", "last_layer"])
def test_operators_that_code_names(params):
    model, x = Custom(by_operator, body=linear(3, 4), head=linear(4, 3)), torch.randn(5, 3)
    actual = score_pool(model, [x], params=params, progress=False)
    keep = (lambda name: True) if params == "all" else lambda name: name.startswith("head")
    assert_close_relative(actual, oracle.scores(model, oracle.ones(x), keep=keep), 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("norm", [nn.BatchNorm1d, nn.InstanceNorm1d])
def test_a_backward_pass_that_plain_autograd_gets_wrong(norm):
    options = {"affine": True, "track_running_stats": True}
    function = aten.batch_norm if norm is nn.BatchNorm1d else aten.instance_norm
    model, x = perturb(ChannelsLastGradient(norm, **options)).eval(), torch.randn(4, 4, 5)
    expected = oracle.scores(model, oracle.ones(x))

    def forward(m, x):
        n, last = m.norm, (False, 0.1, m.norm.eps, False)
        y = function.default(x, n.weight, n.bias, n.running_mean, n.running_var, *last)
        return m.head(y.flatten(2).mT.square().mean(1))

    same = Custom(forward, norm=model.norm, head=model.head)
    assert_close_relative(score_pool(same, [x], verify="all", progress=False), expected, 1e-5)


@pytest.mark.parametrize("verify", [True, False])
def test_norms_that_mix_samples_are_refused(verify):
    def forward(m, x):
        mixed = aten.batch_norm.default(x, m.gain, None, None, None, True, 0, 1e-5, False)
        return m.head(mixed.sum(2))

    model = Custom(forward, gain=nn.Parameter(torch.ones(3)), head=linear(3, 3))
    with pytest.raises(UnsupportedModelError, match="mixes samples"):
        score_pool(model, [torch.randn(5, 3, 4)], verify=verify, progress=False)


@pytest.mark.parametrize("verify", [True, False])
def test_parameters_that_an_operator_writes_to(verify):
    def forward(m, x):
        aten.mul_.Tensor(m.weight, 0.5)
        return F.linear(x, m.weight)

    model = Custom(forward, weight=nn.Parameter(torch.randn(3, 3)))
    before = model.weight.detach().clone()
    with pytest.raises(UnsupportedModelError, match="weight"), torch.no_grad():
        score_pool(model, [torch.randn(5, 3)], verify=verify, progress=False)
    assert torch.equal(model.weight, before)


def test_branches_on_what_an_operator_reads():
    def forward(m, x):
        return m.a(x) if aten.item.default(x.sum() > 0) else m.b(x)

    model, x = Custom(forward, a=linear(3, 3), b=linear(3, 3)), torch.randn(8, 3)
    actual = score_pool(model, [x], verify=False, progress=False)
    assert_close_relative(actual, oracle.scores(model, oracle.ones(x)), 1e-5)


def test_what_has_no_function():
    for func in (torch.add, torch.nn.functional.linear, aten.mse_loss.default, aten.mse_loss):
        assert in_python(func) is None
    for func in (aten._softmax.default, aten.add.out, aten.mm.dtype, torch.ops.prims.add.default):
        assert in_python(func) is None


def test_what_norms_return_beside():
    x, shape = torch.randn(2, 6, 4), (2, 6, 4)
    calls = [
        (aten.native_layer_norm.default, (x, [6, 4], torch.ones(6, 4), None, 0.1)),
        (aten.native_group_norm.default, (x, torch.ones(6), None, *shape, 3, 0.1)),
        (
            aten._native_batch_norm_legit_no_training.default,
            (x, torch.ones(6), None, torch.randn(6), torch.rand(6), 0.1, 0.1),
        ),
    ]
    for func, args in calls:
        for actual, wanted in zip(in_python(func)(*args), func(*args), strict=True):
            assert torch.allclose(actual, wanted, atol=1e-5)
            assert actual.shape == wanted.shape
