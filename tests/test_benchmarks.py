"""Every benchmark command runs through, on models of a few hundred parameters."""

import contextlib
import json
import math

import pytest
import torch

from benchmarks import __main__ as command_line
from benchmarks import (
    alone,
    columns,
    floor,
    interruptions,
    readme,
    real_sizes,
    recurrent,
    targets,
    timing,
)
from benchmarks.attribution import pages as attribution
from benchmarks.cases import TINY
from benchmarks.engines import ENGINES
from benchmarks.engines.contract import entropy_loss, expected, label_losses
from benchmarks.gradients.costs import FIGURES, MEMORY
from benchmarks.setting import Setting
from benchmarks.twins import twins
from fastgradnorm import naive_score_pool
from tests.support import warm

pytestmark = pytest.mark.slow

STORED = ("throughput", "peers", "memory", "scaling", "recipes", "gradients")
PICTURED = ("throughput", "peers", "memory", "scaling")
PARTS = {
    "recipes": ("labels", "pruning", "selection", "influence")
}  # where rows are, if not in `rows`
BLOCKS = (*readme.BLOCKS, "targets")


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """A folder that every command has written to."""
    folder = tmp_path_factory.mktemp("results")
    for name in STORED:
        assert command_line.main([name, "--tiny", "--out", str(folder)]) == 0, name
    return folder


@pytest.mark.filterwarnings("ignore")  # other packages' own
@pytest.mark.parametrize("name", STORED)
def test_results_hold_rows_with_provenance_and_a_picture(results, name):
    found = json.loads((results / f"{name}.json").read_text())
    assert {"date", "commit", "machine", "device", "versions"} <= set(found["provenance"])
    rows = [row for part in PARTS.get(name, ("rows",)) for row in found[part]]
    assert rows
    if name in PICTURED:
        assert (results / f"{name}.png").stat().st_size > 10_000
    for row in rows:
        figures = [v for v in row.values() if isinstance(v, float)]
        assert all(math.isfinite(v) for v in figures), row


def test_throughput_holds_every_column_or_its_reason(results):
    rows = json.loads((results / "throughput.json").read_text())["rows"]
    by = {row["column"]: row for row in rows}
    wanted = {"forward only", "training step", "naive", "vmap(grad)", *columns.OURS}
    wanted |= {f"floor, {score}" for score in columns.OURS} | {f"rtol={columns.RTOL}"}
    assert wanted <= set(by)
    for column in ("naive", "vmap(grad)", *columns.OURS):
        assert by[column]["error"] <= columns.TOLERANCE
    for score in columns.OURS:
        assert "over_floor" in by[score]


def test_interrupted_and_gone_on_with(tmp_path, monkeypatch):
    started = contextlib.ExitStack()

    def start(what, sizes, checkpoint, result, end=""):
        """Real processes, which need not import anew."""
        given = (sizes.samples, sizes.tiny, checkpoint, result, end)
        return started.enter_context(warm.Started(interruptions._CHILD.format(what=what), *given))

    monkeypatch.setattr(interruptions, "_start", start)
    with started:
        _interrupted_and_gone_on_with(tmp_path)


def _interrupted_and_gone_on_with(tmp_path):
    assert command_line.main(["interruptions", "--tiny", "--out", str(tmp_path)]) == 0
    for name, what in (("interruptions", "score"), ("interrupted_sketches", "sketch")):
        (row,) = json.loads((tmp_path / f"{name}.json").read_text())["rows"]
        assert row["what"] == what
        assert row["bit_equal"]
        assert row["kills"] == 1


def test_bfloat16(tmp_path):
    assert command_line.main(["bfloat16", "--tiny", "--out", str(tmp_path)]) == 0
    found = json.loads((tmp_path / "bfloat16.json").read_text())
    assert {row["way"] for row in found["rows"]} == {*found["rank_correlation"]}
    assert all(row["times_as_fast"] > 0 for row in found["rows"])


def test_real_sizes(tmp_path):
    assert command_line.main(["real-sizes", "--tiny", "--out", str(tmp_path)]) == 0
    found = json.loads((tmp_path / "real_sizes.json").read_text())
    assert {row["column"] for row in found["rows"] if "asked" in row} == {*columns.OURS}
    assert f"| {TINY.title}, 3 classes | " in real_sizes.page(found)


def test_recurrent(tmp_path):
    assert command_line.main(["recurrent", "--tiny", "--out", str(tmp_path)]) == 0
    found = json.loads((tmp_path / "recurrent.json").read_text())
    rows = found["rows"]
    assert recurrent.page(found).count("| LSTM, ") == 2
    assert {row["model"] for row in rows} == {"LSTM", "GRU", "RNN"}
    assert len(rows) == 6
    assert max(row["error"] for row in rows) < 1e-5


