"""What people hand over as labelled, as groups and as numbers, from the libraries that they use."""

import array
import json
import pickle
from collections import deque

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Subset, TensorDataset

from fastgradnorm import ArgumentError, GradNormScorer, acquire, score_pool, select
from fastgradnorm._pool.ranks import Ranks

N, LABELLED = 40, [3, 11, 12]


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 4)).eval()


@pytest.fixture(scope="module")
def pool():
    return TensorDataset(torch.randn(N, 5, generator=torch.Generator().manual_seed(1)))


class Column:
    """As columns of pandas and polars are."""

    def __init__(self, values):
        self.values = np.asarray(values)
        self.values.flags.writeable = False  # as of pandas 3

    def __len__(self):
        return len(self.values)

    def __getitem__(self, place):
        return self.values[place]

    def to_numpy(self):
        return self.values


INDICES = {
    "keys": lambda: dict.fromkeys(LABELLED, "cat").keys(),
    "values": lambda: dict(enumerate(LABELLED)).values(),
    "labels by index": lambda: dict.fromkeys(LABELLED, "cat"),
    "deque": lambda: deque(LABELLED),
    "array": lambda: array.array("i", LABELLED),
    "frozenset": lambda: frozenset(LABELLED),
    "column": lambda: Column(LABELLED),
    "iterator": lambda: iter(LABELLED),
    "generator": lambda: (i for i in LABELLED),
    "map": lambda: map(int, ["3", "11", "12"]),
    "unsigned": lambda: np.array(LABELLED, dtype=np.uint8),
    "numbers of NumPy": lambda: [np.int32(i) for i in LABELLED],
}


@pytest.mark.parametrize("kind", INDICES)
def test_indices(model, pool, kind):
    expected = acquire(model, pool, 6, labelled=LABELLED, progress=False)
    made = acquire(model, pool, 6, labelled=INDICES[kind](), progress=False)
    assert torch.equal(made.indices, expected.indices)
    assert made.pool["labelled"] == 3
    assert made.pool["candidates"] == N - 3


