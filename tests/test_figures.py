"""Figures of the pages are those of the stored runs: tables as they are made, and prose."""

import json
import re
from pathlib import Path

import pytest

from benchmarks import readme
from benchmarks.label_efficiency import regimes
from benchmarks.label_efficiency.regimes import paired_p
from benchmarks.provenance import RESULTS

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def stored(name):
    return json.loads((RESULTS / f"{name}.json").read_text())["rows"]


@pytest.mark.slow
def test_tables_are_what_is_made_of_the_stored_runs(tmp_path):
    pages = [page for page in PAGES if ":start -->" in page.read_text(encoding="utf-8")]
    copies = [tmp_path / page.name for page in pages]
    for page, copy in zip(pages, copies, strict=True):
        copy.write_bytes(page.read_bytes())
    assert readme.update(copies) == 0
    stale = [p.name for p, c in zip(pages, copies, strict=True) if p.read_bytes() != c.read_bytes()]
    assert not stale, f"Run `python -m benchmarks readme`: {stale}"
    assert len(pages) > 3


def benchmarks_in_prose():
    """Sentences of docs/benchmarks.md, with the figures of the stored runs."""
    of_pool = {
        (row["score"], row["samples"]): row["growth_bytes"] / 2**20
        for row in stored("scaling")
        if row["part"] == "pool"
    }
    yield f"grew by {of_pool['expected', 100_000]:.0f} MiB over 100,000 samples"
    assert of_pool["last layer", 1_000_000] < 1
    yield "by less than 1 MiB over a million"
    times = {
        row["key"]: row["eager_seconds"] / row["replay_seconds"] for row in stored("gpu_graphs")
    }
    narrow = [value for key, value in times.items() if "float32" not in key]
    yield f"{min(narrow):.0f} to {max(narrow):.0f} times as fast, in bfloat16"
    (wide,) = set(times.values()) - set(narrow)
    yield f"{wide:.1f} times in float32"
    rates = {
        row["key"]: row["columns"] for row in stored("gpu_throughput_h100") if "columns" in row
    }
    rival = {
        key: [v for name, v in columns["expected"].items() if re.search("Opacus|BackPACK", name)]
        for key, columns in rates.items()
        if columns and "resnet" in key and "bf16" in key
    }
    (small,) = [value for key, value in rival.items() if key.startswith("resnet18")]
    (large,) = [value for key, value in rival.items() if key.startswith("resnet50")]
    yield f"{min(small):.0f} to {max(small):.0f} times as fast as by Opacus and BackPACK"
    yield f"{min(large):.0f} times as fast as by the fastest of them"


def test_the_prose_of_benchmarks():
    text = " ".join((ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8").split())
    for sentence in benchmarks_in_prose():
        assert sentence in text, sentence


def over_all_differences():
    """p of the default's lead with few labels, which no table has: by Holm over all of a task."""
    found = [each for each in regimes.load_all(RESULTS / "regimes") if regimes.of_page(each)]
    raw = {
        (each.task, name): paired_p(regimes._differences(each, regimes.DEFAULT, name))
        for each in found
        for name in regimes.told(each)
        if name != regimes.DEFAULT
    }
    corrected = regimes.holm(raw, None)
    for task in ("digits", "segments"):
        yield from (f"{corrected[task, name]:.2g}" for name in ("margin", "badge"))


def test_the_prose_of_experiments_has_figures_of_its_tables_alone():
    page = (ROOT / "docs" / "experiments.md").read_text(encoding="utf-8")
    tables = "".join(re.findall(r"^\|.*\|$", page, re.MULTILINE))
    page = re.sub(r"\]\(.*?\)", "]", page)  # addresses
    prose = re.sub(r"<!-- [\w-]+:start -->.*?<!-- [\w-]+:end -->", "", page, flags=re.DOTALL)
    said = set(re.findall(r"\d+\.\d+", prose))
    assert len(said) > 20
    assert said - {*over_all_differences()} <= set(re.findall(r"\d+\.\d+", tables))
