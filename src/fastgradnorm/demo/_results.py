"""Everything that one run of the demo found; what the figures, the page and the tables show."""

import os
import platform
import sys
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor, nn

import fastgradnorm
from fastgradnorm import GradNormScorer, Selection
from fastgradnorm.demo._digits import Digits
from fastgradnorm.demo._learning import Curve, choose
from fastgradnorm.demo._network import ARCHITECTURE, probabilities
from fastgradnorm.demo._settings import Settings
from fastgradnorm.demo._speed import Speed


@dataclass(frozen=True)
class ScoredPool:
    """The pool of seed 0, as the network trained on the first labels sees it.

    Attributes:
        images: ``[N, 1, 8, 8]``.
        labels: True classes ``[N]``; no score and no choice depends on them.
        predictions: Predicted classes ``[N]``.
        entropies: Predictive entropies ``[N]``, nats.
        scores: Expected gradient lengths over all parameters ``[N]``.
        order: Indices of the pool, highest score first.
        provenance: What the scorer tells about its run.
        chosen: What `acquire` would label next, and why.
    """

    images: Tensor
    labels: Tensor
    predictions: Tensor
    entropies: Tensor
    scores: Tensor
    order: Tensor
    provenance: dict[str, Any]
    chosen: Selection

    @property
    def wrong(self) -> Tensor:
        """Which predictions are wrong ``[N]``."""
        return self.predictions != self.labels

    @property
    def rank_correlation(self) -> float:
        """Spearman's correlation between score and predictive entropy."""
        ranks = [values.argsort().argsort().double() for values in (self.scores, self.entropies)]
        return float(torch.corrcoef(torch.stack(ranks))[0, 1])


@dataclass(frozen=True)
class Results:
    """One run.

    Attributes:
        settings: How large it was.
        parameters: Trainable parameters of the network.
        test_accuracy: Of the network that scored `pool`.
        pool: The scored pool.
        speeds: Speed and exactness of every scheme.
        curves: Accuracy of every strategy.
        threads: That PyTorch computed with.
        seconds: Wall time, until the report is written.
    """

    settings: Settings
    parameters: int
    test_accuracy: float
    pool: ScoredPool
    speeds: list[Speed]
    curves: list[Curve]
    threads: int
    seconds: float

    def curve(self, strategy: str) -> Curve:
        """The accuracy curve of `strategy`."""
        return next(curve for curve in self.curves if curve.strategy == strategy)

    @property
    def headline_point(self) -> int:
        """The point of the curves where as many labels were chosen as there were at first."""
        wanted = 2 * self.settings.start_labels
        return self.settings.label_counts.index(wanted)

    def provenance(self) -> dict[str, str]:
        """Where the numbers come from: versions, machine, sizes, seeds and seconds."""
        settings = self.settings
        packages = ("torch", "numpy", "scikit-learn")
        return {
            "fastgradnorm": fastgradnorm.__version__,
            "Packages": ", ".join(f"{package} {version(package)}" for package in packages),
            "Python": f"{platform.python_version()} on {sys.platform} {platform.machine()}",
            "Threads": f"{self.threads}, on {os.cpu_count()} CPUs",
            "Network": f"{ARCHITECTURE}; {self.parameters:,} parameters",
            "Training": f"{settings.train_steps} steps of AdamW, batches of 32, from scratch",
            "Images": (
                f"{settings.start_labels} labelled at first, {len(self.pool.scores):,} in the "
                f"pool, {settings.test_images} held out for testing"
            ),
            "Seeds": f"0 to {settings.seeds - 1}" if settings.seeds > 1 else "0",
            "Wall time": f"{self.seconds:.0f} s",
        }

    def to_json(self) -> dict[str, Any]:
        """The figures behind the page, as plain lists and numbers."""
        return {
            "provenance": self.provenance(),
            "scorer": {key: _plain(value) for key, value in self.pool.provenance.items()},
            "settings": asdict(self.settings),
            "test_accuracy": self.test_accuracy,
            "chosen": self.pool.chosen.records,
            "speed": [{**asdict(speed), "speedup": speed.speedup} for speed in self.speeds],
            "curves": [
                {**asdict(curve), "means": curve.means, "spreads": curve.spreads}
                for curve in self.curves
            ],
        }


def score_digits(
    model: nn.Module, digits: Digits, labelled: Tensor, pool: Tensor, settings: Settings
) -> ScoredPool:
    """Score the images at `pool`, and keep what the report shows of them."""
    scorer = GradNormScorer(model, scheme="expected", progress=False)
    found = scorer.score(digits.batches(pool, settings))
    predicted = probabilities(model, digits.images[pool])
    return ScoredPool(
        images=digits.images[pool],
        labels=digits.labels[pool],
        predictions=predicted.argmax(1),
        entropies=torch.special.entr(predicted).sum(1),
        scores=found.values,
        order=found.select(len(pool)),
        provenance=dict(found.provenance),
        chosen=choose(model, digits, labelled, pool, settings),
    )


def _plain(value: object) -> object:
    """`value` as JSON can hold it."""
    if isinstance(value, str | int | float | bool | None):
        return value
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str(value)
