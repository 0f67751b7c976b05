"""How many samples and cotangents a chunk gets, from what each needs."""

import pytest
import torch

from fastgradnorm._engine.chunks import Chunks
from fastgradnorm._engine.coverage import Coverage
from fastgradnorm._engine.plan import Plan
from fastgradnorm._model.batches import as_batch

MIB = 1 << 20


def _plan(activations, transients):
    coverage = Coverage((), (), (), (), (), frozenset())
    return Plan(
        coverage, frozenset(), (), (10,), True, activations * MIB, transients * MIB, 0, 0, 4, None
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


GIB = 1 << 30


@pytest.fixture
def gpu(monkeypatch):
    """A device with 75 GiB free."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (75 * GIB, 80 * GIB))
    for name in ("memory_reserved", "memory_allocated"):
        monkeypatch.setattr(torch.cuda, name, lambda device: 0)
    return torch.device("cuda")


@pytest.mark.parametrize(
    "activations, transients, cotangents, samples",
    [
        (5, 1, 10, 820),  # a small image: enough to keep the device busy
        (5, 1, 1, 4095),  # 8192 cotangents would take more than 40 % of the memory
        (60, 10, 10, 153),  # a ViT: 40 % of the memory, with a margin
        (900, 40, 2, 25),
        (0, 0, 10, 21_474_836),  # an MLP: as many as there are
    ],
)
def test_on_a_gpu_there_is_enough_to_do(activations, transients, cotangents, samples, gpu):
    chunks = Chunks(None, gpu)
    found, _ = chunks.sizes(_plan(activations, transients), 1 << 30, cotangents)
    assert found == samples
    assert chunks.sizes(_plan(activations, transients), 64, cotangents)[0] == min(64, samples)


def test_what_is_asked_for_bounds_it_on_a_gpu_too(gpu):
    plan = _plan(5, 1)
    assert Chunks(plan.bytes(100, 10, 10), gpu).sizes(plan, 10_000, 10) == (100, 10)
    whole, half = (Chunks(share, gpu).limits.bytes for share in (1.0, 0.5))
    assert (whole, half) == (75 * GIB, 75 * GIB // 2)


def test_a_resumed_run_on_a_gpu_cuts_as_before(gpu, monkeypatch):
    before = Chunks(None, gpu)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (10 * GIB, 80 * GIB))
    after = Chunks(None, gpu)
    plan = _plan(60, 10)
    assert after.sizes(plan, 10_000, 10) != before.sizes(plan, 10_000, 10)
    after.resume(before.limits)
    assert after.sizes(plan, 10_000, 10) == before.sizes(plan, 10_000, 10)


def test_a_forward_pass_alone_is_bounded_by_free_memory_only():
    plan = _plan(4, 1)
    chunks = Chunks(plan.bytes(500, 0, 0), torch.device("cpu"))
    assert chunks.sizes(plan, 10_000, 0) == (500, 0)
    assert chunks.sizes(plan, 100, 0) == (100, 0)


def test_less_than_a_sample():
    chunks = Chunks(4 * MIB, torch.device("cpu"))
    with pytest.raises(ValueError, match=r"`max_memory` must be at least .* for one sample"):
        chunks.sizes(_plan(4, 1), 10, 10)


@pytest.mark.parametrize("size", [1, 7, 41, 64, 100, 128, 300])
@pytest.mark.parametrize("samples", [1, 2, 43, 100, 257])
def test_each_sample_is_in_one_chunk_whatever_its_size(size, samples):
    plan = _plan(1, 0)
    chunks = Chunks(plan.bytes(size, 1, 1), torch.device("cpu"))
    batch = as_batch(torch.arange(samples)[:, None], torch.device("cpu"))
    parts = chunks.run(lambda chunk: chunk.leaves[0][:, 0], batch, plan, 1)
    assert torch.equal(torch.cat(parts), torch.arange(samples))
    assert all(len(part) <= size for part in parts)
    assert len(parts) >= -(-samples // size)
