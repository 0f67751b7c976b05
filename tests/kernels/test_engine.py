"""The engine on the kernels: the scores it gives with PyTorch alone."""

import pytest
import torch
from fastgradnorm_kernels import _dispatch, weight_sq_norm
from torch import nn

from fastgradnorm import SCHEMES, Rule, register_rule, score_pool
from fastgradnorm._operations import table
from tests.support.asserts import assert_close_relative
from tests.support.cases import CASES

pytestmark = pytest.mark.slow

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SMALL = [name for name in CASES if name != "resnet18"]  # the interpreter is slow


def both(model, batches, at_once=False, **options):
    """Compares the scores of all schemes, each asked for alone or all at once."""
    model = model.to(DEVICE)
    for asked in [list(SCHEMES)] if at_once else [[scheme] for scheme in SCHEMES]:
        torch_scores, triton_scores = (
            score_pool(model, batches, scheme=asked, backend=backend, progress=False, **options)
            for backend in ("torch", "triton")
        )
        for scheme in asked:
            assert_close_relative(triton_scores[scheme], torch_scores[scheme], 1e-5, scheme)


@pytest.mark.parametrize("params", ["all", "last_layer"])
@pytest.mark.parametrize("name", SMALL)
def test_same_scores(name, params):
    model, inputs = CASES[name].initial()
    both(model, [inputs[:3]], at_once=params == "all", params=params)


@pytest.mark.parametrize("name", SMALL)
def test_same_scores_per_tensor_and_confident(name):
    model, inputs = CASES[name].confident()
    both(model, [inputs[:2]], reduction="per_tensor", verify=False)


class Tied(nn.Module):
    """Weights that are used several times, as a table and as a product."""

    def __init__(self):
        super().__init__()
        self.embed, self.body = nn.Embedding(9, 6), nn.Linear(6, 6)
        self.head = nn.Linear(6, 9, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids):
        x = torch.tanh(self.body(torch.tanh(self.body(self.embed(ids)))))
        return self.head(x).mean(1)


def test_same_scores_with_shared_weights_and_a_ragged_pool():
    both(Tied(), list(torch.randint(0, 9, (5, 4)).split(3)))


@torch.overrides.wrap_torch_function(lambda x, weight: (x, weight))
def multiply(x, weight):
    return x @ weight.mT


class Own(nn.Module):
    """An operation with a rule of the user's own, who says nothing of backends."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 4))

    def forward(self, x):
        return multiply(x, self.weight)


def multiply_rule(call):
    def sq_norms(saved, g):
        return {"weight": weight_sq_norm(saved[0][None], g[None, None])[0, 0]}

    return Rule(slots=("weight",), saved=(call["x"],), sq_norms=sq_norms)


ASKED = {
    "products": (  # at several positions: at one there is nothing but the norms of two vectors
        lambda: nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3), nn.Flatten()),
        (3, 2, 4),
    ),
    "norms": (lambda: nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 3)), (3, 4)),
    "convolutions": (
        lambda: nn.Sequential(nn.Conv1d(2, 4, 3), nn.ConvTranspose1d(4, 3, 2), nn.Flatten()),
        (3, 2, 4),
    ),
    "shared": (Tied, None),
    "own": (Own, (3, 4)),
}


@pytest.mark.parametrize("backend", ["torch", "triton"])
@pytest.mark.parametrize("name", ASKED)
def test_what_was_asked_for_computes_every_norm(monkeypatch, name, backend):
    monkeypatch.setitem(table.TABLE, multiply, table.known(multiply))  # taken back after the test
    register_rule(multiply, multiply_rule, names=["x", "weight"])
    asked, seen = _dispatch.uses_triton, []

    def noted(*given):
        seen.append(asked(*given))
        return seen[-1]

    monkeypatch.setattr(_dispatch, "uses_triton", noted)
    make, shape = ASKED[name]
    inputs = torch.randn(shape) if shape else torch.randint(0, 9, (3, 4))
    model = make().to(DEVICE)
    score_pool(model, [inputs.to(DEVICE)], scheme="entropy", backend=backend, progress=False)
    assert {*seen} == {backend == "triton"}
