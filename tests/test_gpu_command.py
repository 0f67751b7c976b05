"""The command for GPUs runs through without one: tiny shapes, kernels interpreted, in limits."""

import dataclasses
import json
import os
import shutil
import sys
import time
import warnings
from pathlib import Path
from threading import Thread

import pytest
import torch

from benchmarks import __main__ as command_line
from benchmarks.engines import ENGINES, Engine
from benchmarks.gpu import (
    baselines,
    command,
    engine,
    kernel_tests,
    large_models,
    launches,
    precision,
    reference,
    syncs,
    throughput,
)
from benchmarks.gpu.parts import PARTS
from benchmarks.gpu.processes import LOST, Job, run_all
from benchmarks.gpu.report import Report
from benchmarks.setting import Setting

pytestmark = pytest.mark.slow


def _dry(tmp_path, name="part"):
    return Report(tmp_path / f"{name}.json", 300, dry=True)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """A folder that the parts whose kernels are interpreted have written to."""
    folder = tmp_path_factory.mktemp("gpu")
    parts = "tests,kernels,heads,sweep,exact"
    options = ["--dry", "--parts", parts, "--seconds", "300", "--out", str(folder)]
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
        assert command_line.main(["gpu", *options]) == 0
    return {path.stem: json.loads(path.read_text()) for path in folder.iterdir()}


def test_one_file_a_part_and_a_summary(results):
    parts = {"gpu_tests", "gpu_kernels", "gpu_heads", "gpu_sweep", "gpu_exact"}
    assert set(results) == {*parts, "gpu_summary"}
    summary = results["gpu_summary"]
    assert {"commit", "versions"} <= set(summary["provenance"])
    assert all(summary["summary"].values())
    for name in parts:
        assert not results[name]["errors"]
        assert not results[name]["left_out"]
        assert not results[name]["open"]


def test_tests_of_kernels_are_counted(results):
    rows = {row["key"]: row for row in results["gpu_tests"]["rows"]}
    assert rows["small cases"]["ok"]
    assert rows["tests: backends"]["ok"]
    assert rows["tests: backends"]["passed"] > 5
    assert rows["tests"]["not_run"] == 0
    assert rows["tests"]["collected"] == rows["tests: backends"]["passed"]


def test_every_operation_has_a_row_and_an_error(results):
    rows = [row for row in results["gpu_kernels"]["rows"] if "kernel_ms" in row]
    assert len({row["operation"] for row in rows}) == 8
    assert all(row["error"] < 1e-5 for row in rows)
    assert any("compiled_ms" in row for row in results["gpu_kernels"]["rows"])


def test_block_sizes_are_replaced_and_held_against_the_others(results):
    rows = results["gpu_sweep"]["rows"]
    assert len({row["key"].split(",")[0] for row in rows}) == 5
    assert all(row["times"] and not row["failed"] for row in rows)
    heads = [row for row in results["gpu_heads"]["rows"] if "times" in row]
    assert len(heads) == 2
    assert all(row["times"] and not row["failed"] for row in heads)


def test_other_packages_are_timed_where_they_are_right():
    setting = Setting(large_models.case("resnet18", dry=True), 4, 3)
    facts, chunk, run = baselines.rival(ENGINES[0], setting, precision.IEEE)
    assert facts["sq_norms_err"] < 1e-5
    # Which chunk is fastest is the machine's business: three samples run in twos or at once.
    assert chunk in (2, 3)
    assert run().shape == (chunk, 1)
    half = {
        "by halves": lambda model: lambda *args: ENGINES[0].ways["vmap(grad)"](model)(*args) / 2
    }
    wrong = Engine("half of it", "torch", "torch", half)
    with pytest.raises(ArithmeticError, match=r"wrong: relative error 0\.5"):
        baselines.rival(wrong, setting, precision.IEEE)


def test_exact_products_are_exact(results):
    rows = results["gpu_exact"]["rows"]
    assert len(rows) == 3
    assert all(row["exact error"] < 3e-7 for row in rows)
    assert all(row["tiles"] for row in rows)


