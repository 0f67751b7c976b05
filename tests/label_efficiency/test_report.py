"""The page: tables from stored results around what was written by hand."""

import pytest

from benchmarks.label_efficiency import curves, report
from benchmarks.label_efficiency.curves import Curve, Results

pytest.importorskip("matplotlib")


@pytest.fixture
def stored(tmp_path):
    facts = {
        "title": "A toy",
        "command": "toy",
        "plan": {"start": 10, "budget": 10, "cycles": 1, "subset": 50},
        "pool": 1000,
        "workers": 2,
        "core_seconds": 12.0,
        "provenance": {
            "date": "2026-01-01T00:00:00",
            "commit": "abc",
            "machine": {"processor": "P"},
            "device": "cpu",
            "versions": {"torch": "2"},
        },
    }
    seconds = {"train": 6.0, "score": 3.0, "select": 1.0, "evaluate": 0.0}
    rows = {
        "random": [(0.2, 0.50), (0.3, 0.60), (0.4, 0.55)],
        "entropy": [(0.2, 0.50), (0.3, 0.50), (0.4, 0.50)],
        "ours": [(0.2, 0.60), (0.3, 0.71), (0.4, 0.66)],
    }
    found = [
        Curve(name, seed, (10, 20), {"accuracy": values}, seconds, "", "")
        for name, curve in rows.items()
        for seed, values in enumerate(curve)
    ]
    folder = tmp_path / "results"
    curves.store(Results("toy", facts, tuple(found)), folder)
    return tmp_path / "README.md", folder


@pytest.mark.slow
def test_page(stored):
    page, folder = stored
    report.write(page, folder)
    text = page.read_text()
    ours = next(line for line in text.splitlines() if line.startswith("| `ours`"))
    assert ours.startswith("| `ours` | 0.657 | **+10.7 [+9.2, +12.1]** | **+15.7 [+2.0, +29.3]** |")
    assert ours.endswith("| 17 | 30% (3.0 s) |")
    losing = next(line for line in text.splitlines() if line.startswith("| `entropy`"))
    assert "not reached" in losing
    assert "A toy. 10 labels at the start, 10 more in each of 1 cycles" in text
    assert "among 50 random ones of 1,000; 3 seeds" in text
    assert "![Learning curves](results/toy.png)" in text
    assert (folder / "toy.png").stat().st_size > 5000


@pytest.mark.slow
def test_conclusions_are_kept(stored):
    page, folder = stored
    report.write(page, folder)
    start, end = "<!-- conclusions:start -->", "<!-- conclusions:end -->"
    text = page.read_text().replace(f"{start}\n{end}", f"{start}\nOurs wins.\n{end}")
    page.write_text(text)
    report.write(page, folder)
    assert page.read_text() == text
    assert text.count("Ours wins.") == 1


def test_terminal_table(stored):
    shown = report.terminal(curves.load_all(stored[1])[0])
    assert shown.splitlines()[1].split()[:2] == ["ours", "0.657"]
