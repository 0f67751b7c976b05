"""How many samples and cotangents a chunk gets, from what each needs."""

import pytest
import torch
from torch import nn

from fastgradnorm._engine.chunks import Chunks
from fastgradnorm._engine.coverage import Coverage
from fastgradnorm._engine.plan import Plan, make_plan
from fastgradnorm._model.batches import as_batch
from fastgradnorm._model.subject import Subject
from fastgradnorm._options import Options

MIB = 1 << 20


def _plan(activations, transients):
    coverage = Coverage((), (), (), (), (), frozenset())
    sizes = activations * MIB, transients * MIB, 0, 0, 4
    return Plan(coverage, frozenset(), (), (10,), True, False, *sizes, None)


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


@pytest.mark.parametrize("allowed, samples", [(4000, 42), (2000, 35), (400, 11)])
def test_chunks_repay_what_each_pass_costs_within_a_quarter_of_the_memory(
    allowed, samples, monkeypatch
):
    """300 MiB for 50 operations, 300 for weights of 100, at 14 a sample."""
    monkeypatch.setattr(Plan, "fixed", property(lambda plan: (50, 100 * MIB)))
    chunks = Chunks(allowed * MIB, torch.device("cpu"))
    assert chunks.sizes(_plan(4, 1), 10_000, 10)[0] == samples


def test_operations_and_weights_are_counted():
    plan = _planned(None)
    assert plan.fixed == (3, 4 * (64 * 256 + 256 * 256 + 256 * 3))


def test_what_autocast_makes_of_weights_is_not_of_each_sample():
    assert _planned(torch.bfloat16).activation_bytes <= _planned(None).activation_bytes


def _planned(autocast):
    layers = nn.Linear(64, 256), nn.Tanh(), nn.Linear(256, 256), nn.Tanh(), nn.Linear(256, 3)
    subject = Subject(nn.Sequential(*layers).eval(), Options(autocast=autocast))
    return make_plan(subject, as_batch(torch.randn(2, 64), subject.device))


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
