"""The runner end to end on digits: pairs, resuming, failures, the command line."""

import json

import pytest

import benchmarks.__main__ as command
from benchmarks.label_efficiency import curves, runner
from benchmarks.label_efficiency.runner import Settings, run_task, store_results

pytest.importorskip("sklearn")

pytestmark = pytest.mark.slow


@pytest.fixture
def settings(tmp_path):
    return Settings(
        root=tmp_path, seeds=2, strategies=("random", "margin"), workers=0, quick=True,
        runs=tmp_path / "runs", results=tmp_path / "results", progress=False,
    )  # fmt: skip


def with_(settings, **changes):
    return Settings(**{**vars(settings), **changes})


def headlines(results):
    return {(c.strategy, c.seed): (c.headline, c.chosen) for c in results.curves}


def test_processes_give_the_same_curves(settings):
    found = run_task("digits", settings)
    assert not found.failures
    assert found.results.strategies == ["random", "margin"]
    assert [c.seed for c in found.results.curves] == [0, 1, 0, 1]
    parallel = run_task("digits", with_(settings, workers=2, runs=settings.runs / "more"))
    assert headlines(parallel.results) == headlines(found.results)


def test_resumes_and_adds(settings):
    whole = run_task("digits", settings).results
    path = settings.runs / "digits_quick" / "margin-1.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text(lines[0] + lines[1][:50])  # killed while it wrote
    kept = (settings.runs / "digits_quick" / "margin-0.jsonl").read_text()
    resumed = run_task("digits", with_(settings, resume=True)).results
    assert headlines(resumed) == headlines(whole)
    assert (settings.runs / "digits_quick" / "margin-0.jsonl").read_text() == kept
    store_results(resumed, settings)
    more = with_(settings, resume=True, strategies=("entropy",), runs=settings.runs / "new")
    path = store_results(run_task("digits", more).results, more)
    assert set(curves.load(path).strategies) == {"entropy", "random", "margin"}


def test_one_failure_leaves_the_others(settings):
    found = run_task("digits", with_(settings, strategies=("random", "no_such"), seeds=1))
    assert len(found.failures) == 1
    assert "no_such, seed 0: ArgumentError" in found.failures[0]
    assert found.results.strategies == ["random"]


def test_seconds_and_facts(settings):
    results = run_task("digits", settings).results
    curve = results.of("margin")[0]
    assert set(curve.seconds) == {"train", "score", "select", "evaluate"}
    assert curve.seconds["train"] > 0
    assert curve.labels == (12, 18, 24)
    assert results.facts["plan"] == {"start": 12, "budget": 6, "cycles": 2, "subset": 24}
    assert json.dumps(results.facts)


def test_command_line(settings, monkeypatch, capsys):
    monkeypatch.setattr(runner, "RUNS", settings.runs)
    options = ["--quick", "--workers", "0", "--threads", "1"]
    few = ["--strategies", "random", "--seeds", "1"]
    assert command.main(["label-efficiency", "digits", *options, *few]) == 0
    assert "digits: accuracy" in capsys.readouterr().out
    assert [path.name for path in settings.runs.iterdir()] == ["digits_quick"]
    absent = ["label-efficiency", "nuclei", "--data-root", "nowhere"]
    assert command.main([*absent, *options]) == 1
    assert "nuclei skipped: The nuclei not found" in capsys.readouterr().err
