"""Sparse matrices that a model holds: the graph that all its samples share."""

import pytest
import torch

from fastgradnorm import score_pool
from tests.any_model.test_read_values import assert_fast_and_exact
from tests.support import oracle, sketched
from tests.support.asserts import assert_close_relative
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


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Sparse invariant checks")
@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.filterwarnings("ignore::fastgradnorm.SlowPathWarning")
@pytest.mark.parametrize("verify", [False, True])
def test_matrices_made_of_parameters_count(verify):
    torch.manual_seed(0)
    edges = torch.tensor([[0, 1, 2, 3, 0], [1, 2, 3, 0, 2]])

    def forward(m, x):
        matrix = torch.sparse_coo_tensor(edges, m.body.bias, (4, 4))
        return m.head(torch.stack([torch.sparse.mm(matrix, m.body(row)) for row in x]).sum(1))

    model = Custom(forward, body=linear(3, 5), head=linear(5, 3))
    batch = torch.randn(3, 4, 3), torch.arange(3)
    scores = score_pool(model, [batch[0]], verify=verify, progress=False)
    assert_close_relative(scores, oracle.scores(model, oracle.ones(batch[0])), 1e-5)
    found = sketched.found(model, [batch], 16, 0, verify=verify)
    exact, _ = sketched.expected(model, batch, 16, 0)
    assert (found - exact).norm() <= 1e-5 * exact.norm()
