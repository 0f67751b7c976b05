"""Models of which a part is compiled: it runs as it was written while they are scored."""

import pytest
import torch
from torch import nn

from fastgradnorm import GradNormScorer, gradient_sketch, naive_score_pool, score_pool
from tests.support import oracle
from tests.support.asserts import assert_close_relative
from tests.support.cases import Custom, linear, perturb

# PyTorch's compiler warns of what it does itself.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


class Body(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = linear(4, 6)

    def forward(self, x):
        return torch.tanh(self.inner(x)) * 1.5


def plain():
    return perturb(nn.Sequential(Body(), nn.Tanh(), nn.Linear(6, 3))).eval()


def submodule(model, backend):
    model[0].compile(backend=backend)
    return model


def wrapped_submodule(model, backend):
    model[0] = torch.compile(model[0], backend=backend)
    return model


def own_forward(model, backend):
    model[0].forward = torch.compile(model[0].forward, backend=backend)
    return model


def helper(model, backend):
    compiled = torch.compile(lambda x: torch.tanh(x), backend=backend)
    model[1] = Custom(lambda m, x: compiled(x))
    return model


def whole(model, backend):
    return torch.compile(model, backend=backend)


@pytest.mark.parametrize("change", [submodule, wrapped_submodule, own_forward, helper, whole])
def test_it_is_scored_exactly_and_stays_compiled(change):
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    model, x = plain(), torch.randn(6, 4)
    expected = oracle.norms(model, oracle.ones(x))
    model = change(model, backend)
    model(x)
    assert graphs
    for scheme in oracle.SCHEMES:
        for score in (score_pool, naive_score_pool):
            found = score(model, x.split(3), scheme=scheme, progress=False)
            assert_close_relative(found, expected.scores(scheme), 1e-5, scheme)
    gradient_sketch(model, [x], 4, progress=False)
    GradNormScorer(model).explain(x)
    before = len(graphs)
    torch.compile(lambda x: x.sin() + 1, backend=backend)(torch.randn(7))
    assert len(graphs) == before + 1  # the compiler works as before
