"""Ray Data with two actors gives each id the score of one process, or an error."""

import numpy as np
import pytest
import torch

from fastgradnorm import score_pool
from fastgradnorm.integrations.ray_data import GradNormActor
from tests.support import pools
from tests.support.asserts import assert_close_relative
from tests.support.launching import launch


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ray")
    quiet = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_DATA_DISABLE_PROGRESS_BARS": "1"}
    code, output = launch([], "ray_job.py", folder, **quiet)
    assert code == 0, output
    return folder


@pytest.mark.slow
def test_each_id_has_its_score_though_an_actor_was_killed(job):
    assert (job / "died").exists()
    found = torch.load(job / "found.pt", weights_only=False)["found"]
    assert all(set(row) == {"id", "expected", "entropy"} for row in found)
    found.sort(key=lambda row: row["id"])
    assert [row["id"] for row in found] == [*range(100, 137)]
    expected = score_pool(pools.mlp(), pools.loader(), scheme=["expected", "entropy"])
    for scheme in expected:
        scores = torch.tensor([float(row[scheme]) for row in found])
        assert_close_relative(scores, expected[scheme], 1e-6, scheme)


@pytest.mark.slow
def test_an_actor_that_fails_ends_the_run(job):
    assert "Scores are NaN or infinite for 'id' [130]" in (job / "error.txt").read_text()


@pytest.mark.slow
def test_the_documentation_s_code(job):
    found = torch.load(job / "page.pt", weights_only=False)
    rows = sorted(found["rows"], key=lambda row: row["id"])
    assert [row["id"] for row in rows] == [*range(200)]
    scores = torch.tensor([float(row["score"]) for row in rows])
    assert_close_relative(scores, found["expected"], 1e-5)


def actor(**options):
    names = {"input_column": "x", "id_column": "id"}
    return GradNormActor(pools.mlp, **{**names, **options})


def table(rows=None):
    rows = pools.inputs() if rows is None else rows
    return {"x": rows.double().numpy(), "id": (100 + np.arange(len(rows))).astype(str)}


@pytest.mark.slow
def test_columns_in_columns_out():
    """The id column goes through as it is; inputs are cast to the model's dtype."""
    found = actor(score_column="gradnorm")(table())
    assert list(found) == ["id", "gradnorm"]
    assert found["id"].tolist() == [str(100 + i) for i in range(pools.N)]
    assert found["gradnorm"].dtype == np.float32
    expected = score_pool(pools.mlp(), pools.loader())
    assert_close_relative(torch.from_numpy(found["gradnorm"]), expected, 1e-6)


def test_several_input_columns_are_keywords():
    class Sum(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.head = torch.nn.Linear(10, 3)

        def forward(self, a, b):
            return self.head(a + b)

    model, rows = pools.seeded(Sum), pools.inputs()
    columns = {"a": rows.numpy(), "b": rows.numpy(), "id": np.arange(pools.N)}
    scorer = GradNormActor(lambda: model, input_column=["a", "b"], id_column="id")
    expected = score_pool(model, [{"a": rows, "b": rows}])
    assert_close_relative(torch.from_numpy(scorer(columns)["score"]), expected, 1e-6)


@pytest.mark.slow
def test_one_plan_and_one_verification_for_all_batches(monkeypatch):
    from fastgradnorm._witness.witness import Witness

    examine, verified = Witness._examine, []
    monkeypatch.setattr(
        Witness, "_examine", lambda *given: (verified.append(len(given[1].batch)), examine(*given))
    )
    scorer = actor()
    for rows in pools.inputs().split(5):
        scorer(table(rows))
    assert len(verified) == 1  # how many samples it rested on


@pytest.mark.slow
def test_not_finite_scores_are_told_by_id_and_the_next_batch_goes_on():
    rows = pools.inputs()
    rows[[4, 9]] = torch.nan
    scorer = actor()
    with pytest.raises(ValueError, match=r"Scores are NaN or infinite for 'id' \['104', '109'\]"):
        scorer(table(rows))
    assert np.isfinite(scorer(table())["score"]).all()
    with pytest.warns(UserWarning, match="Scores are NaN or infinite"):
        actor(on_nonfinite="warn")(table(rows))
    assert np.isnan(actor(on_nonfinite="keep")(table(rows))["score"]).sum() == 2


def test_an_error_does_not_end_the_actor():
    scorer = actor()
    with pytest.raises(ValueError, match="`model` must run on one sample"):
        scorer(table(pools.inputs()[:, :3]))
    assert np.isfinite(scorer(table())["score"]).all()


@pytest.mark.parametrize(
    "columns, error, message",
    [
        ({"y": np.ones((2, 10))}, ValueError, "Got 'x'; there are 'y', 'id'"),
        ({"x": np.array(["a", "b"])}, TypeError, "Got dtype <U1 in 'x'"),
        ({"x": np.array([[1], [2, 3]], dtype=object)}, TypeError, "Got dtype object in 'x'"),
    ],
)
def test_columns_that_cannot_be_scored(columns, error, message):
    with pytest.raises(error, match=message):
        actor()({**columns, "id": np.arange(2)})


def test_unknown_options_are_refused():
    with pytest.raises(TypeError, match="Did you mean `scheme`"):
        actor(schema="entropy")


@pytest.mark.slow
def test_each_batch_has_its_scores_before_the_next_one_is_there():
    """Nothing is held back to be scored with rows that are not there yet, whatever is asked for."""
    model, rows = pools.mlp(), pools.inputs()[:12].numpy()
    wanted = score_pool(model, [pools.inputs()[:12]], progress=False).numpy()
    for latency in (None, 100):
        actor = GradNormActor(lambda: model, input_column="x", id_column="id", latency=latency)
        for start in range(0, 12, 3):
            part = slice(start, start + 3)
            found = actor({"x": rows[part], "id": np.arange(12)[part]})
            np.testing.assert_allclose(found["score"], wanted[part], rtol=1e-5)
