"""Each file of `examples/` runs as it stands, and ends with what it promises."""

import csv
import json
import os
import runpy
import warnings
from pathlib import Path

import pytest
import torch

from benchmarks.zoo import torchvision_operators
from tests.support.oracle import scores as referee

pytestmark = pytest.mark.slow

EXAMPLES = Path(__file__).parent.parent / "examples"
os.environ["HF_HUB_OFFLINE"] = "1"


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs a file in an empty folder, as `python FILE` does; returns its names."""
    monkeypatch.chdir(tmp_path)

    def call(name):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the frameworks
            return runpy.run_path(str(EXAMPLES / name), run_name="__main__")

    return call


def rows(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_each_has_a_test_and_a_line():
    here, told = Path(__file__).read_text(), (EXAMPLES / "README.md").read_text()
    for path in EXAMPLES.iterdir():
        if path.name != "README.md":
            assert f'"{path.name}"' in here, path
            assert f"({path.name})" in told, path


def test_image_folder(run):
    found = run("image_folder.py")
    names = Path("to_label.txt").read_text().splitlines()
    assert len({*names}) == 20
    assert all(Path(name).is_file() for name in names)
    assert [row["id"] for row in rows("to_label.csv")] == names
    assert Path("page/index.html").read_text().count('src="data:image/png') == 20
    assert found["chosen"].pool["samples"] == 80


def test_text_classifier(run):
    pytest.importorskip("transformers")
    pytest.importorskip("datasets")
    found = run("text_classifier.py")
    chosen = [row["text"] for row in rows("to_label.csv")]
    assert chosen == [found["texts"][i] for i in found["chosen"]]
    assert len(chosen) == 10
    assert min(found["chosen"]) >= 30


@pytest.fixture
def beside():
    """A package that the tests' requirements leave out: `.ci/examples` brings it."""
    torchvision_operators.declare()  # where torchvision is of another build than PyTorch
    return pytest.importorskip


def test_timm_folders(run, beside, capsys):
    beside("timm")
    found = run("timm_folders.py")
    copied = sorted(path.relative_to("to_label") for path in Path("to_label").rglob("*.png"))
    files = [found["pool"].files[i].relative_to("unlabelled") for i in found["chosen"]]
    assert copied == sorted(files)
    assert len({*copied}) == 12
    assert found["chosen"].pool["samples"] == 56
    page = Path("page/index.html").read_text()
    assert page.count('src="data:image/png') == 12
    assert all(name in page for name in ("blue", "green", "red"))
    right = referee(found["model"], [image[None] for image in found["pool"]], "entropy")
    torch.testing.assert_close(found["scores"].double(), right, rtol=1e-4, atol=1e-6)


def test_text_lora(run, beside):
    beside("peft")
    found = run("text_lora.py")
    chosen, texts = found["chosen"], found["texts"]
    assert [row["text"] for row in rows("to_label.csv")] == [texts[i] for i in chosen]
    assert min(chosen) >= 40
    assert len({*chosen}) == 10
    trained = [name for name, p in found["model"].named_parameters() if p.requires_grad]
    assert all("lora_" in name or "classifier" in name for name in trained)
    assert any("lora_" in name for name in trained)
    assert sum(p.numel() for p in found["model"].parameters() if p.requires_grad) == 1090
    samples = [found["collator"]([row]) for row in found["pool"]]
    right = referee(
        found["model"], samples, "expected", call=lambda model, batch: model(**batch).logits
    )
    torch.testing.assert_close(found["scores"].values.double(), right, rtol=1e-4, atol=1e-6)


def test_segmentation(run):
    found = run("segmentation.py")
    assert len({*found["chosen"]} - {*range(20)}) == 8
    assert len(found["scores"]) == 100


def test_tabular(run, capsys):
    pytest.importorskip("skorch")
    found = run("tabular.py")
    assert len({*found["chosen"]} - {*range(30)}) == 20
    assert "with 20 more labels:" in capsys.readouterr().out


def test_lstm(run):
    assert len({*run("lstm.py")["chosen"]} - {*range(40)}) == 15


def test_lightning(run):
    pytest.importorskip("lightning.pytorch")
    found = run("lightning_module.py")
    assert len({*found["data"].labelled}) == 80
    assert len(found["writer"].scores) == 300
    assert Path("scores.npz").exists()


def test_own_loop(run):
    curves = run("own_loop.py")["curves"]
    assert all(curve[-1] > curve[0] > 0.5 for curve in curves.values())


def test_people(run, capsys):
    found = run("people.py")
    status = found["campaign"].status()
    assert (status.rounds, status.labelled, status.skipped) == (3, 3 * 13, 3)
    assert capsys.readouterr().out.count("waits for ('photo-") == 3
    tasks = json.loads(Path("tasks.json").read_text())
    assert [task["data"]["rank"] for task in tasks] == [*range(1, 16)]


def test_notebook(tmp_path, monkeypatch, capsys):
    """Its cells in order; they print as many lines as stand below them."""
    pyplot = pytest.importorskip("matplotlib.pyplot")
    monkeypatch.setattr(pyplot, "show", lambda: pyplot.close("all"))
    monkeypatch.chdir(tmp_path)
    notebook = json.loads((EXAMPLES / "first_hour.ipynb").read_text(encoding="utf-8"))
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    assert len({cell["id"] for cell in notebook["cells"]}) == len(notebook["cells"])
    names = {"__name__": "__main__"}
    pictures = 0
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), cell["id"], "exec"), names)
            told = ["".join(o["text"]) for o in cell["outputs"] if o["output_type"] == "stream"]
            pictures += any("image/png" in o.get("data", {}) for o in cell["outputs"])
            printed = capsys.readouterr().out
            assert bool(printed) == bool(told), cell["id"]
            assert len(printed.splitlines()) == len("".join(told).splitlines()), cell["id"]
    assert pictures == 2
    assert len({*names["chosen"]} - {*range(60)}) == 60
    assert Path("page/index.html").exists()
    assert len(json.loads(Path("tasks.json").read_text())) == 60
