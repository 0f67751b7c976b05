"""The documentation's snippets for other frameworks, run as they stand."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from fastgradnorm import score_pool, select
from tests.support.cases import MLP

PAGE = Path(__file__).parents[2] / "docs" / "integrations.md"


def run(name, names):
    """Runs the code block behind `<!-- name -->`; `names` are what it uses and what it makes."""
    text = PAGE.read_text(encoding="utf-8")
    (code,) = re.findall(
        rf"<!-- {name} -->\n<!-- skip: next -->\n```python\n(.*?)```", text, re.DOTALL
    )
    exec(compile(code, f"integrations.md, {name}", "exec"), names)
    return names


@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")  # Lightning's own
def test_lightning(tmp_path, monkeypatch):
    lightning = pytest.importorskip("lightning.pytorch")
    monkeypatch.chdir(tmp_path)

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = MLP()

        def forward(self, x):
            return self.net(x)

    def trainer(callbacks):
        return lightning.Trainer(
            accelerator="cpu", devices=1, logger=False, enable_checkpointing=False,
            enable_progress_bar=False, callbacks=callbacks,
        )  # fmt: skip

    module, loader = Module(), DataLoader(torch.randn(120, 10), batch_size=64)
    found = run("in-lightning", {"Trainer": trainer, "module": module, "loader": loader})
    scores = score_pool(module.net, loader, params="last_layer", progress=False)
    assert found["indices"].tolist() == select(scores, 100).tolist()
    assert Path("scores.npz").exists()


# `datasets` sorts with an argument that pyarrow has given another place.
@pytest.mark.filterwarnings("ignore:Specifying null_placement:FutureWarning")
def test_datasets():
    datasets = pytest.importorskip("datasets")
    x = np.random.default_rng(0).standard_normal((12, 10))
    dataset = datasets.Dataset.from_dict({"x": x.tolist(), "place": list(range(12))})

    def collator(rows):
        return torch.tensor([row["x"] for row in rows])

    model = MLP()
    found = run("in-datasets", {"dataset": dataset, "model": model, "collator": collator})
    scores = score_pool(model, [torch.from_numpy(x).float()], progress=False)
    assert found["dataset"]["place"][:] == select(scores, 12).tolist()
