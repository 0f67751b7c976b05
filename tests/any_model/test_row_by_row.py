"""Operations that vmap has no rule for and runs row by row: exact, and nothing is shown of it.

Warnings are errors here, as in many a user's tests.
"""

import threading
import warnings

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from fastgradnorm import gradient_sketch, score_pool
from tests.support import oracle
from tests.support.asserts import assert_close_relative
from tests.support.cases import Custom, linear

TOLD = "There is a performance drop because"


def householder():
    layer = parametrizations.orthogonal(nn.Linear(4, 3), orthogonal_map="householder")
    return nn.Sequential(layer, nn.Tanh(), nn.Linear(3, 3))


def custom(forward):
    return lambda: Custom(forward, a=linear(4, 4), head=linear(4, 3))


def experts(m, x):
    """As mixtures of experts multiply, here one: in float32, and in multiples of 16 bytes."""
    wide = nn.functional.pad(m.a.weight.float(), (0, 12, 0, 12))[None]
    rows = torch.tensor([x.shape[0]], dtype=torch.int32)
    made = nn.functional.grouped_mm(torch.cat([m.a(x)] * 4, 1).float(), wide, offs=rows)
    return m.head(made[:, :4].to(x.dtype))


def counted(m, x):
    return m.head(m.a(x) * torch.stack([torch.histc(row, 4) for row in x]))


def reflected(m, x):
    parts = m.a.weight.detach(), m.a.bias.detach()
    return m.head(torch.ormqr(*parts, m.a(x).T).T)


WAYS = {
    "householder": householder,
    "reflections": custom(
        lambda m, x: m.head(x @ torch.linalg.householder_product(m.a.weight, m.a.bias))
    ),
    "fixed reflections": custom(reflected),
    "histograms": custom(counted),
    "probit": custom(lambda m, x: m.head(torch.special.log_ndtr(m.a(x)))),
}
if hasattr(nn.functional, "grouped_mm"):
    WAYS["experts"] = custom(experts)


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_exact_and_nothing_is_shown(way):
    torch.manual_seed(0)
    net, x = WAYS[way]().double().eval(), torch.randn(5, 4, dtype=torch.float64)
    before = list(warnings.filters)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scores = score_pool(net, [x], scheme=oracle.SCHEMES, progress=False)
        gradient_sketch(net, [x], dim=16, progress=False)
    table = oracle.norms(net, oracle.ones(x))
    for scheme in oracle.SCHEMES:
        limit = 1e-5 if way == "experts" else 1e-9
        assert_close_relative(scores[scheme], table.scores(scheme, "global"), limit, scheme)
    assert list(warnings.filters) == before


def test_filters_are_as_they_were():
    """Those of the caller with the same words, and those that a model changes meanwhile."""

    def forward(m, x):
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            warnings.warn("seen", stacklevel=1)
        assert len(found) == 1
        return m.head(torch.special.log_ndtr(m.a(x)))

    net = Custom(forward, a=linear(4, 4), head=linear(4, 3))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", TOLD, UserWarning)
        before = list(warnings.filters)
        score_pool(net, [torch.randn(3, 4)], progress=False)
        assert list(warnings.filters) == before
        with pytest.raises(ValueError, match="must run on one sample"):
            score_pool(Custom(lambda m, x: m.a(x) @ x, a=nn.Linear(4, 4)), [torch.ones(2, 4)])
        assert list(warnings.filters) == before


def test_others_are_shown_as_often_as_ever():
    def forward(m, x):
        warnings.warn("of the model's own", UserWarning, stacklevel=1)
        return m.head(m.a(x))

    net = Custom(forward, a=linear(4, 4), head=linear(4, 3))
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("default")  # once a place
        for _ in range(2):
            score_pool(net, [torch.randn(3, 4), torch.randn(2, 4)], progress=False)
    assert [str(one.message) for one in found] == ["of the model's own"]


def test_a_thread_that_goes_on_with_other_filters():
    """Filters that were set when the pass began need not be those when it ends."""
    net = WAYS["probit"]().eval()
    x, ended = torch.randn(3, 4), threading.Event()

    def batches():
        yield x
        ended.wait(5)
        yield x

    found = []
    thread = threading.Thread(
        target=lambda: found.append(score_pool(net, batches(), progress=False))
    )
    with warnings.catch_warnings():
        thread.start()
        warnings.simplefilter("ignore", DeprecationWarning)
    ended.set()
    thread.join()
    assert len(found[0]) == 6
    assert not any("fastgradnorm)" in str(item) for item in warnings.filters)
