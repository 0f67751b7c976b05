"""Regions of outdoor photographs by 18 numbers, 7 classes: a table, from the package river."""

import io
import zipfile
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import nn

from benchmarks.label_efficiency.arrays import Arrays, ArrayTask, Plan, Recipe
from benchmarks.label_efficiency.data_files import first_existing


def load(root: Path, device: str = "cpu") -> ArrayTask:
    """1,600 regions to label, 710 to test on; numbers of mean 0 and variance 1."""
    candidates = [root / "segment.csv.zip"]
    spec = find_spec("river")
    if spec is not None and spec.origin is not None:
        candidates.append(Path(spec.origin).parent / "datasets" / "segment.csv.zip")
    x, y = _read(first_existing("Image segments", candidates))
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(0))
    x, y = x[order], y[order]
    return ArrayTask(
        name="segments",
        title="image segments (UCI), 18 numbers, 7 classes, a perceptron of two hidden layers",
        train_set=Arrays(x[:1600], y[:1600]),
        test_set=Arrays(x[1600:], y[1600:]),
        network=network,
        recipe=Recipe(steps=100),
        plan=Plan(start=20, budget=20, cycles=5, subset=800),
        device=device,
    )


def load_paper(root: Path, device: str = "cpu") -> ArrayTask:
    """The same at the paper's budget: a tenth of the pool, then a twentieth a cycle of a half."""
    return replace(
        load(root, device),
        name="segments_paper",
        recipe=Recipe(steps=300),
        plan=Plan(start=160, budget=80, cycles=6, subset=800),
    )


def _read(path: Path) -> tuple[torch.Tensor, torch.Tensor]:
    with zipfile.ZipFile(path) as archive:
        text = archive.read(archive.namelist()[0]).decode()
    rows = np.loadtxt(io.StringIO(text), str, delimiter=",", skiprows=1)
    x = rows[:, :-1].astype(np.float64)
    x = (x - x.mean(0)) / x.std(0).clip(1e-9)
    _, y = np.unique(rows[:, -1], return_inverse=True)
    return torch.tensor(x, dtype=torch.float32), torch.tensor(y, dtype=torch.int64)


def network() -> nn.Module:
    """Two hidden layers of 64."""
    return nn.Sequential(
        nn.Linear(18, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 7)
    )
