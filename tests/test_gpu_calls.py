"""What the command for GPUs asks that users call, dry: on the CPU, a few of the calls."""

import pytest
import torch

from benchmarks.gpu import call_cases, calls, contract, gradients, pool, slices
from benchmarks.gpu.processes import ROOT
from benchmarks.gpu.report import Report, shortened

pytestmark = pytest.mark.slow


def _dry(tmp_path, name="part"):
    return Report(tmp_path / f"{name}.json", 300, dry=True)


@pytest.mark.parametrize("part", [calls, contract])
def test_calls_and_the_contract(tmp_path, part):
    report = _dry(tmp_path)
    part.one(report, "0/1")
    assert not report.document["errors"]
    assert len(report.document["rows"]) >= 3
    assert all(row["ok"] for row in report.document["rows"])
    assert part.summary(report.document)


def test_a_call_that_is_off_is_told(tmp_path, monkeypatch):
    def off(device, dtype):
        return {"one": torch.ones(2) * (1.1 if dtype == torch.float32 else 1.0)}

    monkeypatch.setitem(calls.CALLS, "products", call_cases.Call(off))
    report = _dry(tmp_path)
    calls.one(report, "0/1")
    assert [row["key"] for row in report.document["rows"] if not row["ok"]] == ["products"]
    assert "products" in "".join(calls.table(report.document))


def test_what_is_shared_out_is_joined(tmp_path):
    report = _dry(tmp_path)
    slices.share_out(report, "contract", ["0/5"])
    assert not report.document["errors"]
    assert {row["what"] for row in report.document["rows"]} == {"scores", "captured", "sketch"}
    gone = _dry(tmp_path, "gone")
    slices.share_out(gone, "contract", ["nonsense"])
    assert "nonsense" in str(gone.document["errors"])


def test_files_are_told_by_where_they_are_in_their_packages():
    told = f'File "{ROOT}/src/a.py", line 3\nFile "/a/lib/python3/site-packages/torch/b.py", line 4'
    lines = shortened(told).splitlines()
    assert lines == ['File "src/a.py", line 3', 'File "site-packages/torch/b.py", line 4']


@pytest.mark.parametrize("part", [gradients, pool])
def test_products_sketches_and_pools(tmp_path, part):
    report = _dry(tmp_path)
    part.run(report)
    assert not report.document["errors"]
    assert not report.document["left_out"]
    assert part.table(report.document)
    assert part.summary(report.document)
