"""Predictions and scores of a whole pool that tell samples apart by nothing."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from fastgradnorm._witness.findings import Finding

# One class for nearly all is ordinary for models that are not trained yet, unsure, or asked for
# something rare; so only where it is certain of one of three classes or more, over many samples.
_NEARLY_ALL, _CERTAIN, _MANY, _CLASSES = 0.99, 0.9, 64, 3
_SMALL, _TOGETHER = 4096, 16  # so many batches of so few logits are counted in the time of one
# Of scores, from the 5th to the 95th percentile, over the median.
_FLAT, _FEW = 1e-4, 16
ALIKE = "samples alike"  # the kind of finding with which flat scores are as they should be
_NEARLY_ZERO = 0.9  # of all samples: exact scores are above 0 far beyond any useful certainty


class Predictions:
    """The classes predicted for the samples looked at."""

    def __init__(self) -> None:
        self._counts: Counter[int] = Counter()
        self._certainty, self._classes = 0.0, 0
        self._waiting: list[Tensor] = []  # of small batches, to be counted together

    def add(self, logits: Tensor) -> None:
        """Logits `[n, C]` of some more; they are kept for a while."""
        last = self._waiting[-1] if self._waiting else logits
        if last.shape[1:] != logits.shape[1:] or last.dtype != logits.dtype:
            self._count()
        self._waiting.append(logits)
        if logits.numel() > _SMALL or len(self._waiting) >= _TOGETHER:
            self._count()

    def _count(self) -> None:
        """Those that wait, but for samples without a prediction."""
        if not self._waiting:
            return
        logits, self._waiting = torch.cat(self._waiting), []
        logits = logits[logits.isfinite().all(-1)]
        z = logits.to(torch.promote_types(logits.dtype, torch.float32))
        top, classes = z.max(-1)
        self._counts.update(classes.tolist())
        self._certainty += float((top - z.logsumexp(-1)).exp().sum())
        self._classes = logits.shape[-1]

    def judge(self) -> list[Finding]:
        """Whether one class is predicted for nearly all."""
        self._count()
        total = sum(self._counts.values())
        if total < _MANY or self._classes < _CLASSES:
            return []
        (top, count), *_ = self._counts.most_common(1)
        certainty = self._certainty / total
        if count < _NEARLY_ALL * total or certainty < _CERTAIN:
            return []
        return [
            Finding(
                "one class",
                f"`model` predicts class {top} for {count} of the {total} samples looked at, with "
                f"a mean probability of {certainty:.4g}: scores then tell little. Check that "
                "inputs are prepared as in training, and that the model is the trained one.",
            )
        ]


def judge_scores(by_scheme: Mapping[Any, Tensor], alike: bool) -> list[Finding]:
    """Looks at the scores `[N]` of a whole pool, by scheme; `alike`: its samples are the same."""
    for scheme, values in by_scheme.items():
        finite = values[values.isfinite()].double()
        if len(finite) < _FEW or len(finite) < len(values) / 2:
            continue
        zeros = int((finite == 0).sum())
        if zeros > _NEARLY_ZERO * len(finite):
            said = f"are 0 for {zeros} of {len(finite)} samples"
            return [_finding("zero scores", scheme, said, _ZERO)]
        low, middle, high = (float(_quantile(finite, q)) for q in (0.05, 0.5, 0.95))
        if not alike and middle > 0 and high - low < _FLAT * middle:
            said = f"are all within {(high - low) / middle:.1g} of {middle:.4g}, but for a tenth"
            return [_finding("flat scores", scheme, said, _SAME)]
    return []


_ZERO = "a class probability of 1 to all digits, or logits that no parameter that counts moves"
_SAME = "the model gives different samples the same logits"


def _quantile(values: Tensor, q: float) -> Tensor:
    return values.kthvalue(1 + round(q * (len(values) - 1))).values


def _finding(kind: str, scheme: str, said: str, why: str) -> Finding:
    return Finding(
        kind,
        f"Scores ({scheme}) {said}: {why}. Ranked by them, samples are in an order without "
        "meaning. Check what the model returns, and that inputs are prepared as in training.",
    )
