"""What a choice of labels is worth: held-out accuracy by strategy and number of labels."""

import statistics
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fastgradnorm import Selection, acquire
from fastgradnorm.demo._digits import Digits
from fastgradnorm.demo._network import accuracy, fit
from fastgradnorm.demo._settings import Settings
from fastgradnorm.demo._watch import Watch

STRATEGIES = {
    "random": "Random",
    "entropy": "Plain entropy",
    "top": "Highest scores",
    "acquire": "acquire",
}
# What `acquire` calls them.
_NAMES = {"entropy": "entropy", "top": "expected/all/top", "acquire": "auto"}


@dataclass(frozen=True)
class Curve:
    """Accuracy of one strategy.

    Attributes:
        strategy: A key of `STRATEGIES`.
        label_counts: Labels at each point.
        accuracies: Per seed, per point; 0 to 1.
    """

    strategy: str
    label_counts: tuple[int, ...]
    accuracies: tuple[tuple[float, ...], ...]

    @property
    def means(self) -> list[float]:
        """Mean over seeds, per point."""
        return [statistics.fmean(point) for point in zip(*self.accuracies, strict=True)]

    @property
    def spreads(self) -> list[float] | None:
        """Standard deviation over seeds, per point; None for one seed."""
        if len(self.accuracies) < 2:
            return None
        return [statistics.stdev(point) for point in zip(*self.accuracies, strict=True)]

    def wins(self, other: "Curve", point: int) -> tuple[int, int]:
        """In how many seeds this strategy is above `other` at `point`, and in how many equal."""
        pairs = [
            (mine[point], theirs[point])
            for mine, theirs in zip(self.accuracies, other.accuracies, strict=True)
        ]
        return sum(a > b for a, b in pairs), sum(a == b for a, b in pairs)


def measure_learning(digits: Digits, settings: Settings, watch: Watch) -> list[Curve]:
    """The accuracy curve of every strategy; within a seed all start from the same network."""
    runs = [_Run(digits, settings, seed) for seed in range(settings.seeds)]
    jobs = [(run, strategy) for run in runs for strategy in STRATEGIES]
    found: dict[str, list[tuple[float, ...]]] = {strategy: [] for strategy in STRATEGIES}
    for run, strategy in watch(jobs, f"Train on chosen labels, {settings.seeds} seeds"):
        found[strategy].append(run.accuracies(strategy))
    return [Curve(strategy, settings.label_counts, tuple(rows)) for strategy, rows in found.items()]


def choose(
    model: nn.Module,
    digits: Digits,
    labelled: Tensor,
    pool: Tensor,
    settings: Settings,
    strategy: str = "acquire",
    seed: int = 0,
) -> Selection:
    """What to label next of the images at `pool`, for a model trained on those at `labelled`."""
    return acquire(
        model,
        digits.batches(pool, settings),
        settings.labels_per_step,
        labelled=digits.batches(labelled, settings),
        strategy=_NAMES[strategy],
        seed=seed,
        progress=False,
    )


class _Run:
    """One seed: its first labels, its pool, and its networks by the labels they learnt from."""

    def __init__(self, digits: Digits, settings: Settings, seed: int) -> None:
        self._digits, self._settings, self._seed = digits, settings, seed
        self._start, self._pool = digits.split(settings, seed)
        self._models: dict[tuple[int, ...], nn.Module] = {}

    def accuracies(self, strategy: str) -> tuple[float, ...]:
        digits, labelled = self._digits, self._start
        found = [self._test_accuracy(labelled)]
        for step in range(1, self._settings.steps + 1):
            labelled = self._choose(strategy, labelled, step)
            found.append(self._test_accuracy(labelled))
        assert not torch.isin(labelled, digits.test).any()
        return tuple(found)

    def _choose(self, strategy: str, labelled: Tensor, step: int) -> Tensor:
        """Indices labelled after `step` steps, given those labelled before it."""
        count = self._settings.labels_per_step
        if strategy == "random":
            return torch.cat([self._start, self._pool[: step * count]])  # it is in random order
        left = self._pool[~torch.isin(self._pool, labelled)]
        made = choose(
            self._fit(labelled), self._digits, labelled, left, self._settings, strategy, self._seed
        )
        return torch.cat([labelled, left[made.indices]])

    def _test_accuracy(self, labelled: Tensor) -> float:
        test = self._digits.test
        return accuracy(self._fit(labelled), self._digits.images[test], self._digits.labels[test])

    def _fit(self, labelled: Tensor) -> nn.Module:
        # Strategies that chose the same labels share the network, in whatever order they chose.
        labelled = labelled.sort().values
        key = tuple(labelled.tolist())
        if key not in self._models:
            images, labels = self._digits.images[labelled], self._digits.labels[labelled]
            steps = self._settings.train_steps
            self._models[key] = fit(images, labels, steps=steps, seed=self._seed)
        return self._models[key]
