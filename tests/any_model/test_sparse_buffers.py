"""Sparse matrices that a model holds: the graph that all its samples share."""

import pytest
import torch

from tests.any_model.test_read_values import assert_fast_and_exact
from tests.support import oracle
from tests.support.cases import Custom, linear

LAYOUTS = {
    "coo": lambda a: a.to_sparse(),
    "csr": lambda a: a.to_sparse_csr(),
    "csc": lambda a: a.to_sparse_csc(),
}
WAYS = {
    "times features": lambda m, x: (m.graph @ m.body(x).T).T,
    "sparse.mm": lambda m, x: torch.sparse.mm(m.graph, m.body(x).T).T,
    "node by node": lambda m, x: torch.stack([torch.mv(m.graph, row) for row in m.body(x)]),
    "from the right": lambda m, x: m.body(x) @ m.graph,
    "times weights": lambda m, x: ((m.graph @ m.body.weight) @ x.T).T,
    "made dense": lambda m, x: m.body(x) @ m.graph.to_dense(),
    "not used": lambda m, x: m.body(x),
}


def model(way, layout="coo"):
    torch.manual_seed(0)
    graph = LAYOUTS[layout](torch.eye(4) + 0.3 * torch.ones(4, 4).tril())
    made = Custom(lambda m, x: m.head(WAYS[way](m, x).tanh()), body=linear(4, 4), head=linear(4, 3))
    made.register_buffer("graph", graph)
    return made


@pytest.mark.filterwarnings("ignore:Sparse (CSR|CSC|invariant)")
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("way", WAYS)
def test_exact_and_fast(way, layout):
    made, x = model(way, layout), torch.randn(3, 4)
    before = made.graph.to_dense().clone()
    # PyTorch copies no compressed matrices, as the referee does.
    assert_fast_and_exact(made, oracle.scores(model(way), oracle.ones(x)), x)
    assert torch.equal(made.graph.to_dense(), before)


def test_one_that_the_model_writes_to_stays_the_callers():
    made, x = model("not used"), torch.randn(3, 4)

    def forward(m, x):
        m.graph.mul_(2)
        return m.head(m.body(x).tanh())

    made.function = forward
    values = made.graph.to_dense().clone()
    assert_fast_and_exact(made, oracle.scores(made, oracle.ones(x)), x, verify=False)
    assert torch.equal(made.graph.to_dense(), values)
