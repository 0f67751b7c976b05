"""Operations that write to a tensor they are given, `out=`, as without a graph they may."""

import pytest
import torch
from torch import nn

from fastgradnorm import score_pool
from tests.support import oracle
from tests.support.asserts import assert_close_relative

ROWS = torch.tensor([0, 1, 1, 3, 4])
CALLS = {
    "index_select": lambda t, out: torch.index_select(t, 1, ROWS, out=out),
    "index_add": lambda t, out: torch.index_add(t, 1, ROWS, t, out=out),
    "cumprod": lambda t, out: torch.cumprod(t, 1, out=out),
    "cummax": lambda t, out: torch.cummax(t, 1, out=(out, torch.empty_like(out).long()))[0],
    "quantile": lambda t, out: torch.quantile(t, 0.3, 1, keepdim=True, out=out[:, :1].clone()),
    "renorm": lambda t, out: torch.renorm(t.mT, 2, 2, 0.9, out=out.mT.clone()).mT,
    "log_ndtr": lambda t, out: torch.special.log_ndtr(t, out=out),
    "softplus": lambda t, out: nn.functional.softplus(t, out=out),
}


class _Model(nn.Module):
    def __init__(self, call):
        super().__init__()
        self.call, self.layer, self.head = call, nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x):
        h = torch.tanh(self.layer(x))
        with torch.no_grad():
            rows = [self.call(one[None], torch.empty_like(one[None])) for one in h]
        return self.head((torch.cat(rows) * h + h).mean(1))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:This model cannot run under vmap")
@pytest.mark.parametrize("name", CALLS)
def test_as_the_loop(name):
    torch.manual_seed(0)
    model, x = _Model(CALLS[name]).eval(), torch.randn(3, 5, 4)
    exact = oracle.scores(model, oracle.ones(x))
    assert_close_relative(score_pool(model, [x], progress=False), exact, 1e-5, name)
