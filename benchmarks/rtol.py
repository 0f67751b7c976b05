"""Scores to a relative standard error beside exact ones: pull-backs, time, error, calibration.

    python -m benchmarks rtol

Two models are trained on the spot: the six-convolution network on scikit-learn's digits, and a
small one on a thousand noisy patterns. Errors are against our own exact scores, over several seeds
of the draws; the tests hold both against the float64 loop.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks import provenance, timing
from benchmarks.models import CNN
from fastgradnorm import GradNormScorer, PoolScores

RTOL = 0.02
SEEDS = 5


@dataclass(frozen=True)
class Case:
    """A trained model and a pool it has not seen, in batches."""

    title: str
    classes: int
    model: nn.Module
    accuracy: float
    pool: list[Tensor]
    timed: list[Tensor]


def digits() -> Case:
    """Ten classes."""
    from sklearn import datasets

    images, labels = datasets.load_digits(return_X_y=True)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    x = torch.tensor(images, dtype=torch.float32).reshape(-1, 1, 8, 8)[order] / 16
    x = F.interpolate(x, size=(16, 16), mode="bilinear").expand(-1, 3, -1, -1).contiguous()
    y = torch.tensor(labels)[order]
    model = _trained(CNN(10), x[:1285], y[:1285], epochs=8)
    pool = list(x[1285:].split(256))
    accuracy = _accuracy(model, x[1285:], y[1285:])
    return Case("6-conv CNN, digits at 16x16", 10, model, accuracy, pool, pool[:1])


def patterns(classes: int = 1000) -> Case:
    """A thousand classes, each a smooth pattern under noise."""
    prototypes = F.interpolate(torch.randn(classes, 3, 4, 4), size=(16, 16), mode="bilinear")

    def draw(count: int) -> tuple[Tensor, Tensor]:
        labels = torch.randint(classes, (count,))
        return prototypes[labels] + 0.9 * torch.randn(count, 3, 16, 16), labels

    x, y = draw(16_000)
    model = _trained(_small(classes), x, y, epochs=4)
    held, labels = draw(384)
    accuracy = _accuracy(model, held, labels)
    title = "4-conv CNN, 1000 patterns at 16x16"
    return Case(title, classes, model, accuracy, [held], [held[:16]])


def _small(classes: int) -> nn.Module:
    layers: list[nn.Module] = []
    for i, o, pool in ((3, 24, 1), (24, 24, 2), (24, 48, 1), (48, 48, 1)):
        layers += [nn.Conv2d(i, o, 3, padding=1), nn.BatchNorm2d(o), nn.ReLU(), nn.MaxPool2d(pool)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(48, classes))


def _trained(model: nn.Module, x: Tensor, y: Tensor, epochs: int) -> nn.Module:
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3 if len(x) < 10_000 else 3e-3)
    model.train()
    for _ in range(epochs):
        for index in torch.randperm(len(x)).split(64 if len(x) < 10_000 else 128):
            optimizer.zero_grad()
            F.cross_entropy(model(x[index]), y[index]).backward()
            optimizer.step()
    return model.eval()


@torch.no_grad()
def _accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    return float((model(x).argmax(-1) == y).double().mean())


def measure(case: Case, rounds: int, budget: float) -> dict[str, Any]:
    """One row: agreement over all seeds, time for one."""

    def scorer(rtol: float, pool: list[Tensor], seed: int = 0) -> Callable[[], PoolScores]:
        made = GradNormScorer(case.model, rtol=rtol, seed=seed, verify=False, progress=False)
        return lambda: made.score(pool)

    exact = scorer(0, case.pool)().values.double()
    found = [scorer(RTOL, case.pool, seed)() for seed in range(SEEDS)]
    errors = torch.cat([s.values.double() - exact for s in found])
    relative = errors / exact.repeat(SEEDS)
    standard = torch.cat([s.standard_error.double() for s in found])
    ratios = (errors / standard)[standard > 0].abs()
    runs = {"exact": scorer(0, case.timed), "rtol": scorer(RTOL, case.timed)}
    times = timing.side_by_side(runs, rounds, budget)
    pulled = sum(s.provenance["pull_backs"] for s in found)
    return {
        "title": case.title,
        "classes": case.classes,
        "accuracy": case.accuracy,
        "samples": len(exact),
        "samples_timed": len(case.timed[0]),
        "rtol": RTOL,
        "seeds": SEEDS,
        "pull_backs": pulled / len(errors),
        "rms_error": float(relative.square().mean().sqrt()),
        "bias": float(relative.mean()),
        "largest_error": float(relative.abs().max()),
        "largest_standard_error": float((standard / exact.repeat(SEEDS)).max()),
        "within_one": float((ratios < 1).double().mean()),
        "within_two": float((ratios < 2).double().mean()),
        "drawn": float((standard > 0).double().mean()),
        "rank_correlation": min(_rank_correlation(s.values, exact) for s in found),
        "speedup": timing.ratio(times["exact"], times["rtol"]),
        "speedup_cpu": timing.ratio(times["exact"], times["rtol"], clock="cpu"),
        "seconds": {name: each.summary() for name, each in times.items()},
    }


def _rank_correlation(a: Tensor, b: Tensor) -> float:
    """Spearman's."""
    ranks = torch.stack([values.argsort().argsort().double() for values in (a, b)])
    return float(torch.corrcoef(ranks)[0, 1])


def tiny(folder: Path | None) -> int:
    """Every step, with as few rounds as there can be."""
    return main(folder, 0.0)


def main(folder: Path | None, seconds: float = 60.0) -> int:
    """Measures, prints and stores, if there is a folder for it."""
    torch.manual_seed(0)
    rows = []
    for make in (digits, patterns):
        row = measure(make(), 9, seconds)
        rows.append(row)
        print(
            f"{row['title']}, accuracy {row['accuracy']:.3f}, {row['samples']} samples\n"
            f"  {row['pull_backs']:.2f} pull-backs instead of {row['classes']}: "
            f"{row['speedup']:.2f} x faster ({row['speedup_cpu']:.2f} in processor time)\n"
            f"  error: rms {row['rms_error']:.2%}, mean {row['bias']:+.2%}, largest "
            f"{row['largest_error']:.1%}; rank correlation {row['rank_correlation']:.5f}\n"
            f"  within one standard error {row['within_one']:.1%}, within two "
            f"{row['within_two']:.1%}, of {row['drawn']:.0%} that have one",
            flush=True,
        )
    if folder:
        found = {"provenance": provenance.provenance(), "rows": rows}
        print(f"written: {provenance.store('rtol', found, folder)}")
    return 0
