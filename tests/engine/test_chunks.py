"""How many samples and cotangents a chunk gets, from what each needs."""

import pytest
import torch

from fastgradnorm._engine.chunks import Chunks
from fastgradnorm._engine.coverage import Coverage
from fastgradnorm._engine.plan import Plan

MIB = 1 << 20


def _plan(activations, transients):
    coverage = Coverage(taps=(), joints=(), leftovers=(), unused=(), columns=())
    return Plan(
        coverage, frozenset(), (), (10,), True, activations * MIB, transients * MIB, 0, 0, 4
    )


@pytest.mark.parametrize(
    "activations, transients, cotangents, samples",
    [
        (4, 1, 10, 11),  # 160 MiB, which pays, at 14 a sample
        (6, 8, 10, 2),  # up to 240 MiB while there are fewer than 64 pull-backs, at 86 a sample
        (4, 1, 1, 48),  # the same: 64 of them would take 320
        (1, 0, 1, 160),
        (300, 30, 10, 1),
    ],
)
def test_samples_by_working_memory(activations, transients, cotangents, samples):
    chunks = Chunks(None, torch.device("cpu"))
    found = chunks.sizes(_plan(activations, transients), 10_000, cotangents)
    assert found == (samples, min(cotangents, 240 // max(1, transients)))


def test_a_forward_pass_alone_is_bounded_by_free_memory_only():
    plan = _plan(4, 1)
    chunks = Chunks(plan.bytes(500, 0, 0), torch.device("cpu"))
    assert chunks.sizes(plan, 10_000, 0) == (500, 0)
    assert chunks.sizes(plan, 100, 0) == (100, 0)


def test_less_than_a_sample():
    chunks = Chunks(4 * MIB, torch.device("cpu"))
    with pytest.raises(ValueError, match=r"`max_memory` must be at least .* for one sample"):
        chunks.sizes(_plan(4, 1), 10, 10)
