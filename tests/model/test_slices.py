"""Several slices of one parameter, each told from the others by where it begins and ends."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fastgradnorm import score_pool
from tests.support import oracle
from tests.support.asserts import assert_close_relative
from tests.support.cases import Custom, linear

X = torch.randn(6, 6, generator=torch.Generator().manual_seed(0))


def both(first, second):
    """Two layers of slices of `packed` `[8, 6]`, and a head."""
    return lambda m, x: m.head(
        torch.tanh(F.linear(x, first(m.packed)) + 2 * F.linear(x, second(m.packed)))
    )


SLICES = {
    "rows": both(lambda p: p[:4], lambda p: p[4:]),
    "rows that overlap": both(lambda p: p[:4], lambda p: p[2:6]),
    "every other row": both(lambda p: p[::2], lambda p: p[1::2]),
    "narrow": both(lambda p: p.narrow(0, 0, 4), lambda p: p.narrow(0, 4, 4)),
    "narrow by name": both(
        lambda p: p.narrow(dim=0, start=0, length=4), lambda p: p.narrow(dim=0, start=3, length=4)
    ),
    "select": both(lambda p: p.view(2, 4, 6).select(0, 0), lambda p: p.view(2, 4, 6).select(0, 1)),
    "numbers": both(lambda p: p.view(2, 4, 6)[0], lambda p: p.view(2, 4, 6)[1]),
    "from the end": both(lambda p: p.unflatten(0, (2, 4))[-1], lambda p: p.unflatten(0, (2, 4))[0]),
    "chunk": both(lambda p: p.chunk(2)[0], lambda p: p.chunk(2)[1]),
    "split": both(lambda p: p.split([4, 4])[0], lambda p: p.split([3, 4, 1])[1]),
    "slices of slices": both(lambda p: p[1:][:4], lambda p: p[1:][3:]),
    "the same twice": both(lambda p: p[:4], lambda p: p[:4]),
    "one whole": both(lambda p: p[:4], lambda p: p.reshape(4, 2, 6)[:, 0]),
    "columns": lambda m, x: m.head(torch.tanh(x[:, :4] @ m.packed[:4, :4] + x @ m.packed[2:, 2:])),
}


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["expected", "entropy"])
@pytest.mark.parametrize("name", SLICES)
def test_each_counts_as_what_it_is(name, scheme):
    torch.manual_seed(0)
    model = Custom(SLICES[name], head=linear(4, 3)).eval()
    model.packed = nn.Parameter(torch.randn(8, 6))
    exact = oracle.scores(model, oracle.ones(X), scheme)
    for verify in (False, True):
        found = score_pool(model, [X], scheme=scheme, verify=verify, progress=False)
        assert_close_relative(found, exact, 1e-5, name)