@pytest.mark.filterwarnings("ignore::fastgradnorm.SlowPathWarning")
@pytest.mark.filterwarnings("ignore:Please use the new API")
def test_the_engine_beside_float64(tmp_path):
    report = _dry(tmp_path)
    engine.one(report, "unet")
    exact = [row for row in report.document["rows"] if row.get("mode") == "float32"]
    assert len(exact) >= 3
    assert all(row.get("worst", 0.0) < engine.TARGET for row in exact)
    assert any(row["key"].endswith("syncs") for row in report.document["rows"])
    assert engine.table(report.document)


def test_launches_and_throughput(tmp_path):
    for module in (launches, throughput):
        report = _dry(tmp_path, module.__name__)
        module.run(report)
        assert not report.document["errors"]
        assert module.table(report.document)
        assert module.summary(report.document)
    cells = [row for row in report.document["rows"] if "columns" in row]
    for row in cells:
        assert {"expected", "forward", "pulls", "training step", "naive"} <= set(row["columns"])
        assert row["columns"]["expected"]["error"] < 1e-2
        assert row["columns"]["expected"]["times the floor"] > 0


def test_the_reference_is_plain_autograd():
    model = torch.nn.Linear(3, 2).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    batch = torch.tensor([[1.0, 0, 0], [1.0, 1, 1]])
    how = {"dense": False, "cudnn": True, "device": "cpu"}
    found = reference.scores(model, batch, head=None, **how)
    assert torch.allclose(found["expected"], torch.tensor([1.0, 2.0]).double().sqrt())
    assert reference.rank_correlation(torch.tensor([1.0, 5, 3]), torch.tensor([0.1, 0.9, 0.2])) == 1


def test_a_step_that_raises_costs_no_other(tmp_path):
    report = _dry(tmp_path)
    with report.step("bad"):
        raise ValueError("planted")
    with report.step("good") as row:
        row["found"] = float("nan")
    with pytest.raises(KeyboardInterrupt), report.step("cut") as row:
        row["half"] = 1
        raise KeyboardInterrupt
    stored = json.loads(report.path.read_text())
    assert "planted" in stored["errors"]["bad"]
    assert [row["key"] for row in stored["rows"]] == ["good", "cut"]
    assert stored["rows"][0]["found"] == "nan"
    assert stored["rows"][1]["half"] == 1
    again = Report(report.path, 300, dry=True)
    assert not any(again.wanted(key) for key in ("bad", "good", "cut"))
    assert again.wanted("another")
    assert not again.wanted("another", least=1000)
    assert again.document["left_out"] == ["another"]


def test_a_process_that_hangs_is_ended_and_one_that_crashed_goes_on(tmp_path):
    hangs = Job("hangs", [sys.executable, "-c", "import time; time.sleep(99)"], tmp_path / "1", 0.5)
    mark = tmp_path / "mark"
    code = f"import pathlib, sys; p = pathlib.Path({str(mark)!r}); n = p.exists(); p.touch()"
    crash = [sys.executable, "-c", f"{code}; sys.exit(0 if n else {LOST})"]
    crashes, ended = Job("crashes", crash, tmp_path / "2", 60, retries=1), []
    start = time.monotonic()
    assert run_all([hangs, crashes], 2, 60, dry=True, done=ended.append) == []
    assert time.monotonic() - start < 50
    assert hangs.ended
    assert "no end within" in hangs.told()
    assert crashes.status == 0
    assert {job.name for job in ended} == {"hangs", "crashes"}
    late = Job("late", ["true"], tmp_path / "3", 1)
    assert run_all([late], 1, 0, dry=True) == [late]


def test_waits_are_told_by_place():
    def wait():
        warnings.warn("called a synchronizing CUDA operation", stacklevel=1)

    assert syncs.places(lambda: None, cuda=False) == {}
    ((place, count),) = syncs.places(lambda: [wait(), wait()], cuda=False).items()
    assert count == 2
    assert "wait" in place


