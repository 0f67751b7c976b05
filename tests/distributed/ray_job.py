"""Scores in Ray Data: by two actors, one killed once; in a run that must fail; by the page."""

import os
import re
import sys
import tempfile
from pathlib import Path

import numpy as np
import ray
import torch

from fastgradnorm import score_pool
from fastgradnorm.integrations.ray_data import GradNormActor
from tests.support import pools

PAGE = Path(__file__).parents[2] / "docs" / "scaling.md"
HOW = {"batch_format": "numpy", "batch_size": 5, "num_cpus": 0.5}


class Mortal(GradNormActor):
    """Dies on the row of id 111, once."""

    def __init__(self, *args, died, **kwargs):
        super().__init__(*args, **kwargs)
        self.died = Path(died)

    def __call__(self, batch):
        if 111 in batch["id"] and not self.died.exists():
            self.died.touch()
            os._exit(1)
        return super().__call__(batch)


def main(folder):
    rows = pools.inputs().numpy()
    table = [{"id": 100 + i, "x": row, "name": str(i)} for i, row in enumerate(rows)]
    pool = ray.data.from_items(table, override_num_blocks=8)
    names = {"input_column": "x", "id_column": "id"}
    found = pool.map_batches(
        Mortal,
        fn_constructor_args=[pools.mlp],
        fn_constructor_kwargs={
            **names,
            "scheme": ["expected", "entropy"],
            "died": Path(folder) / "died",
        },
        concurrency=2,
        **HOW,
    ).take_all()
    torch.save({"found": found}, Path(folder) / "found.pt")

    rows = np.copy(rows)
    rows[30] = np.nan
    table = [{"id": 100 + i, "x": row} for i, row in enumerate(rows)]
    failing = ray.data.from_items(table).map_batches(
        GradNormActor,
        fn_constructor_args=[pools.mlp],
        fn_constructor_kwargs=names,
        concurrency=1,
        **HOW,
    )
    try:
        failing.take_all()
    except Exception as error:
        (Path(folder) / "error.txt").write_text(f"{type(error).__name__}: {error}")

    text = PAGE.read_text(encoding="utf-8")
    (code,) = re.findall(r"<!-- in-ray -->\n<!-- skip: next -->\n```python\n(.*?)```", text, re.S)
    names = {"__name__": "__main__"}
    exec(compile(code, str(PAGE), "exec"), names)
    expected = score_pool(names["load_model"](), [torch.from_numpy(names["images"])])
    page = {"rows": names["scores"].take_all(), "expected": expected}
    torch.save(page, Path(folder) / "page.pt")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="ray") as scratch:  # short: it holds sockets
        ray.init(num_cpus=2, include_dashboard=False, object_store_memory=2**27, _temp_dir=scratch)
        ray.data.DataContext.get_current().enable_progress_bars = False
        main(*sys.argv[1:])
        ray.shutdown()
