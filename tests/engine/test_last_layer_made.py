"""A last layer whose weight or bias is made of parameters: all that it is made of counts."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations, prune

from fastgradnorm import GradNormScorer, acquire, naive_score_pool
from tests.support import oracle
from tests.support.asserts import assert_close_relative
from tests.support.cases import Custom, linear, perturb

X = torch.randn(7, 4, generator=torch.Generator().manual_seed(0))


def features(m, x):
    return torch.tanh(m.body(x))


def pruned():
    layer = linear(5, 3)
    prune.random_unstructured(layer, "weight", 0.4)
    layer.weight = layer.weight.detach()  # which the caller may copy; made anew in each call
    return {"head": layer}


def number(*shape):
    return nn.Parameter(torch.randn(*shape))


class Held(nn.Module):
    """Parameters of a head."""

    def __init__(self, **named):
        super().__init__()
        for name, shape in named.items():
            self.register_parameter(name, number(*shape))


def headed(function):
    return lambda m, x: function(m.head, features(m, x))


MADE = {
    "weight norm": (lambda: {"head": parametrizations.weight_norm(linear(5, 3))}, None),
    "spectral norm": (lambda: {"head": parametrizations.spectral_norm(linear(5, 3))}, None),
    "pruned": (pruned, None),
    "weight norm, convolution": (
        lambda: {"head": parametrizations.weight_norm(nn.Conv1d(5, 3, 1))},
        lambda m, x: m.head(features(m, x)[:, :, None])[..., 0],
    ),
    "centred": (
        lambda: {"head": linear(5, 3)},
        headed(lambda h, z: F.linear(z, h.weight - h.weight.mean(0), h.bias)),
    ),
    "low rank, and a bias": (
        lambda: {"head": Held(a=(3, 2), b=(2, 5), c=(3,))},
        headed(lambda h, z: F.linear(z, h.a @ h.b, h.c)),
    ),
    "weight of two": (
        lambda: {"head": Held(a=(3, 5), b=(3, 5), c=(3,))},
        headed(lambda h, z: F.linear(z, torch.where(h.a > 0, h.a, h.b), h.c)),
    ),
    "rounded, straight through": (
        lambda: {"head": linear(5, 3)},
        headed(lambda h, z: F.linear(
            z, h.weight + ((4 * h.weight).round() / 4 - h.weight).detach(), h.bias
        )),
    ),
    "bias scaled": (
        lambda: {"head": Held(w=(3, 5), c=(3,), scale=(1,))},
        headed(lambda h, z: F.linear(z, h.w, h.c * h.scale)),
    ),
    "addmm, weight scaled": (
        lambda: {"head": Held(w=(5, 3), c=(3,), scale=(1,))},
        headed(lambda h, z: torch.addmm(h.c, z, h.w * h.scale)),
    ),
    "addmm, bias scaled": (
        lambda: {"head": Held(w=(5, 3), c=(3,), scale=(1,))},
        headed(lambda h, z: torch.addmm(h.c * h.scale, z, h.w)),
    ),
    "weight norm, no bias": (
        lambda: {"head": parametrizations.weight_norm(nn.Linear(5, 3, bias=False))},
        None,
    ),
    "cosines": (
        lambda: {"head": Held(w=(3, 5))},
        headed(lambda h, z: 8 * F.linear(F.normalize(z), F.normalize(h.w))),
    ),
    "low rank": (lambda: {"head": Held(a=(5, 2), b=(2, 3))}, headed(lambda h, z: z @ (h.a @ h.b))),
    "low rank, beside a constant": (
        lambda: {"head": Held(a=(5, 2), b=(2, 3))},
        headed(lambda h, z: torch.addmm(torch.ones(3, dtype=z.dtype), z, 1 - h.a @ h.b)),
    ),
    "convolution, no bias": (
        lambda: {"head": Held(w=(3, 5, 1))},
        headed(lambda h, z: F.conv1d(z[..., None], h.w.exp())[..., 0]),
    ),
    "made in place": (
        lambda: {"head": Held(w=(3, 5), c=(3,), row=(5,))},
        headed(lambda h, z: F.linear(z, _with_row(h.w, h.row), h.c)),
    ),
    "made in a loop": (
        lambda: {"head": Held(w=(3, 5), c=(3,), rows=(2, 5))},
        headed(lambda h, z: F.linear(
            z, torch.cat([h.w[:1], torch.stack([row.exp() for row in h.rows])]), h.c
        )),
    ),
}  # fmt: skip


def _with_row(w, row):
    made = w.clone()
    made[1] = row
    return made.mul_(1.5)


def model_of(name, trained):
    torch.manual_seed(0)
    parts, forward = MADE[name]
    model = Custom(forward or headed(lambda h, z: h(z)), body=linear(4, 5), **parts())
    model.body.requires_grad_(trained)
    return perturb(model)


def is_head(name):
    return name.startswith("head")


@pytest.mark.slow
@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize("trained", [True, False], ids=["trained", "frozen"])
@pytest.mark.parametrize("name", MADE)
def test_counts_with_what_it_is_made_of(name, trained, verify):
    model = model_of(name, trained)
    table = oracle.norms(model, oracle.ones(X))
    options = {"params": "last_layer", "scheme": oracle.SCHEMES, "progress": False}
    found = GradNormScorer(model, verify=verify, **options).score([X])
    names = {n for n, _ in model.named_parameters() if is_head(n)}
    for scheme in oracle.SCHEMES:
        exact = table.scores(scheme, keep=is_head)
        assert_close_relative(found[scheme].values, exact, 1e-5, scheme)
        assert {*found[scheme].provenance["parameters"]["names"]} == names
    plain = naive_score_pool(model, [X], params="last_layer")
    assert_close_relative(plain, table.scores("expected", keep=is_head), 1e-5)


@pytest.mark.parametrize("name", ["weight norm, no bias", "cosines", "low rank", "pruned"])
def test_features_are_what_it_is_given(name):
    model, pool = model_of(name, trained=True), torch.randn(30, 4)
    if name == "cosines":
        given = Custom(lambda m, x: m.head(F.normalize(features(m, x))), body=model.body)
    else:
        given = Custom(lambda m, x: m.head(features(m, x)), body=model.body)
    given.head = linear(5, 3)
    options = {"strategy": "coreset", "progress": False}
    chosen = [acquire(each, [pool], 5, **options).indices for each in (model, given)]
    assert torch.equal(*chosen)


class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(x, *_):
        return 2 * x

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.count = len(inputs) - 1

    @staticmethod
    def backward(ctx, g):
        return 2 * g, *[None] * ctx.count


BELOW = {
    "functions": lambda m, x: m.head(Doubled.apply(features(m, x))),
    "of the input": lambda m, x: m.head(features(m, Doubled.apply(x))),
    "gates": lambda m, x: m.head(features(m, x) * m.body.weight.mean(1).sigmoid()),
    "a token of parameters": lambda m, x: m.head(torch.tanh(m.body.bias + 0 * m.body(x))),
    "products": lambda m, x: torch.addmm(
        m.head.bias, Doubled.apply(features(m, x)), m.head.weight.T
    ),
    "out of sight": lambda m, x: torch.addmm(
        m.head.bias, 2 * _unseen(m.body, x), m.head.weight.T
    ),
    "out of sight, and a layer": lambda m, x: m.head(_unseen(m.body, x) + m.body.bias),
    "numbers read": lambda m, x: m.head(features(m, x) * float(m.head.weight.detach().mean())),
    "written": lambda m, x: m.head(_written(features(m, x))),
    "ids": lambda m, x: m.head(
        torch.tanh(F.embedding((x[:, 0] > 0).long(), m.body.weight) @ m.mix)
    ),
}  # fmt: skip


def _unseen(layer, x):
    with torch._C.DisableTorchFunction():
        return torch.tanh(layer(x))


def _written(z):
    made = torch.zeros(z.shape, dtype=z.dtype)
    made[:, :3] = z[:, :3]
    made[:, 3:].copy_(z[:, 3:])
    return made


@pytest.mark.parametrize("name", BELOW)
def test_what_it_is_given_does_not(name):
    torch.manual_seed(0)
    model = Custom(BELOW[name], body=linear(4, 5), head=linear(5, 3))
    model.mix = number(4, 5)
    perturb(model)
    exact = oracle.scores(model, oracle.ones(X), keep=is_head)
    found = GradNormScorer(model, params="last_layer", progress=False).score([X])
    assert {*found.provenance["parameters"]["names"]} == {"head.weight", "head.bias"}
    assert_close_relative(found.values, exact, 1e-5)
