"""One case on one device: its reference scores, and everything of it that is timed."""

import copy
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.cases import Case, first, logits, move
from fastgradnorm import GradNormScorer, naive_score_pool

SHARP = 0.9  # mean probability of the predicted class of a sharpened model
RTOL = 0.02  # of the columns that estimate
# Our columns.
OURS: dict[str, dict[str, Any]] = {
    "expected": {"scheme": "expected"},
    "entropy": {"scheme": "entropy"},
    "last layer": {"params": "last_layer"},
}


class _Pool:
    """One batch again and again, said to be a pool of so many samples."""

    def __init__(self, batch: Any, samples: int) -> None:
        self.dataset, self._batch = range(samples), batch

    def __iter__(self) -> Iterator[Any]:
        return itertools.repeat(self._batch)


@dataclass
class Setting:
    """One case on one device.

    Attributes:
        model: With `classes` outputs, random weights, in eval mode.
        batch: Of `samples` samples.
        pool: Samples that `stream` is told to be there: of many, passes are traced. None: unknown.
    """

    case: Case
    classes: int
    samples: int
    device: str = "cpu"
    pool: int | None = None
    model: nn.Module = field(init=False)
    batch: Any = field(init=False)
    _exact: dict[str, Any] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.model, self.batch = self.case.make(self.classes, self.samples, self.device)

    def exact(self, samples: int, **options: Any) -> Any:
        """Scores of the first samples by the plain autograd loop in float64."""
        key = f"{samples} {sorted(options.items())}"
        if key not in self._exact:
            model = copy.deepcopy(self.model).double()
            batch = [move(first(self.batch, samples), self.device, torch.float64)]
            self._exact[key] = naive_score_pool(model, batch, **options)
        return self._exact[key]

    def stream(self, samples: int | None = None, **options: Any) -> Callable[[], Tensor]:
        """Scores of the batch, as a pool that goes on and on gets them.

        A last layer is verified at first, as only then it is found by a plain forward pass.
        """
        batch = self.batch if samples is None else first(self.batch, samples)
        verify: Any = "first" if options.get("params") == "last_layer" else False
        scorer = GradNormScorer(self.model, **options, latency=0, verify=verify, progress=False)
        pool = itertools.repeat(batch) if self.pool is None else _Pool(batch, self.pool)
        scores = scorer.stream(pool)
        return lambda: next(scores)

    def naive(self, samples: int, **options: Any) -> Callable[[], Tensor]:
        """The plain autograd loop over the first samples."""
        some = [first(self.batch, samples)]
        return lambda: naive_score_pool(self.model, some, **options)

    def training(self) -> Callable[[], Any]:
        """One step of stochastic gradient descent on the batch."""
        model = copy.deepcopy(self.model).train()
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-6)
        z = self.forward()
        labels = torch.randint(self.classes, (len(z), *z.shape[2:]), device=self.device)

        def run() -> None:
            F.cross_entropy(logits(model, self.batch), labels).backward()
            optimizer.step()
            optimizer.zero_grad()

        return run

    def forward(self) -> Tensor:
        """Logits alone."""
        with torch.no_grad():
            return logits(self.model, self.batch)

    def sharp_temperature(self) -> float:
        """What to divide logits by for predictions as sure as a trained model's.

        Random weights predict all classes alike, which is the easy case for sampling classes.
        """
        z = self.forward().double()
        low, high = 1e-6, 1e3
        for _ in range(60):
            middle = (low * high) ** 0.5
            sure = float((z / middle).softmax(1).amax(1).mean()) > SHARP
            low, high = (middle, high) if sure else (low, middle)
        return low
