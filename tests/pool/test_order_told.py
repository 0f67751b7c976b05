"""Scores in another order than the dataset's, left out, repeated or untraceable: told."""

import re
import warnings

import pytest
import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
)
from tqdm import tqdm

from fastgradnorm import GradNormScorer, gradient_sketch, naive_score_pool, score_pool
from tests.support.drawing import (
    SIZE,
    WAYS,
    Every,
    N,
    Rows,
    assert_traced,
    batches,
    indices_of,
    leaving_out,
    of,
    scored,
    told,
)

BARE = {
    "score_pool": lambda model, loader: score_pool(model, loader, progress=False),
    "stream": lambda model, loader: list(GradNormScorer(model, progress=False).stream(loader)),
    "naive_score_pool": naive_score_pool,
    "gradient_sketch": lambda model, loader: gradient_sketch(model, loader, 8, progress=False),
}


class TestBareScores:
    @pytest.mark.slow
    @pytest.mark.parametrize("function", BARE)
    @pytest.mark.parametrize("way", [
        "shuffle", "subset at random", "weighted", "own", "share", "batches", "own batches",
        "no batches", "Subset", "shuffle, workers",
    ])  # fmt: skip
    def test_of_another_order_are_warned_of_once(self, drawn, way, function):
        model, inputs, _ = drawn
        loader = WAYS[way][0](Rows(inputs))
        _, messages = told(BARE[function], model, loader)
        order = [message for message in messages if "another order than the dataset's" in message]
        assert len(order) == 1, messages
        assert f"`{function}`" in order[0]
        assert "shuffle=False" in order[0]

    @pytest.mark.slow
    @pytest.mark.parametrize("function", BARE)
    @pytest.mark.parametrize("make", [
        lambda d: of(d), lambda d: of(d, num_workers=1), lambda d: of(d, SequentialSampler(d)),
        lambda d: [d.inputs[:9], d.inputs[9:]], lambda d: iter([d.inputs]),
    ])  # fmt: skip
    def test_in_order_are_not(self, drawn, function, make):
        model, inputs, _ = drawn
        assert told(BARE[function], model, make(Rows(inputs)))[1] == []

    def test_are_warned_of_at_once(self, drawn):
        model, inputs, _ = drawn
        stream = GradNormScorer(model, progress=False).stream(of(Rows(inputs), Every(1)))
        with pytest.warns(UserWarning, match=r"number 0 is of dataset\[22\]"):
            next(stream)


def images_alone(items):
    return torch.stack([x for x, i in items if i not in (3, 4)])


class Named(Rows):
    def __getitem__(self, i):
        return super().__getitem__(int(i[1:]) if isinstance(i, str) else i)


class Twice(DataLoader):
    def __iter__(self):
        for batch in super().__iter__():
            yield from (batch, batch)


class Stream(IterableDataset):
    """A stream that says how long it is, or does not; shared out between workers, or not."""

    def __init__(self, inputs, length=None, split=False):
        self.inputs, self.split = inputs, split
        if length is not None:
            self.length = length

    def __len__(self):
        if hasattr(self, "length"):
            return self.length
        raise TypeError("no length")

    def __iter__(self):
        worker = torch.utils.data.get_worker_info()
        share = slice(worker.id, None, worker.num_workers) if self.split and worker else slice(None)
        return iter(self.inputs[share])


