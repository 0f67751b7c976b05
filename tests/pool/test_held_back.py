"""Samples that wait for others of their shape: how long, in which order, and in resumed runs."""

import pytest
import torch
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, Dataset, IterableDataset, TensorDataset

from fastgradnorm import GradNormScorer, score_pool
from fastgradnorm._engine import chunks
from fastgradnorm._pool import gather
from tests.support import oracle
from tests.support.cases import MLP
from tests.support.gathered import inputs, of
from tests.support.stopping import Stop, assert_same, scorer, stopped_after


@pytest.fixture(autouse=True)
def few_at_a_time(monkeypatch):
    """Chunks that end in all batches, and in none."""
    monkeypatch.setattr(chunks, "_GATHERED", 11)


class Texts(Dataset):
    """Of several lengths."""

    def __init__(self, count=40):
        draw = torch.Generator().manual_seed(1)
        lengths = torch.randint(3, 9, (count,), generator=draw).tolist()
        self.rows = [torch.randn(2, n, generator=draw) for n in lengths]

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, i):
        return self.rows[i]


def convolved():
    torch.manual_seed(0)
    layers = [nn.Conv1d(2, 4, 3), nn.Tanh(), nn.AdaptiveAvgPool1d(1), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(4, 3)).double()


@pytest.mark.slow
def test_only_equal_shapes_share_a_chunk(chunked):
    data, model = Texts(), convolved()
    rows = [row[None].double() for row in data.rows]
    wanted = oracle.scores(model, rows)
    scores = score_pool(model, rows, progress=False)
    torch.testing.assert_close(scores, wanted.to(scores), rtol=1e-9, atol=0)
    assert len(chunked) == len({row.shape for row in rows})
    parts = list(GradNormScorer(model, progress=False).stream(rows))
    assert [*map(len, parts)] == [1] * 40
    assert torch.equal(torch.cat(parts), scores)


@pytest.mark.slow
@pytest.mark.parametrize("window", [7, 20])
def test_ragged_samples_wait_no_longer_than_a_window(window, chunked, monkeypatch, path):
    model, rows = convolved().float(), [row[None] for row in Texts().rows]
    monkeypatch.setattr(chunks, "_GATHERED", window)
    monkeypatch.setattr(gather, "_CHUNKS", 1)
    monkeypatch.setattr(gather, "_LEAST", 1)
    expected = scorer(model, None).score(rows)
    for stop in (3, 31):
        with pytest.raises(Stop):
            scorer(model, path).score(stopped_after(rows, stop))
    assert_same(scorer(model, path).score(rows), expected)
    held = []
    for i, _ in enumerate(GradNormScorer(model, progress=False).stream(_counted(rows, held))):
        assert len(held) - i <= window


def _counted(rows, held):
    for row in rows:
        held.append(row)
        yield row


@pytest.mark.slow
@pytest.mark.parametrize("latency", [0, 8])
@pytest.mark.parametrize("size", [1, 5, 30])
def test_latency_bounds_what_is_held_back(latency, size):
    model, x = MLP(), inputs()
    whole = score_pool(model, x.split(size), progress=False)
    read, given = [], 0
    stream = GradNormScorer(model, latency=latency, progress=False).stream(
        _counted(x.split(size), read)
    )
    parts = []
    for part in stream:
        given += len(part)
        parts.append(part)
        # When a batch was read, all but so many are given before the next one is.
        assert sum(map(len, read)) - given <= max(latency, 0) + size * (len(parts) < len(read))
    assert [*map(len, parts)] == [*map(len, x.split(size))]
    torch.testing.assert_close(torch.cat(parts), whole, rtol=1e-5, atol=0)


def test_latency_is_checked():
    with pytest.raises(ValueError, match="`latency` must be"):
        GradNormScorer(MLP(), latency=-1)
    with pytest.raises(TypeError, match="`latency` must be"):
        GradNormScorer(MLP(), latency="long")


MADE = {
    "list": lambda x, n: x.split(n),
    "loader": of,
    "iterable": lambda x, n: DataLoader(Streamed(x), n),
    "own batches": lambda x, n: DataLoader(
        TensorDataset(x), batch_sampler=BatchSampler(range(len(x)), n, False)
    ),
}


class Streamed(IterableDataset):
    def __init__(self, x):
        self.x = x

    def __iter__(self):
        return iter(self.x)


@pytest.mark.slow
@pytest.mark.parametrize("made", MADE)
@pytest.mark.parametrize("extra", [{}, {"params": "last_layer"}, {"latency": 8}])
def test_a_resumed_run_may_have_another_batch_size(made, extra, path):
    model, x = MLP(), inputs()
    expected = scorer(model, None, **extra).score(x.split(5))
    for size, stop in ((5, 4), (1, 30), (20, 2), (3, 17)):
        streamed = scorer(model, path, **extra).stream(MADE[made](x, size))
        count = 0
        for part in streamed:
            count += len(part["entropy"])
            if count > stop * size:
                break
        streamed.close()
    found = scorer(model, path, **extra).score(MADE[made](x, 7))
    if not extra.get("latency"):
        assert_same(found, expected)
    torch.testing.assert_close(
        found["entropy"].values, expected["entropy"].values, rtol=1e-5, atol=0
    )


@pytest.mark.slow
@pytest.mark.parametrize("made", MADE)
def test_a_resumed_stream_gives_the_batches_of_its_loader(made, path):
    model, x = MLP(), inputs()
    expected = scorer(model, None).score(x.split(5))["entropy"].values
    with pytest.raises(Stop):
        scorer(model, path).score(stopped_after(x.split(10), 4)) if made == "list" else _stopped(
            scorer(model, path), MADE[made](x, 10)
        )
    parts = list(scorer(model, path).stream(MADE[made](x, 4)))
    assert [len(part["entropy"]) for part in parts] == [4] * 14 + [2]
    assert torch.equal(torch.cat([part["entropy"] for part in parts]), expected)


def _stopped(made, loader):
    for number, _ in enumerate(made.stream(loader)):
        if number == 3:
            raise Stop
