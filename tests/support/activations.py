"""A way to change activations, between a layer and the head: exact, and of all samples at once."""

import torch

from fastgradnorm import score_pool
from tests.support import oracle
from tests.support.asserts import assert_close_relative
from tests.support.cases import Custom, linear


def assert_exact_and_at_once(way):
    """Scores of a model with `way` in its middle, `[N, 24]` to `[N, D]`; slow paths warn."""
    torch.manual_seed(0)
    body, x = linear(5, 24).double(), torch.randn(5, 5).double()
    head = linear(way(torch.tanh(body(x))).shape[1], 3).double()
    model = Custom(lambda m, x: m.head(way(torch.tanh(m.body(x)))), body=body, head=head)
    table = oracle.norms(model, oracle.ones(x))
    for options in ({}, {"verify": False}, {"verify": False, "params": "last_layer"}):
        keep = (lambda n: n[:4] == "head") if "params" in options else (lambda n: True)
        scores = score_pool(model, x.split(3), progress=False, **options)
        assert_close_relative(scores, table.scores("expected", keep=keep), 1e-9, str(options))
