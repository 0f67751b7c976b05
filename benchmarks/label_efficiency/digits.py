"""Handwritten digits, 8x8, from scikit-learn: small enough for every test run."""

from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from benchmarks.label_efficiency.arrays import Arrays, ArrayTask, Plan, Recipe


def load(root: Path, device: str = "cpu") -> ArrayTask:
    """1,297 digits to label, 500 to test on; nothing is read from `root`."""
    from sklearn import datasets

    images, labels = datasets.load_digits(return_X_y=True)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    x = torch.tensor(images, dtype=torch.uint8).reshape(-1, 1, 8, 8)[order]
    y = torch.tensor(labels, dtype=torch.int64)[order]
    return ArrayTask(
        name="digits",
        title="scikit-learn's digits, 8x8, 10 classes, a two-layer CNN",
        train_set=Arrays(x[500:], y[500:], 1 / 16),
        test_set=Arrays(x[:500], y[:500], 1 / 16),
        network=network,
        recipe=Recipe(steps=100),
        plan=Plan(start=20, budget=20, cycles=5, subset=500),
        device=device,
    )


def load_paper(root: Path, device: str = "cpu") -> ArrayTask:
    """The same at the paper's budget: a tenth of the pool, then a twentieth a cycle of a half."""
    return replace(
        load(root, device),
        name="digits_paper",
        recipe=Recipe(steps=300),
        plan=Plan(start=130, budget=65, cycles=6, subset=650),
    )


def network() -> nn.Module:
    """Two convolutions and a linear layer."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(128, 10),
    )  # fmt: skip
