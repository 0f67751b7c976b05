"""`subset`: a random part of a pool, only that part loaded, with its indices in the pool."""

import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset, RandomSampler, TensorDataset

from fastgradnorm import GradNormScorer, PoolScores, naive_score_pool, score_pool, select
from tests.support.cases import CASES
from tests.support.noting import Noting

SIZE = 30


class Images(Noting):
    def __getitem__(self, i):
        return {"image": super().__getitem__(i), "name": f"image {i}"}


class Stream(IterableDataset):
    def __init__(self, inputs):
        self.inputs = inputs

    def __iter__(self):
        return iter(self.inputs)


def images_only(items):
    return torch.stack([item["image"] for item in items])


@pytest.fixture(scope="module")
def pool():
    model, inputs = CASES["mlp"].random()
    inputs = inputs[:SIZE]
    return model, inputs, score_pool(model, inputs.split(7), progress=False)


def scored(model, loader, subset, **options):
    return GradNormScorer(model, subset=subset, progress=False, **options).score(loader)


class TestOfADataset:
    def loader(self, inputs, **options):
        return DataLoader(Images(inputs), 4, collate_fn=images_only, **options)

    @pytest.mark.slow
    @pytest.mark.parametrize("subset, count", [(11, 11), (0.3, 9), (1.0, SIZE), (1, 1), (1e-9, 1)])
    def test_scores_so_many_and_loads_no_others(self, pool, subset, count):
        model, inputs, all_scores = pool
        loader = self.loader(inputs)
        result = scored(model, loader, subset)
        assert len(result) == count
        assert result.indices.dtype == torch.int64
        assert result.indices.tolist() == sorted(set(result.indices.tolist()))
        assert loader.dataset.loaded == result.indices.tolist()
        assert torch.allclose(result.values, all_scores[result.indices], rtol=1e-5)

    @pytest.mark.slow
    def test_the_seed_chooses(self, pool):
        model, inputs, _ = pool
        chosen = [scored(model, self.loader(inputs), 10, seed=s).indices for s in (0, 0, 1)]
        assert torch.equal(chosen[0], chosen[1])
        assert not torch.equal(chosen[0], chosen[2])

    @pytest.mark.slow
    def test_each_sample_is_as_likely(self, pool):
        from fastgradnorm._pool.samples import make_pool

        counts = torch.zeros(SIZE)
        for seed in range(600):
            counts[make_pool(self.loader(pool[1]), 10, seed).indices] += 1
        assert (counts / 600 - 1 / 3).abs().max() < 0.08  # four standard deviations

    def test_a_shuffled_loader_is_put_into_order(self, pool):
        model, inputs, all_scores = pool
        result = scored(model, self.loader(inputs, shuffle=True), 12)
        assert torch.allclose(result.values, all_scores[result.indices], rtol=1e-5)

    @pytest.mark.slow
    def test_dropped_samples_are_not_in_the_pool(self, pool):
        model, inputs, _ = pool
        result = scored(model, self.loader(inputs, drop_last=True), 1.0)
        assert result.indices.tolist() == list(range(28))

    def test_workers_and_settings_are_kept(self, pool):
        from fastgradnorm._pool.samples import make_pool

        given = self.loader(pool[1], num_workers=1, prefetch_factor=3, timeout=9.0)
        rebuilt = make_pool(given, 5, 0).loader
        for name in ("batch_size", "num_workers", "prefetch_factor", "timeout", "collate_fn"):
            assert getattr(rebuilt, name) == getattr(given, name)

    def test_more_than_there_are(self, pool):
        model, inputs, _ = pool
        with pytest.raises(ValueError, match=r"`subset` must be at most the size of the pool, 30"):
            scored(model, self.loader(inputs), 31)

    def test_parts_of_parts_keep_their_indices(self, pool):
        """What a process among several scores: a share of the drawn samples."""
        from fastgradnorm._pool.samples import make_pool

        model, inputs, all_scores = pool
        drawn = make_pool(self.loader(inputs), 10, 0)
        share = drawn.at(torch.arange(1, 10, 3))
        assert torch.equal(share.indices, drawn.indices[1::3])
        values = score_pool(model, share.loader, progress=False)
        assert torch.allclose(values, all_scores[share.indices], rtol=1e-5)
        with pytest.raises(ValueError, match="`loader` must be a DataLoader over a dataset"):
            make_pool(iter([inputs]), None, 0).at(torch.arange(3))


