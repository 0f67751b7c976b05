"""A pool shared by ranks, of which there is one here: what it tells is what one process does."""

import inspect

import pytest
import torch
import torch.distributed as dist
from torch.utils.data import DataLoader, TensorDataset

from fastgradnorm import GradNormScorer, Options
from fastgradnorm._pool.loaders import made_anew
from fastgradnorm._pool.ranks import Ranks
from fastgradnorm._pool.shared_run import SharedRun
from fastgradnorm._pool.start import make_engine
from tests.support.cases import MLP, GroupNormCNN, perturb


@pytest.fixture
def one_rank():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def both(model, loader, **options):
    options = {"progress": False, **options}
    return [
        GradNormScorer(model, distributed=shared, **options).score(loader)
        for shared in (False, True)
    ]


@pytest.mark.slow
@pytest.mark.parametrize("subset", [None, 11, 0.5])
def test_scores_and_indices_of_many_batches(one_rank, subset):
    loader = DataLoader(TensorDataset(torch.randn(23, 10)), 4)
    alone, shared = both(MLP(), loader, subset=subset, seed=2)
    assert torch.equal(shared.values, alone.values)
    assert (shared.indices is None) == (subset is None)
    if subset is not None:
        assert torch.equal(shared.indices, alone.indices)
    assert shared.provenance["parameters"] == alone.provenance["parameters"]


@pytest.mark.slow
def test_pull_backs_of_all_batches(one_rank):
    model, x = perturb(GroupNormCNN(classes=12)), torch.randn(9, 2, 8, 8)
    alone, shared = both(model, list(x.split(4)), rtol=0.1)
    assert shared.provenance["pull_backs"] == alone.provenance["pull_backs"] > 0
    assert torch.equal(shared.standard_error, alone.standard_error)


@pytest.mark.slow
def test_a_checkpoint_is_of_a_rank_and_of_how_many_there_are(one_rank, path):
    """Shares of two ranks are no part of those of three."""
    model, x = MLP(), torch.randn(12, 10)
    options = {"checkpoint": path, "distributed": True, "progress": False}
    first = GradNormScorer(model, **options).score(list(x.split(4)))
    assert [file.name for file in path.parent.iterdir()] == [f"{path.name}.rank0of1"]
    again = GradNormScorer(model, **options).score(list(x.split(4)))
    assert torch.equal(again.values, first.values)
    made = SharedRun(Ranks(1, 3), model, [x], Options(checkpoint=path), make_engine)
    assert made._checkpoint().name == f"{path.name}.rank1of3"


def begin_worker(number):
    """What sets up a worker."""


def test_a_loader_made_anew_is_set_up_like_the_callers():
    """In all that `DataLoader` is made with, but for its samples, their order and its batches."""
    data = TensorDataset(torch.randn(8, 2))
    given = {
        "num_workers": 1, "collate_fn": list, "pin_memory": False, "timeout": 3.0,
        "worker_init_fn": begin_worker, "multiprocessing_context": "fork",
        "generator": torch.Generator(), "prefetch_factor": 5,
    }  # fmt: skip
    others = {"dataset", "batch_size", "shuffle", "sampler", "batch_sampler", "drop_last"}
    # Read once; deprecated; scores must be told in the order of what was drawn.
    others |= {"persistent_workers", "pin_memory_device", "in_order"}
    assert not {*inspect.signature(DataLoader).parameters} - {*given} - others
    made = made_anew(DataLoader(data, 2, in_order=False, **given), data, batch_size=4)
    assert made.in_order
    for name, value in given.items():
        found = getattr(made, name)
        assert found == value or name == "multiprocessing_context", name
    assert made.multiprocessing_context.get_start_method() == "fork"
