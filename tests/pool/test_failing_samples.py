"""A sample of the caller's that cannot be loaded is told by its index, with the error it raised."""

import pytest
import torch
from torch import nn
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    SequentialSampler,
    Subset,
)

from fastgradnorm import GradNormScorer, acquire, score_pool
from fastgradnorm.active import ActiveLearner, Campaign

MODEL = nn.Linear(4, 3).eval()
X = torch.randn(40, 4, generator=torch.Generator().manual_seed(0))
QUIET = {"progress": False}


class TruncatedError(OSError):
    """An error of the caller's own."""


class Files(Dataset):
    def __len__(self):
        return len(X)

    def __getitem__(self, i):
        if i == 23:
            raise TruncatedError("Truncated File Read")
        return X[i]


class FilesAtOnce(Files):
    def __getitems__(self, keys):
        return [self[key] for key in keys]


class Stream(IterableDataset):
    def __iter__(self):
        return (Files()[i] for i in range(len(X)))


def notes(call):
    with pytest.raises(OSError, match="Truncated File Read") as raised:
        call()
    assert type(raised.value) is TruncatedError
    return raised.value.__notes__


def scored(pool, **options):
    return notes(lambda: score_pool(MODEL, pool, **QUIET, **options))


def loading(what, pool="loader"):
    return [f"Loading `{pool}` failed {what}."]


@pytest.mark.parametrize("batch_size", [1, 7, 40])
@pytest.mark.parametrize("shuffle", [False, True])
def test_of_a_loader(batch_size, shuffle):
    loader = DataLoader(Files(), batch_size, shuffle=shuffle)
    found = notes(lambda: GradNormScorer(MODEL, **QUIET).score(loader))
    assert found == loading("at sample 23 of the dataset")


@pytest.mark.parametrize("make", [Files, FilesAtOnce])
def test_of_a_dataset(make):
    found = notes(lambda: acquire(MODEL, make(), 3, batch_size=4, **QUIET))
    # Of a dataset that is asked for several at once it is known only of which.
    one = "at sample 23 of the dataset"
    several = "at one of samples 20, 21, 22, 23 of the dataset"
    assert found == loading(one if make is Files else several, "pool")


def test_of_what_is_labelled():
    found = notes(lambda: acquire(MODEL, [X], 3, labelled=DataLoader(Files(), 8), **QUIET))
    assert found == loading("at sample 23 of the dataset", "labelled")


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("options", [{}, {"subset": 1.0}])
def test_of_a_subset(nested, options):
    part = Subset(Files(), range(10, 40))
    part = Subset(part, [*range(5, 30)]) if nested else part
    loader = DataLoader(part, 6)
    found = notes(lambda: GradNormScorer(MODEL, **QUIET, **options).score(loader))
    at = 8 if nested else 13
    assert found == loading(f"at sample {at} of the dataset, sample 23 of what it is a subset of")


@pytest.mark.slow
@pytest.mark.parametrize("draws", [None, [*range(39, -1, -1)]])
def test_of_a_part_that_is_drawn(draws):
    loader, told = DataLoader(Files(), 6, sampler=draws), 0
    for seed in range(6):
        scorer = GradNormScorer(MODEL, subset=30, seed=seed, **QUIET)
        try:
            scorer.score(loader)
        except OSError as error:
            told += 1
            assert error.__notes__ == loading("at sample 23 of the dataset")
    assert told


@pytest.mark.slow
def test_where_a_run_goes_on(tmp_path):
    class Stopped(Files):
        def __getitem__(self, i):
            if i == 15:
                raise KeyboardInterrupt
            return X[i]

    with pytest.raises(KeyboardInterrupt):
        score_pool(MODEL, DataLoader(Stopped(), 4), **QUIET, checkpoint=tmp_path / "c")
    found = scored(DataLoader(Files(), 4), checkpoint=tmp_path / "c")
    assert found == loading("at sample 23 of the dataset")


@pytest.mark.slow
def test_of_workers():
    loader = DataLoader(Files(), 4, num_workers=2)
    with pytest.raises(OSError, match="Truncated File Read") as raised:
        score_pool(MODEL, loader, **QUIET)
    assert type(raised.value) is TruncatedError
    assert raised.value.__notes__ == loading("at one of samples 20, 21, 22, 23 of the dataset")
    many = DataLoader(Files(), 20, num_workers=1)
    with pytest.raises(OSError, match="Truncated File Read") as raised:
        score_pool(MODEL, many, **QUIET)
    told = "at one of samples 20, 21, 22, 23, 24, 25, 26, 27, … of the dataset"
    assert raised.value.__notes__ == loading(told)


def test_of_whole_batches():
    class Batches(Files):
        def __getitem__(self, keys):
            return torch.stack([Files()[key] for key in keys])

    draws = BatchSampler(SequentialSampler(Files()), 5, drop_last=False)
    loader = DataLoader(Batches(), batch_size=None, sampler=draws)
    assert scored(loader) == loading("at one of samples 20, 21, 22, 23, 24 of the dataset")


def test_of_what_has_no_indices():
    assert scored(DataLoader(Stream(), 5)) == loading("after 4 batches")
    assert scored(Files()[i][None] for i in range(40)) == loading("after 23 batches")


def test_of_a_collation():
    def collate(samples):
        if 23 in samples:
            raise TruncatedError("Truncated File Read")
        return X[samples]

    found = scored(DataLoader(range(40), 4, collate_fn=collate))
    assert found == loading("at one of samples 20, 21, 22, 23 of the dataset")


def test_of_a_campaign_after_some_were_skipped(tmp_path):
    class Whole(Files):
        def __getitem__(self, i):
            return X[i]

    keys = [f"photo {i}" for i in range(40)]
    made = Campaign(tmp_path, Whole(), keys)
    batch = made.ask(40, MODEL, **QUIET)
    made.tell(batch, dict.fromkeys(keys[:3]))
    made.release(batch)
    found = notes(lambda: Campaign(tmp_path, Files(), keys).ask(3, MODEL, **QUIET))
    told = "at sample 20 of the dataset, sample 23 of what it is a subset of"
    assert found == loading(told, "pool")


@pytest.mark.parametrize("strategy", ["margin", "expected/last_layer/top", "herding"])
def test_of_a_learners_pool(strategy):
    class Task:
        name = "files"

        def pool(self):
            return Files()

        def make_model(self, seed):
            return nn.Linear(4, 3)

        def train(self, model, labelled, seed):
            pass

        def evaluate(self, model):
            return {}

    settings = {"start": [0, 1, 2], "budget": 2, "cycles": 1}
    learner = ActiveLearner(Task(), strategy, **settings, progress=False)
    told = "Loading `task.pool()` failed at its sample 23."
    assert notes(learner.run)[0] == told