class TestOfAStream:
    @pytest.mark.parametrize("make", [
        lambda x: x.split(7),
        lambda x: iter(x.split(7)),
        lambda x: DataLoader(Stream(x), 7),
        lambda x: DataLoader(TensorDataset(x), 7, sampler=range(SIZE)),
    ])  # fmt: skip
    def test_a_fraction_draws_each_sample_by_itself(self, pool, make):
        model, inputs, all_scores = pool
        result = scored(model, make(inputs), 0.5)
        assert 5 < len(result) < 25
        assert torch.allclose(result.values, all_scores[result.indices], rtol=1e-5)

    @pytest.mark.slow
    def test_the_draw_does_not_depend_on_batches(self, pool):
        model, inputs, _ = pool
        found = [scored(model, inputs.split(size), 0.5, seed=3).indices for size in (1, 7, SIZE)]
        assert torch.equal(found[0], found[1])
        assert torch.equal(found[0], found[2])

    def test_a_number_is_refused(self, pool):
        model, inputs, _ = pool
        with pytest.raises(ValueError, match=r"`subset` must be a fraction.*Got 5.*DataLoader"):
            scored(model, inputs.split(7), 5)

    def test_nothing_drawn(self, pool):
        model, inputs, _ = pool
        with pytest.raises(ValueError, match=r"`subset` must leave samples to score. Got 1e-09"):
            scored(model, inputs.split(7), 1e-9)

    def test_batches_of_which_nothing_is_drawn(self, pool):
        model, inputs, all_scores = pool
        result = scored(model, inputs.split(1), 0.2)
        assert torch.allclose(result.values, all_scores[result.indices], rtol=1e-5)


class TestResult:
    def test_select_gives_indices_of_the_pool(self, pool):
        model, inputs, _ = pool
        result = scored(model, DataLoader(TensorDataset(inputs), 8), 12)
        assert torch.equal(result.select(4), result.indices[select(result.values, 4)])
        drawn = result.select(4, strategy="gumbel", seed=1)
        expected = result.indices[select(result.values, 4, strategy="gumbel", seed=1)]
        assert torch.equal(drawn, expected)

    @pytest.mark.slow
    def test_is_saved_and_loaded(self, pool, tmp_path):
        model, inputs, _ = pool
        result = scored(model, DataLoader(TensorDataset(inputs), 8), 12, seed=4)
        loaded = PoolScores.load(result.save(tmp_path / "scores.npz"))
        assert torch.equal(loaded.indices, result.indices)
        assert loaded.provenance["subset"] == 12
        assert loaded.provenance["seed"] == 4
        whole = GradNormScorer(model, progress=False).score([inputs])
        assert whole.indices is None
        assert PoolScores.load(whole.save(tmp_path / "all.npz")).indices is None

    @pytest.mark.slow
    def test_bad_samples_are_told_by_their_place_in_the_pool(self, pool):
        model, inputs, _ = pool
        inputs = inputs.clone()
        chosen = scored(model, inputs.split(7), 0.5).indices
        inputs[chosen[2]] = torch.nan
        with pytest.raises(ValueError, match="NaN or infinite") as error:
            scored(model, inputs.split(7), 0.5)
        assert error.value.indices == [int(chosen[2])]

    def test_functions_whose_result_has_no_indices_refuse(self, pool):
        model, inputs, _ = pool
        for function in (score_pool, naive_score_pool):
            with pytest.raises(ValueError, match=r"`subset` must be None for .*GradNormScorer"):
                function(model, [inputs], subset=0.5)
        with pytest.raises(ValueError, match="`subset` must be None for `stream`"):
            GradNormScorer(model, subset=0.5).stream([inputs])


@pytest.mark.slow
def test_shuffling_is_warned_of_without_a_subset(pool):
    model, inputs, _ = pool
    data = TensorDataset(inputs)
    with pytest.warns(UserWarning, match="shuffles"):
        score_pool(model, DataLoader(data, 8, sampler=RandomSampler(data)), progress=False)