class TestWhatCannotBeTraced:
    @pytest.mark.slow
    @pytest.mark.parametrize("function", [
        scored, lambda *a: told(BARE["score_pool"], *a), lambda *a: told(naive_score_pool, *a),
    ])  # fmt: skip
    @pytest.mark.parametrize("make, why", [
        (lambda d: of(d, collate_fn=leaving_out), "made a batch of 3 samples from 4"),
        (lambda d: of(d, collate_fn=images_alone), "made a batch of 3 samples from 4"),
        (lambda d: of(d, collate_fn=leaving_out, num_workers=2), "3 samples from 4"),
        (lambda d: of(Named(d.inputs), [f"n{i}" for i in range(N)]), "which are no indices"),
        (lambda d: DataLoader([d.inputs[:3], d.inputs[3:]], batch_size=None, sampler=[1, 0]),
         "whole batches, which it draws in an order of its own"),
    ])  # fmt: skip
    def test_batches_that_do_not_match_what_was_drawn(self, drawn, function, make, why):
        model, inputs, _ = drawn
        result, messages = function(model, make(Rows(inputs)))
        assert indices_of(result) is None
        assert any(why in message and "cannot be traced" in message for message in messages)

    @pytest.mark.slow
    @pytest.mark.parametrize("wrap", [
        lambda loader: tqdm(loader, disable=True), lambda loader: iter(loader),
        lambda loader: (batch for batch in loader), lambda loader: map(tuple, loader),
        lambda loader: Wrapper(loader), lambda loader: tqdm(Wrapper(loader), disable=True),
        lambda loader: (b for b, _ in zip(loader, range(99), strict=False)),
    ])  # fmt: skip
    def test_loaders_within_other_iterables(self, drawn, wrap):
        model, inputs, _ = drawn
        for sampler in (RandomSampler(range(N)), SubsetRandomSampler(range(9)), Every(1)):
            _, messages = told(BARE["score_pool"], model, wrap(of(Rows(inputs), sampler)))
            assert any("reads a DataLoader" in message for message in messages), type(sampler)
        _, messages = told(BARE["score_pool"], model, wrap(of(Rows(inputs))))
        assert not messages

    @pytest.mark.slow
    def test_a_loader_that_iterates_in_its_own_way(self, drawn):
        model, inputs, _ = drawn
        _, messages = scored(model, Twice(Rows(inputs), SIZE))
        assert any(f"gave {2 * N} scores, for a dataset that says" in m for m in messages)
        _, messages = scored(model, Twice(Rows(inputs), SIZE, shuffle=True))
        assert any("reads a DataLoader which shuffles" in m for m in messages)

    @pytest.mark.slow
    @pytest.mark.parametrize("length", [None, N])
    @pytest.mark.parametrize("size", [1, 4, 10, 100])
    def test_workers_that_each_read_all_of_a_stream(self, drawn, length, size):
        model, inputs, _ = drawn
        loader = DataLoader(Stream(inputs, length), size, num_workers=2)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Length of IterableDataset")
            result, messages = scored(model, loader)
        assert len(result) == 2 * N
        assert any("the same first batch from two of its 2 workers" in m for m in messages)
        assert any(f"gave {2 * N} scores" in m for m in messages) == (length is not None)
        split = DataLoader(Stream(inputs, length, split=True), size, num_workers=2)
        result, messages = scored(model, split)
        assert (len(result), messages, result.indices) == (N, [], None)

    @pytest.mark.parametrize("length", [N + 5, 100])
    def test_streams_of_fewer_samples_than_they_say(self, drawn, length):
        model, inputs, _ = drawn
        _, messages = scored(model, DataLoader(Stream(inputs, length), 5))
        assert any(
            f"gave {N} scores, for a dataset that says it has {length}" in m for m in messages
        )


class Wrapper:
    """What moves batches to a device, in many projects."""

    def __init__(self, loader):
        self.loader = loader

    def __len__(self):
        return len(self.loader)

    def __iter__(self):
        yield from self.loader


class TestCount:
    @pytest.mark.slow
    @pytest.mark.parametrize("way, missing, again", [
        ("own that drops", 11, 0), ("share", 15, 0), ("padded share", 20, 0), ("dropped", 3, 0),
        ("list that repeats", 20, 1),
    ])  # fmt: skip
    def test_is_told(self, drawn, way, missing, again):
        model, inputs, _ = drawn
        result, messages = scored(model, WAYS[way][0](Rows(inputs)))
        (message,) = messages
        assert re.search(rf"{missing} were left out, {again} came again", message)
        samples = {"scored": len(result), "dataset": N, "repeated": again}
        assert result.provenance["samples"] == samples
        _, others = told(naive_score_pool, model, WAYS[way][0](Rows(inputs)))
        assert any(re.search(rf"{missing} were left out, {again} came again", m) for m in others)

    @pytest.mark.parametrize("make", [
        lambda d: of(d, drop_last=True), lambda d: of(d, range(N), drop_last=True),
        lambda d: batches(d, BatchSampler(SequentialSampler(d), 5, True)),
        lambda d: of(d, Every(1), drop_last=True), lambda d: of(d, shuffle=True, drop_last=True),
    ])  # fmt: skip
    def test_of_a_last_batch_that_is_dropped(self, drawn, make):
        model, inputs, _ = drawn
        loader = make(Rows(inputs))
        result, messages = scored(model, loader)
        assert any("3 were left out, 0 came again, by drop_last=True" in m for m in messages)
        assert_traced(result, loader.dataset, drawn)