@pytest.mark.slow
def test_pandas(model, pool):
    pandas = pytest.importorskip("pandas")
    expected = acquire(model, pool, 6, labelled=LABELLED, progress=False)
    for labelled in (pandas.Series(LABELLED), pandas.Index(LABELLED)):
        made = acquire(model, pool, 6, labelled=labelled, progress=False)
        assert torch.equal(made.indices, expected.indices)
    groups = pandas.Series([f"patient {i // 10}" for i in range(N)]).astype("category")
    made = acquire(model, pool, 4, groups=groups, max_per_group=1, progress=False)
    assert sorted(i // 10 for i in made) == [0, 1, 2, 3]
    missing = pandas.Series([pandas.NA, pandas.NaT, float("nan"), None] * 10, dtype=object)
    assert len(acquire(model, pool, N, groups=missing, max_per_group=1, progress=False)) == N


@pytest.mark.parametrize(
    "nothing",
    [
        torch.tensor([]),
        np.array([]),
        {},
        {*()},
        Column(np.array([])),
        TensorDataset(torch.empty(0, 5)),
        Subset(TensorDataset(torch.empty(3, 5)), []),
        DataLoader(Subset(TensorDataset(torch.empty(3, 5)), []), 4),
        iter(()),
    ],
    ids=lambda nothing: type(nothing).__name__,
)
def test_nothing_is_labelled_in_the_first_round(model, pool, nothing):
    expected = acquire(model, pool, 6, progress=False)
    made = acquire(model, pool, 6, labelled=nothing, progress=False)
    assert torch.equal(made.indices, expected.indices)


@pytest.mark.slow
def test_batches_that_are_read_once(model, pool):
    others = torch.randn(7, 5)
    expected = acquire(model, pool, 6, labelled=[others], progress=False)
    made = acquire(model, pool, 6, labelled=(x for x in others.split(3)), progress=False)
    assert torch.equal(made.indices, expected.indices)
    assert made.pool["labelled"] == 7
    with pytest.raises(TypeError, match=r"`labelled` must be indices of the pool.*Got 'a.png'"):
        acquire(model, pool, 6, labelled=iter(["a.png"]), progress=False)


@pytest.mark.parametrize("nothing", [[], (), [torch.empty(0, 5)]], ids=str)
def test_an_empty_pool_is_called_that(model, nothing):
    with pytest.raises(ArgumentError, match="`pool` must yield at least one sample") as told:
        acquire(model, nothing, 2, progress=False)
    assert told.value.argument == "pool"


def test_which_argument_has_a_wrong_batch(model, pool):
    with pytest.raises(TypeError, match=r"^`pool` must be an iterable of tensors") as told:
        acquire(model, [["a text"]], 2, progress=False)
    assert pickle.loads(pickle.dumps(told.value)).argument == "pool"
    with pytest.raises(TypeError, match=r"^`labelled` must be an iterable of tensors"):
        acquire(model, pool, 2, labelled=[["a text"]], progress=False)


GROUPS = {
    "tensors": lambda: [torch.tensor(i // 10) for i in range(N)],
    "arrays": lambda: [np.array(i // 10) for i in range(N)],
    "numbers of NumPy": lambda: [np.int64(i // 10) for i in range(N)],
    "tensors by index": lambda: {i: torch.tensor(i // 10) for i in range(N)},
    "one tensor": lambda: torch.arange(N) // 10,
    "names": lambda: [f"patient {i // 10}" for i in range(N)],
    "pairs": lambda: [(i // 10, "left") for i in range(N)],
}


@pytest.mark.parametrize("kind", GROUPS)
def test_equal_groups_are_one(model, pool, kind):
    asked = {"groups": GROUPS[kind](), "max_per_group": 1, "progress": False}
    assert sorted(i // 10 for i in acquire(model, pool, 4, **asked)) == [0, 1, 2, 3]
    with pytest.raises(ValueError, match="`k` must be at most 4"):
        acquire(model, pool, 5, **asked)


@pytest.mark.parametrize(
    "groups",
    [
        [np.nan] * N,  # one and the same
        [float("nan") for _ in range(N)],
        torch.full((N,), torch.nan),
        [torch.tensor(torch.nan)] * N,
        [None, np.nan] * (N // 2),
    ],
    ids=["same", "others", "tensor", "tensors", "mixed"],
)
def test_samples_without_a_group_are_in_none(model, pool, groups):
    made = acquire(model, pool, N, groups=groups, max_per_group=1, progress=False)
    assert len({*made}) == N


@pytest.mark.slow
def test_numbers_of_numpy(model, pool, tmp_path):
    given = {"seed": np.int32(2), "batch_size": np.int64(7), "num_samples": np.int64(3)}
    made = acquire(
        model,
        pool,
        np.int64(3),
        groups=[0] * N,
        max_per_group=np.int64(3),
        strategy="gumbel",
        progress=False,
        **given,
    )
    plain = acquire(model, pool, 3, strategy="gumbel", seed=2, progress=False)
    assert torch.equal(made.indices, plain.indices)
    assert json.loads(json.dumps(made.provenance))["seed"] == 2
    loader = DataLoader(pool, 8)
    scores = GradNormScorer(model, subset=np.int64(10), progress=False).score(loader)
    assert len(scores) == 10
    assert len(select(scores.values, np.int64(3), seed=np.int64(1))) == 3
    checkpoint = tmp_path / "run.jsonl"
    asked = {"checkpoint": checkpoint, "progress": False}
    first = score_pool(model, [pool.tensors[0]], seed=np.int64(3), **asked)
    assert torch.equal(score_pool(model, [pool.tensors[0]], seed=3, **asked), first)
    with pytest.raises(TypeError, match="`k` must be an integer >= 1"):
        acquire(model, pool, np.float64(3), progress=False)
    with pytest.raises(TypeError, match="`k` must be an integer >= 1"):
        acquire(model, pool, np.bool_(True), progress=False)


@pytest.mark.parametrize(
    "given, match",
    [
        ({"labelled": np.array(["a"])}, "`labelled` must be indices"),
        ({"labelled": Column(["a"])}, "`labelled` must be indices"),
        ({"labelled": Column([0.5])}, "`labelled` must be indices"),
        ({"labelled": {1: 0, "a": 2}}, "`labelled` must be indices.*'a' at place 1"),
        ({"labelled": deque([1, "a"])}, "`labelled` must be indices.*'a' at place 1"),
        ({"groups": [torch.ones(2)] * N, "max_per_group": 1}, "`groups` must be.*as names or"),
        ({"groups": [[1]] * N, "max_per_group": 1}, "`groups` must be.*as names or"),
    ],
)
def test_what_is_none_is_told(model, pool, given, match):
    with pytest.raises(TypeError, match=match):
        acquire(model, pool, 3, progress=False, **given)


def test_ranks_agree_on_what_was_handed_over_before_anything_is_read(model, monkeypatch):
    """Each would choose others, and nobody would be told."""

    class Asked(Exception):
        pass

    class Rank:
        def agree(self, given):
            raise Asked(given)

    monkeypatch.setattr(Ranks, "joined", lambda wanted: Rank())
    given = {"labelled": LABELLED, "groups": [0] * N, "max_per_group": 2, "seed": 3}
    with pytest.raises(Asked) as asked:
        acquire(model, iter(()), 5, strategy="coreset", **given)
    (seen,) = asked.value.args
    assert {name: seen[name] for name in ("k", "seed", "max_per_group")} == {
        "k": 5, "seed": 3, "max_per_group": 2
    }  # fmt: skip
    assert {"strategy", "space", "labelled", "groups", "max_similarity"} <= seen.keys()
    assert seen["labelled"] is not None and seen["groups"] is not None
