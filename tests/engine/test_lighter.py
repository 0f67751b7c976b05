"""Traced passes with fewer operators: what is left out changes no bit."""

import pytest
import torch

from fastgradnorm._engine.traced import NotTraceableError, Traced


@pytest.mark.parametrize(
    ("run", "most"),
    [
        pytest.param(lambda x: x + torch.arange(4.0), 1, id="constants"),
        pytest.param(lambda x: torch.cat([x]) + x * 1 - x / 1 + x.pow(1), 3, id="neutral"),
        pytest.param(lambda x: x + (x > 0) * (x > 0), 3, id="twice"),
        pytest.param(lambda x: x.square()[:, None].sum(1).sqrt(), 2, id="sums of one number"),
        pytest.param(lambda x: torch.ones_like(x) * x + 2, 1, id="ones"),
    ],
)
def test_what_changes_nothing_is_left_out(run, most):
    traced = Traced(run, [torch.randn(3, 4)])
    for x in (torch.randn(3, 4), torch.tensor([[0.0, -0.0, float("inf"), float("nan")]] * 3)):
        assert torch.equal(traced([x]).view(torch.int32), run(x).view(torch.int32))
    assert len(traced) <= most


@pytest.mark.parametrize(
    "run",
    [
        pytest.param(lambda x: x[:, None].sum(1).neg(), id="the sign of zero"),
        pytest.param(lambda x: (x.square() * -1)[:, None].sum(1).neg(), id="below zero"),
        pytest.param(lambda x: (torch.ones(1, 4) * x[:1, :1]).neg(), id="of another shape"),
        pytest.param(lambda x: (torch.ones(4).double() * x).neg(), id="of another dtype"),
        pytest.param(lambda x: (torch.ones(3, 4) * x.T.clone().T).neg(), id="of another layout"),
        pytest.param(lambda x: torch.ones_like(x) / x, id="one over numbers"),
        pytest.param(lambda x: torch.ones(3, 4) / x + torch.zeros(3, 4) * x, id="of constants"),
        pytest.param(lambda x: x.square()[:, None].sum((1, 2)).neg(), id="sums of several numbers"),
        pytest.param(lambda x: x.abs()[:, None].sum((0, 1)).neg(), id="sums of other numbers"),
        pytest.param(lambda x: x.abs()[None].sum().neg(), id="a sum of all"),
        pytest.param(lambda x: x.square()[:, None].sum(1, dtype=torch.double), id="a wider sum"),
        pytest.param(lambda x: x.abs()[:, None].sum(1, dtype=torch.half), id="a narrower sum"),
        pytest.param(lambda x: x.T.abs()[:, None].sum(1), id="a sum of what lies otherwise"),
        pytest.param(lambda x: x.int().abs()[:, None].sum(1), id="a sum of whole numbers"),
        pytest.param(lambda x: x.abs().T[None].expand(1, 4, 3).sum(0), id="a sum of a transpose"),
        pytest.param(lambda x: torch.ones(4).mul_(x[0]) + torch.ones(4), id="written constants"),
        pytest.param(lambda x: (x + 1, (x + 1).mul_(3)), id="written one of two"),
        pytest.param(lambda x: (x + 1, (x + 1).view(-1)), id="returned twice"),
        pytest.param(lambda x: (torch.zeros(2), x.square()[:, None].sum(1)), id="returned"),
    ],
)
def test_what_does_change_something_stays(run):
    traced = Traced(run, [torch.randn(3, 4)])
    for x in (torch.randn(3, 4), torch.tensor([[0.0, -0.0, float("inf"), float("nan")]] * 3)):
        made, expected = traced([x]), run(x)
        for ours, theirs in zip(
            made if isinstance(made, tuple) else [made],
            expected if isinstance(expected, tuple) else [expected],
            strict=True,
        ):
            assert ours.stride() == theirs.stride() and ours.dtype == theirs.dtype
            assert torch.equal(ours.view(torch.int32), theirs.view(torch.int32))
        if isinstance(made, tuple):
            made[0].add_(7)  # is in no memory that the other shares
            assert torch.equal(made[1].view(torch.int32), expected[1].view(torch.int32))


def test_random_numbers_of_two_draws_are_two():
    with pytest.raises(NotTraceableError):
        Traced(lambda x: torch.rand(3) - torch.rand(3) + x, [torch.randn(3)])
