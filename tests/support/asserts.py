"""Comparisons whose message says how far off, and where."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from fastgradnorm import score_pool
from tests.support import oracle, recorder


def relative_errors(actual: Tensor, expected: Tensor) -> Tensor:
    """`|actual - expected| / |expected|` in float64; 0 where both are 0, NaN counts as infinite."""
    actual, expected = actual.detach().cpu().double(), expected.detach().cpu().double()
    difference = (actual - expected).abs()
    errors = torch.where(difference == 0, 0.0, difference / expected.abs())
    return errors.nan_to_num(nan=torch.inf, posinf=torch.inf)


def assert_close_relative(actual: Tensor, expected: Tensor, rtol: float, what: str = "") -> None:
    """Every element is within `rtol` of its expected one, relative to it: no absolute slack."""
    assert actual.shape == expected.shape, (
        f"{what}: shape {[*actual.shape]}, not {[*expected.shape]}"
    )
    if actual.numel() == 0:
        return
    errors = relative_errors(actual, expected).flatten()
    worst = int(errors.argmax())
    if errors[worst] <= rtol:
        return
    bad = (errors > rtol).nonzero().flatten().tolist()
    more = f" and {len(bad) - 8} more" if len(bad) > 8 else ""
    raise AssertionError(
        f"{what}: largest relative error {errors[worst]:.3g} > {rtol:.3g} at index {worst}: "
        f"{actual.flatten()[worst].item():.9g}, not {expected.flatten()[worst].item():.9g}; "
        f"{len(bad)} of {len(errors)} are off: {bad[:8]}{more}"
    )


def assert_exact(
    model: nn.Module, inputs: Tensor, only: Callable[[str], bool] = lambda name: True
) -> oracle.Norms:
    """Every scheme and reduction agrees with the referee to 1e-5, given the float32 logits.

    A plain call, verified, returns the same scores: one, for reductions are of the same norms.

    Args:
        only: Which parameters count, by name.
    """
    table = None
    for reduction in oracle.REDUCTIONS:
        options = {
            "scheme": oracle.SCHEMES,
            "reduction": reduction,
            "params": lambda name, parameter: only(name),
            "progress": False,
        }
        batches = recorder.batches(inputs, 3)
        actual = score_pool(model, batches, forward=recorder.forward, verify=False, **options)
        if table is None:
            table = oracle.norms(model, oracle.ones(inputs), logits=recorder.logits())
            assert torch.allclose(table.logits, recorder.logits().double(), 1e-4, 1e-4)
        for scheme in oracle.SCHEMES:
            what, expected = f"{scheme} {reduction}", table.scores(scheme, reduction, only)
            assert_close_relative(actual[scheme], expected, 1e-5, what)
    again = score_pool(model, inputs.split(3), **options)
    for scheme in oracle.SCHEMES:
        assert_close_relative(again[scheme], actual[scheme], 1e-6, f"{scheme}, plain call")
    return table
