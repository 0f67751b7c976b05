"""What curves say: paired differences with intervals, areas, labels saved, time spent."""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from benchmarks.label_efficiency.curves import Curve, Results

K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True)
class Interval:
    """A mean and its 95 % confidence interval, NaN for a single value."""

    mean: float
    low: float
    high: float

    @property
    def sign(self) -> int:
        """1 if the whole interval is above zero, -1 if below, else 0."""
        return int(self.low > 0) - int(self.high < 0)


def t_interval(values: Sequence[float]) -> Interval:
    r"""Mean :math:`\pm t_{0.975, n-1} \, s / \sqrt n`, Student's interval for a mean."""
    from scipy import stats

    mean, n = float(np.mean(values)), len(values)
    if n < 2:
        return Interval(mean, math.nan, math.nan)
    half = float(stats.t.ppf(0.975, n - 1) * np.std(values, ddof=1) / math.sqrt(n))
    return Interval(mean, mean - half, mean + half)


def paired_p(differences: Sequence[float]) -> float:
    """Of Student's two-sided test that the mean of paired differences is zero; 1 of fewer than two.

    Differences that are all alike are certain, unless they are zero.
    """
    from scipy import stats

    values = np.asarray(differences, float)
    if len(values) < 2:
        return 1.0
    if np.ptp(values) == 0:
        return float(values[0] == 0)
    return float(stats.ttest_1samp(values, 0).pvalue)


def holm(p: Mapping[K, float], planned: int | None = None) -> dict[K, float]:
    """Values of p, corrected for how many there are (Holm, 1979).

    The i-th smallest of m is multiplied by `m - i + 1`, and none is smaller than one before it.

    Args:
        p: By name.
        planned: How many were planned, m: those that were not made count as if they had shown
            nothing. None: all were.
    """
    found, highest = {}, 0.0
    count = len(p) if planned is None else planned
    for place, (name, value) in enumerate(sorted(p.items(), key=lambda item: item[1])):
        highest = max(highest, min(1.0, (count - place) * value))
        found[name] = highest
    return found


def area(curve: Curve) -> float:
    """Area under the headline curve over labels, divided by their range: the curve's mean."""
    labels, values = np.asarray(curve.labels, float), np.asarray(curve.headline)
    if len(labels) == 1:
        return float(values[0])
    return float(np.trapezoid(values, labels) / (labels[-1] - labels[0]))


def final(curve: Curve) -> float:
    """The headline metric with all labels."""
    return curve.headline[-1]


def scoring_share(curve: Curve) -> float:
    """Seconds of scoring over those of training, scoring and selecting, in buying cycles."""
    total = sum(curve.seconds[name] for name in ("train", "score", "select"))
    return curve.seconds["score"] / total if total else 0.0


def labels_to_reach(labels: Sequence[int], values: Sequence[float], target: float) -> float:
    """Labels at which a curve first reaches `target`, between its points linearly; inf if never."""
    if values[0] >= target:
        return float(labels[0])
    for i in range(1, len(values)):
        if values[i] >= target:
            part = (target - values[i - 1]) / (values[i] - values[i - 1])
            return labels[i - 1] + part * (labels[i] - labels[i - 1])
    return math.inf


@dataclass(frozen=True)
class Summary:
    """One strategy of one task.

    Attributes:
        strategy: Its name.
        seeds: How many.
        labels: At each point.
        means: Headline metric at each point, over seeds.
        spreads: Standard deviations over seeds; zero for one seed.
        area: Mean over seeds of the area under the curve.
        final_gain: Paired difference at the last point, by the strategy compared with.
        area_gain: Paired difference of areas, the same.
        labels_to_random: Labels at which the mean curve reaches random's last mean.
        seconds_score: Of scoring a run, mean over seeds.
        share: Of the buying cycles' time spent scoring, mean over seeds.
    """

    strategy: str
    seeds: int
    labels: tuple[int, ...]
    means: tuple[float, ...]
    spreads: tuple[float, ...]
    area: float
    final_gain: dict[str, Interval]
    area_gain: dict[str, Interval]
    labels_to_random: float
    seconds_score: float
    share: float


REFERENCES = ("random", "entropy", "margin", "badge")


def summarise(results: Results) -> list[Summary]:
    """Every strategy, the highest mean area first.

    Raises:
        ValueError: If two curves of a seed differ in their labels, or in what they started with.
    """
    _check(results)
    random = results.of("random")
    target = _means(random)[-1] if random else math.nan
    found = [_summary(results, name, target) for name in results.strategies]
    return sorted(found, key=lambda summary: -summary.area)


def _summary(results: Results, name: str, target: float) -> Summary:
    mine = results.of(name)
    curves = list(mine.values())
    means, labels = _means(mine), curves[0].labels
    values = np.array([curve.headline for curve in curves])
    final_gain, area_gain = {}, {}
    for other in REFERENCES:
        theirs = results.of(other)
        pairs = [(mine[seed], theirs[seed]) for seed in mine if seed in theirs]
        if pairs and other != name:
            final_gain[other] = t_interval([final(a) - final(b) for a, b in pairs])
            area_gain[other] = t_interval([area(a) - area(b) for a, b in pairs])
    return Summary(
        strategy=name,
        seeds=len(curves),
        labels=labels,
        means=means,
        spreads=tuple(values.std(0, ddof=1) if len(curves) > 1 else np.zeros(len(labels))),
        area=float(np.mean([area(curve) for curve in curves])),
        final_gain=final_gain,
        area_gain=area_gain,
        labels_to_random=labels_to_reach(labels, means, target),
        seconds_score=float(np.mean([curve.seconds["score"] for curve in curves])),
        share=float(np.mean([scoring_share(curve) for curve in curves])),
    )


def _means(curves: dict[int, Curve]) -> tuple[float, ...]:
    return tuple(np.mean([curve.headline for curve in curves.values()], axis=0).tolist())


def _check(results: Results) -> None:
    for curve in results.curves:
        first = next(c for c in results.curves if c.seed == curve.seed)
        if curve.labels != results.curves[0].labels or curve.start != first.start:
            raise ValueError(
                f"`results` must hold comparable curves. Got {curve.strategy!r}, seed "
                f"{curve.seed}, of other numbers of labels or another start set than "
                f"{first.strategy!r}. Run the task anew, without `--resume`."
            )
