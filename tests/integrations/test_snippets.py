"""The documentation's snippets for other frameworks, run as they stand, alone."""

import itertools
import re
from pathlib import Path

import pytest
import torch

from fastgradnorm import score_pool, select

DOCS = Path(__file__).parents[2] / "docs"
RAY = Path(__file__).parents[1] / "distributed" / "ray_job.py"
SNIPPET = re.compile(
    r"^<!-- (in-[a-z]+) -->\n<!-- skip: next -->\n```python\n(.*?)^```", re.DOTALL | re.MULTILINE
)


def run(page, name):
    """Runs the code block behind `<!-- name -->`; returns the names that it makes."""
    text = (DOCS / page).read_text(encoding="utf-8")
    (code,) = [code for found, code in SNIPPET.findall(text) if found == name]
    names = {"__name__": "__main__"}
    exec(compile(code, f"{page}, {name}", "exec"), names)
    return names


def test_every_block_that_is_skipped_elsewhere_is_run_here():
    skipped = {path.name: path.read_text().count("skip: next") for path in DOCS.glob("*.md")}
    named = {
        path.name: [name for name, _ in SNIPPET.findall(path.read_text())]
        for path in DOCS.glob("*.md")
    }
    assert {page: len(names) for page, names in named.items()} == skipped
    source = Path(__file__).read_text() + RAY.read_text()
    for name in itertools.chain(*named.values()):
        assert f'"{name}")' in source or f"<!-- {name} -->" in source, name


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")  # Lightning's own
@pytest.mark.filterwarnings("ignore:The 'predict_dataloader' does not have many workers")
def test_lightning(tmp_path, monkeypatch):
    pytest.importorskip("lightning.pytorch")
    monkeypatch.chdir(tmp_path)
    found = run("integrations.md", "in-lightning")
    scores = score_pool(found["module"].net, found["loader"], params="last_layer", progress=False)
    assert found["indices"].tolist() == select(scores, 100).tolist()
    assert Path("scores.npz").exists()


# `datasets` sorts with an argument that pyarrow has given another place.
@pytest.mark.filterwarnings("ignore:Specifying null_placement:FutureWarning")
def test_datasets():
    pytest.importorskip("datasets")
    found = run("integrations.md", "in-datasets")
    x = torch.tensor(found["dataset"].sort("place")["x"][:])
    scores = score_pool(found["model"], [x], progress=False)
    assert found["dataset"]["place"][:] == select(scores, 12).tolist()
