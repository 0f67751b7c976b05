"""Whatever draws the samples: `indices` are those of `loader.dataset`, resumed runs included."""

import warnings

import pytest
import torch
from torch.utils.data import (
    DataLoader,
    DistributedSampler,
    RandomSampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

from fastgradnorm import GradNormScorer, PoolScores, score_pool, select
from tests.support.drawing import (
    SIZE,
    WAYS,
    Every,
    N,
    Rows,
    assert_traced,
    batches,
    indices_of,
    of,
    scored,
    told,
)
from tests.support.stopping import Stop


class TestIndices:
    @pytest.mark.slow
    @pytest.mark.parametrize("way", WAYS)
    def test_are_those_of_the_dataset(self, drawn, way):
        make, warned = WAYS[way]
        model, inputs, _ = drawn
        loader = make(Rows(inputs))
        result, messages = scored(model, loader)
        assert result.indices is not None
        assert result.indices.dtype == torch.int64
        assert_traced(result, loader.dataset, drawn)
        assert bool(messages) == warned, messages
        best = select(result.values, 3)
        distinct = len(result.indices.unique()) == len(result)
        assert not distinct or torch.equal(result.select(3), result.indices[best])
        assert result.select(3).unique().numel() == 3

    @pytest.mark.slow
    @pytest.mark.parametrize("make", [
        lambda d: of(d), lambda d: of(d, num_workers=2), lambda d: of(d, range(N)),
        lambda d: of(d, DistributedSampler(d, 1, 0, shuffle=False)),
        lambda d: of(Subset(d, [5, 4, 3])), lambda d: batches(d, [[0, 1], [2], [*range(3, N)]]),
        lambda d: [d.inputs[:3], d.inputs[3:]], lambda d: iter([d.inputs]),
        lambda d: DataLoader([d.inputs[:3], d.inputs[3:]], batch_size=None),
    ])  # fmt: skip
    def test_are_none_where_scores_are_in_order(self, drawn, make):
        model, inputs, _ = drawn
        for function in (scored, lambda *a: told(score_pool, *a, progress=False)):
            result, messages = function(model, make(Rows(inputs)))
            assert not messages
            assert indices_of(result) is None

    @pytest.mark.parametrize(
        "way", ["shuffle", "own that drops", "weighted", "Subset", "own batches"]
    )
    def test_of_several_schemes_are_saved_and_exported(self, drawn, way, tmp_path):
        model, inputs, _ = drawn
        loader = WAYS[way][0](Rows(inputs))
        both, _ = scored(model, loader, scheme=["expected", "entropy"])
        assert torch.equal(both["expected"].indices, both["entropy"].indices)
        assert_traced(both["expected"], loader.dataset, drawn)
        loaded = PoolScores.load(both["entropy"].save(tmp_path / "scores.npz"))
        assert torch.equal(loaded.indices, both["entropy"].indices)
        assert [row["id"] for row in loaded.to_records()] == loaded.indices.tolist()

    @pytest.mark.slow
    @pytest.mark.parametrize("way", ["shuffle", "subset at random", "own", "share", "own batches"])
    def test_tell_bad_samples(self, drawn, way):
        model, inputs, _ = drawn
        inputs = inputs.clone()
        loader = WAYS[way][0](Rows(inputs))
        torch.manual_seed(0)
        drawn, _ = scored(model, loader)
        bad = int(drawn.indices[2])
        inputs[bad] = torch.nan
        torch.manual_seed(0)
        with warnings.catch_warnings(), pytest.raises(ValueError, match="NaN") as error:
            warnings.simplefilter("ignore")
            GradNormScorer(model, progress=False).score(loader)
        assert error.value.indices == [bad]

    def test_repeated_samples_are_chosen_once(self):
        scores = PoolScores(torch.tensor([3.0, 5.0, 5.0, 1.0]), indices=torch.tensor([7, 2, 2, 0]))
        assert scores.select(3).tolist() == [2, 7, 0]
        for strategy in ("gumbel", "proportional"):
            assert sorted(scores.select(3, strategy=strategy).tolist()) == [0, 2, 7]
        with pytest.raises(ValueError, match="`k` must be at most 3"):
            scores.select(4)


class TestSubset:
    @pytest.mark.parametrize("subset", [4, 0.5, 1.0, 1])
    @pytest.mark.parametrize("way", [
        "shuffle", "subset at random", "own", "own that drops", "share", "batches", "no batches",
        "lists of batches", "list", "Subset", "dropped", "own batches",
    ])  # fmt: skip
    def test_is_of_what_the_sampler_draws(self, drawn, way, subset):
        model, inputs, _ = drawn
        loader = WAYS[way][0](Rows(inputs))
        endless = way in ("own batches", "no batches") and isinstance(subset, int)
        if endless or (subset == 4 and way == "list"):
            with pytest.raises(ValueError, match="`subset` must be"):  # no length; only three
                scored(model, loader, subset=subset)
            return
        result, messages = scored(model, loader, subset=subset, verify=subset == 4)
        assert not messages
        assert_traced(result, loader.dataset, drawn)
        if way not in ("shuffle", "batches", "dropped", "own batches", "no batches"):
            allowed = {int(i) for i in scored(model, loader, verify=False)[0].indices}
            assert {*result.indices.tolist()} <= allowed
        assert len(result.indices.unique()) == len(result)

    @pytest.mark.slow
    def test_of_a_sampler_that_only_shuffles_is_the_same_each_time(self, drawn):
        model, inputs, _ = drawn
        for way in ("shuffle", "subset at random", "batches"):
            loader = WAYS[way][0](Rows(inputs))
            found = [scored(model, loader, subset=4)[0].indices.tolist() for _ in range(2)]
            assert found[0] == found[1]


def until(loader, count):
    """The same loader, whose dataset fails at the given batch."""
    dataset = loader.dataset
    done = []

    class Failing(type(dataset)):
        def __getitem__(self, i):
            done.append(i)
            if len(done) > count:
                raise Stop
            return super().__getitem__(i)

    failing = Failing(dataset.inputs)
    return DataLoader(failing, SIZE, sampler=loader.sampler)


def seeded(sampler):
    sampler.generator = torch.Generator().manual_seed(5)
    return sampler


RESUMED = {
    "own": lambda: Every(1), "own that drops": lambda: Every(2),
    "shuffled": lambda: seeded(RandomSampler(range(N))),
    "subset": lambda: seeded(SubsetRandomSampler([*range(3, 20)])),
    "weighted": lambda: seeded(WeightedRandomSampler([1.0] * N, N)),
    "share": lambda: DistributedSampler(range(N), 2, 1, seed=2),
    "sequence": lambda: SequentialSampler(range(N)),
}  # fmt: skip


class TestCheckpoint:
    @pytest.mark.slow
    @pytest.mark.parametrize("name", RESUMED)
    @pytest.mark.parametrize("subset", [None, 10])
    def test_goes_on_with_the_same_indices(self, drawn, name, subset, tmp_path):
        model, inputs, _ = drawn
        options = {"checkpoint": tmp_path / "scores.jsonl", "subset": subset}
        make = lambda: of(Rows(inputs), RESUMED[name]())  # noqa: E731
        expected, _ = scored(model, make(), subset=subset)
        with pytest.raises(Stop):
            scored(model, until(make(), 6), **options)
        result, _ = scored(model, make(), **options)
        finished, _ = scored(model, make(), **options)
        for found in (result, finished):
            assert torch.equal(found.values, expected.values)
            assert (found.indices is None) == (expected.indices is None)
            if expected.indices is not None:
                assert torch.equal(found.indices, expected.indices)
            assert_traced(found, Rows(inputs), drawn)

    @pytest.mark.slow
    def test_refuses_another_order(self, drawn, tmp_path):
        model, inputs, _ = drawn
        options = {"checkpoint": tmp_path / "scores.jsonl"}
        with pytest.raises(Stop):
            scored(model, until(of(Rows(inputs), [*range(N)][::-1]), 9), **options)
        with pytest.raises(ValueError, match=r"differs in first indices \(\[22, 21, 20"):
            scored(model, of(Rows(inputs), shuffle=True), **options)
        later = [22, 21, 20, 19, *range(19)]
        with pytest.raises(ValueError, match=r"from number 4 on are 18, 17, 16, 15 of the data"):
            scored(model, of(Rows(inputs), later), **options)

    @pytest.mark.slow
    @pytest.mark.parametrize("missing", [0, 5, 10, 21, 22])
    def test_remembers_that_order_was_lost(self, drawn, missing, tmp_path):
        """Also where a later batch lost it, which is not read again."""
        model, inputs, _ = drawn

        def but_one(items):
            return torch.stack([x for x, i in items if i != missing])

        options = {"checkpoint": tmp_path / "scores.jsonl"}
        loader = of(Rows(inputs), collate_fn=but_one)
        _, first = scored(model, loader, **options)
        result, again = scored(model, loader, **options)
        assert first == again != []
        assert result.indices is None