def test_gradients(results):
    found = json.loads((results / "gradients.json").read_text())
    (row,), (made,) = found["rows"], found["accuracy"]
    assert {*row["costs"]} == {*FIGURES}
    assert {*row["memory"]} == {*MEMORY}
    assert all(each["over_step"] > 0 for each in row["costs"].values())
    error = made["sketch"]["error"]
    assert 0 <= error["low"] <= error["rms_over_least"] <= error["high"] < 5
    assert error["forms_apart"] < 1e-5


def test_attribution(tmp_path):
    assert command_line.main(["attribution", "--tiny", "--out", str(tmp_path)]) == 0
    found = json.loads((tmp_path / "attribution.json").read_text())
    assert found["finished"]
    assert {row["fastgradnorm"]["outcome"] for row in found["traps"]} == {"exact"}
    (ours,) = [row for row in found["rows"] if row["package"] == "fastgradnorm"]
    assert ours["error"] < 1e-5
    page = attribution.counts(found) + attribution.speed(found) + attribution.each(found)
    assert "**fastgradnorm** | 5 |" in page


def test_recipes(results):
    found = json.loads((results / "recipes.json").read_text())
    assert {row["score"] for row in found["labels"]} >= {"loss", "EL2N", "random"}
    assert {row["kept"] for row in found["pruning"]} >= {"all", "random"}
    assert all(-1 <= row["lds"]["mean"] <= 1 for row in found["influence"])


def test_readme_gets_its_tables(results, tmp_path):
    page = tmp_path / "README.md"
    page.write_text("\n".join(f"<!-- {b}:start -->\nold\n<!-- {b}:end -->" for b in BLOCKS))
    assert command_line.main(["readme", "--file", str(page), "--out", str(results)]) == 0
    text = page.read_text()
    # Neither traps nor planted faults were run, nor what has a test of its own here, or a GPU.
    assert text.count("old") == 9
    assert text.count(f"| {TINY.title}") >= 2
    assert len(targets.table(results).splitlines()) == 2 + len(targets.TARGETS)


def test_a_tiny_run_replaces_no_measurement(monkeypatch):
    monkeypatch.setattr(command_line.memory, "tiny", lambda folder: folder is not None)
    assert command_line.main(["memory", "--tiny"]) == 0


def test_a_process_of_its_own():
    cell = {"model": "tiny", "column": "entropy", "classes": 3, "batch": 2}
    assert alone.call("benchmarks.memory:cell", cell)["peak_bytes"] >= 0


@pytest.mark.parametrize("form", twins(TINY.make(3, 2)[0]))
def test_twins_have_the_same_scores(form):
    model, batch = TINY.make(3, 2)
    twin = twins(model)[form].double()
    options = {"scheme": ("expected", "entropy")}
    exact = naive_score_pool(model.double(), [batch.double()], **options)
    for score, values in naive_score_pool(twin, [batch.double()], **options).items():
        assert torch.allclose(values, exact[score], rtol=1e-10)


@pytest.mark.parametrize("way", ENGINES[0].ways)
def test_engines_are_asked_for_our_scores(way):
    setting = Setting(TINY, 3, 2)
    sq_norms = ENGINES[0].ways[way](setting.model)
    found = expected(sq_norms(setting.batch, label_losses(3)), setting.forward())[0]
    assert columns.relative_error(found, setting.exact(2, scheme="expected")) < 1e-5
    found = sq_norms(setting.batch, [entropy_loss])[:, 0].sqrt()
    assert columns.relative_error(found, setting.exact(2, scheme="entropy")) < 1e-5


def test_the_floor_adds_up_what_it_says():
    setting = Setting(TINY, 3, 2)
    times = {floor.PULLS: timing.Seconds([7.0], [7.0]), floor.FORWARD: timing.Seconds([1.0], [1.0])}
    found = floor.floors(setting, times, rate=math.inf)
    assert found["expected"].wall == [7.0 / 2]  # a forward pass and three pull-backs of 2 s
    assert found["entropy"].wall == [(1.0 + 2.0) / 2]
    assert found["last layer"].wall == [1.0 / 2]
    more = [floor.norm_flops(setting.model, setting.batch, k) for k in (1, 3)]
    products = floor.floors(setting, times, rate=1.0)
    assert products["entropy"].wall[0] - found["entropy"].wall[0] == more[0]
    assert products["expected"].wall[0] - found["expected"].wall[0] == more[1] > more[0]


def test_a_wrong_score_gets_no_time():
    found = columns.Columns()
    found.check("right", columns.Column(lambda: torch.ones(2), 2), torch.ones(2))
    found.check("wrong", columns.Column(lambda: torch.full((2,), 1.1), 2), torch.ones(2))
    assert set(found.found) == {"right"}
    assert found.refused["wrong"].startswith("wrong: relative error 0.1")


def test_choosing_is_measured(tmp_path):
    assert command_line.main(["acquire", "--tiny", "--out", str(tmp_path)]) == 0
    rows = json.loads((tmp_path / "acquire.json").read_text())["rows"]
    assert [row["strategy"] for row in rows] == ["top", "herding"]
    assert all(row["seconds_score"] > 0 and row["samples"] == 40 for row in rows)
