"""Digits, a small convolutional network, and its training; each of a seed of its own."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

CLASSES = 10
# Of Student's distribution, 95 %, by degrees of freedom.
_STUDENT = {1: 12.71, 2: 4.30, 3: 3.18, 4: 2.78, 9: 2.26}


@dataclass(frozen=True)
class Digits:
    """Images `[N, 1, 8, 8]` and labels `[N]`, to train on and to test with."""

    x: Tensor
    y: Tensor
    test_x: Tensor
    test_y: Tensor


def digits(train: int, test: int) -> Digits:
    """The same split for everybody."""
    from sklearn import datasets

    images, labels = datasets.load_digits(return_X_y=True)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    x = torch.from_numpy(images).float().view(-1, 1, 8, 8)[order] / 16
    y = torch.from_numpy(labels).long()[order]
    return Digits(x[:train], y[:train], x[-test:], y[-test:])


def network() -> nn.Module:
    """4,362 parameters."""
    return nn.Sequential(
        *(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, CLASSES)),
    )


@dataclass
class Trained:
    """A model in eval mode, its optimizer, and its states after some epochs."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    states: list[dict[str, Tensor]]


def train(x: Tensor, y: Tensor, epochs: int, seed: int, keep: Sequence[int] = ()) -> Trained:
    """By Adam at 3e-3, 64 samples at a time; keeps the states after the epochs in `keep`."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = network()
        optimizer = torch.optim.Adam(model.parameters(), 3e-3)
        states = []
        for epoch in range(1, epochs + 1):
            for part in torch.randperm(len(x)).split(64):
                optimizer.zero_grad()
                F.cross_entropy(model(x[part]), y[part]).backward()
                optimizer.step()
            if epoch in keep:
                states.append({name: each.clone() for name, each in model.state_dict().items()})
    optimizer.zero_grad()
    return Trained(model.eval(), optimizer, states)


def accuracy(model: nn.Module, given: Digits) -> float:
    """On the test images."""
    with torch.no_grad():
        return float((model(given.test_x).argmax(1) == given.test_y).double().mean())


def summary(values: Sequence[float]) -> dict[str, float]:
    """Mean and half the width of its 95 % interval, over seeds."""
    each = torch.tensor(values, dtype=torch.float64)
    if len(each) < 2:
        return {"mean": float(each.mean()), "interval": math.nan}
    half = _STUDENT.get(len(each) - 1, 2.0) * float(each.std()) / len(each) ** 0.5
    return {"mean": float(each.mean()), "interval": half}


def pool(x: Tensor, y: Tensor) -> list[tuple[Tensor, Tensor]]:
    """In batches."""
    return list(zip(x.split(128), y.split(128), strict=True))
