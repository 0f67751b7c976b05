"""What `GradNormScorer.score` returns: values, where they come from, and their files."""

import json
import re

import numpy as np
import pytest
import torch

import fastgradnorm
from fastgradnorm import GradNormScorer, PoolScores, score_pool, select
from tests.support.cases import CASES, MLP


@pytest.fixture(scope="module")
def pool():
    model, inputs = CASES["mlp"].random()
    return model, inputs[:20]


@pytest.fixture(scope="module")
def exact(pool):
    model, inputs = pool
    return GradNormScorer(model, seed=7, progress=False).score(inputs.split(8))


@pytest.fixture(scope="module")
def sampled(pool):
    model = MLP(classes=6)
    return GradNormScorer(model, likelihood="bernoulli", num_samples=4, progress=False).score(
        pool[1].split(8)
    )


class TestValues:
    @pytest.mark.slow
    def test_are_the_scores_in_loader_order(self, pool, exact):
        model, inputs = pool
        assert isinstance(exact, PoolScores)
        assert torch.equal(exact.values, score_pool(model, inputs.split(8), progress=False))
        assert exact.values.dtype == torch.float32
        assert exact.values.device.type == "cpu"

    def test_standard_error_is_none_when_exact(self, exact):
        assert exact.standard_error is None

    def test_standard_error_when_sampled(self, sampled):
        assert sampled.standard_error.shape == sampled.values.shape
        assert (sampled.standard_error >= 0).all()

    def test_several_schemes_give_several_results(self, pool):
        model, inputs = pool
        results = GradNormScorer(model, scheme=["entropy", "expected"], progress=False).score(
            [inputs]
        )
        assert list(results) == ["entropy", "expected"]
        for scheme, result in results.items():
            assert isinstance(result, PoolScores)
            assert result.provenance["scheme"] == scheme

    def test_to_numpy(self, exact):
        array = exact.to_numpy()
        assert isinstance(array, np.ndarray)
        assert array.dtype == np.float32
        assert array.tolist() == exact.values.tolist()

    def test_select(self, exact):
        assert torch.equal(exact.select(5), select(exact.values, 5))
        drawn = exact.select(5, strategy="gumbel", seed=2)
        assert torch.equal(drawn, select(exact.values, 5, strategy="gumbel", seed=2))
        with pytest.raises(ValueError, match=r"`k` must be .*Got 21"):
            exact.select(21)


class TestProvenance:
    def test_tells_what_was_scored_how_and_where(self, pool, exact):
        told = exact.provenance
        assert {"scheme", "parameters", "versions", "device", "seed", "seconds"} <= set(told)
        assert told["scheme"] == "expected"
        assert told["seed"] == 7
        assert told["seconds"] > 0
        assert str(told["device"]) == "cpu"
        assert torch.__version__ in str(told["versions"])
        assert fastgradnorm.__version__ in str(told["versions"])
        count = sum(p.numel() for p in pool[0].parameters())
        assert str(count) in re.sub(r"[,_ ]", "", str(told["parameters"]))

    def test_counts_the_selected_parameters_only(self, pool):
        model, inputs = pool
        result = GradNormScorer(model, params="last_layer", progress=False).score([inputs])
        count = sum(p.numel() for p in model.head.parameters())
        assert str(count) in re.sub(r"[,_ ]", "", str(result.provenance["parameters"]))

    def test_is_plain_data(self, exact):
        assert json.loads(json.dumps(exact.provenance)) == exact.provenance


class TestFiles:
    @pytest.mark.parametrize("which", ["exact", "sampled"])
    @pytest.mark.parametrize("as_text", [True, False])
    def test_round_trip(self, which, as_text, tmp_path, request):
        scores, path = request.getfixturevalue(which), tmp_path / "scores.npz"
        scores.save(str(path) if as_text else path)
        loaded = PoolScores.load(str(path) if as_text else path)
        assert torch.equal(loaded.values, scores.values)
        assert loaded.values.dtype == scores.values.dtype
        if scores.standard_error is None:
            assert loaded.standard_error is None
        else:
            assert torch.equal(loaded.standard_error, scores.standard_error)
        assert loaded.provenance == scores.provenance

    def test_any_path_that_was_saved_to_can_be_loaded(self, exact, tmp_path):
        path = tmp_path / "scores.of.today"
        exact.save(path)
        assert torch.equal(PoolScores.load(path).values, exact.values)

    def test_file_needs_no_pickle(self, exact, tmp_path):
        exact.save(tmp_path / "scores.npz")
        with np.load(tmp_path / "scores.npz", allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        assert arrays["values"].tolist() == exact.values.tolist()

    def test_float64_and_nan_survive(self, tmp_path):
        model, inputs = CASES["mlp"].random()
        inputs = inputs[:4].double()
        inputs[1] = float("nan")
        scores = GradNormScorer(model.double(), on_nonfinite="keep", progress=False).score([inputs])
        scores.save(tmp_path / "scores.npz")
        loaded = PoolScores.load(tmp_path / "scores.npz")
        assert loaded.values.dtype == torch.float64
        assert torch.equal(loaded.values.nan_to_num(-1), scores.values.nan_to_num(-1))

    def test_missing_file_and_file_of_something_else(self, tmp_path):
        with pytest.raises(FileNotFoundError):
            PoolScores.load(tmp_path / "nothing.npz")
        np.savez(tmp_path / "other.npz", weights=np.ones(3))
        with pytest.raises(ValueError, match=r"`path` must be"):
            PoolScores.load(tmp_path / "other.npz")


class TestRepr:
    def test_names_size_scheme_and_range(self, exact):
        text = repr(exact)
        assert "PoolScores" in text
        assert "20" in text
        assert "expected" in text
        assert f"{exact.values.max().item():.3g}"[:3] in text
        assert len(text) < 400

    def test_of_scores_with_nan_does_not_fail(self, exact):
        scores = PoolScores(torch.tensor([float("nan")] * 3), None, exact.provenance)
        assert "3" in repr(scores)


def test_a_run_and_what_was_noticed_are_logged(caplog):
    model, inputs = torch.nn.Linear(4, 3).eval(), torch.randn(40, 4)
    scorer = GradNormScorer(model, progress=False)
    with caplog.at_level("INFO", "fastgradnorm"):
        scores = scorer.score([inputs])
    told = [record.getMessage() for record in caplog.records if record.name == "fastgradnorm"]
    assert "over 15 elements of 2 parameters; verified: sampled" in told[0]
    found = scores.provenance["findings"]
    assert told[1:] == [f"noticed ({each['kind']}): {each['message']}" for each in found]
    softened = GradNormScorer(torch.nn.Sequential(model, torch.nn.Softmax(1)), progress=False)
    caplog.clear()
    with caplog.at_level("INFO", "fastgradnorm"), pytest.warns(fastgradnorm.DoubtfulScoresWarning):
        softened.score([inputs])
    assert any("noticed (" in record.getMessage() for record in caplog.records)