def test_a_failing_test_and_a_sanitizer_are_told(tmp_path):
    (tmp_path / "test_planted.py").write_text(
        "def test_good(): pass\ndef test_bad(): assert 1 == 2, 'planted'\n"
    )
    files = [tmp_path / "test_planted.py"]
    job = kernel_tests._pytest(tmp_path, "all of it", "good or bad", 60, files, 1)
    run_all([job], 1, 60, dry=True)
    row, whole = kernel_tests._tested(job)
    assert (row["ok"], row["passed"], row["failed"]) == (False, 1, 1)
    assert (whole["ok"], whole["collected"], whole["not_run"]) == (False, 2, 0)
    (text,) = row["failures"].values()
    assert "planted" in text
    script = "print('========= ERROR SUMMARY: 3 errors'); raise SystemExit(9)"
    job = Job("sanitizer", [sys.executable, "-c", script], tmp_path / "s.log", 60)
    run_all([job], 1, 60, dry=True)
    row = kernel_tests._sanitized(job)
    assert not row["ok"]
    assert row["summary"] == "ERROR SUMMARY: 3 errors"


@pytest.fixture(scope="module")
def cut_off(tmp_path_factory):
    """By workers, a run of tests of which some hang, cut off when no worker does anything else."""
    jobs = {}
    for workers in (1, 2):
        folder = tmp_path_factory.mktemp("cut")
        (folder / "test_planted.py").write_text(
            "import time\nimport pytest\n"
            "@pytest.mark.parametrize('name', ['a b', 'c'])\n"
            "def test_good(name): pass\n"
            "def test_bad(): assert 1 == 2\n"
            "def test_skipped(): pytest.skip('no')\n"
            + "".join(
                f"def test_hangs_{i}():\n"
                f"    open({str(folder / f'hangs{i}')!r}, 'w').close()\n"
                "    time.sleep(100)\n"
                for i in range(3)
            )
        )
        files = [folder / "test_planted.py"]
        jobs[workers] = kernel_tests._pytest(folder, "cut", "test", 90, files, workers)
        Thread(target=_cut, args=(jobs[workers], folder, workers)).start()
    run_all([*jobs.values()], 2, 100, dry=True)
    return jobs


def _cut(job, folder, workers):
    """Its limit is there, a little after each worker has begun a test that hangs."""
    while not job.ended and len([*folder.glob("hangs*")]) < workers:
        time.sleep(0.05)
    job.limit = job.seconds + 2


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("report", [True, False], ids=["report", "log alone"])
def test_a_run_of_tests_that_is_cut_off_tells_what_it_found(cut_off, tmp_path, workers, report):
    job = cut_off[workers]
    if not report:  # as if it had not come to writing one
        job = dataclasses.replace(job, log=Path(shutil.copy(job.log, tmp_path)))
    assert job.ended
    *rows, whole = kernel_tests._tested(job)
    (row,) = rows
    assert (row["passed"], row["skipped"]) == (2, 1)
    assert list(row["failures"]) == ["test_bad"]
    assert (whole["ok"], whole["collected"]) == (False, 7)
    assert whole["not_run"] == 3


def test_parts_share_the_time():
    stages = command._stages([name for name, part in PARTS.items() if not part.asked])
    untimed = ["engine", "tests", "contract", "calls"]
    assert next(names for names, _, _ in stages) == untimed
    assert sum(weight for _, weight, _ in stages) <= command.BUDGET
    ((names, _weight, rest),) = command._stages(["engine"])
    assert (names, rest) == (["engine"], 0)
    assert [names for names, _, _ in command._stages(["kernels"])] == [[], ["kernels"]]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a device")
def test_without_a_device_it_says_so(capsys):
    assert command.main(["kernels"]) == 2
    assert "--dry" in capsys.readouterr().err


def test_a_folder_that_cannot_be_written(tmp_path, capsys):
    taken = tmp_path / "file"
    taken.write_text("")
    other = command._writable(taken)
    assert os.access(other, os.W_OK)
    assert other != taken
    assert "cannot be written" in capsys.readouterr().err


def test_parts_are_checked(capsys):
    with pytest.raises(SystemExit):
        command_line.main(["gpu", "--parts", "engine,nonsense"])
    assert "nonsense" in capsys.readouterr().err
