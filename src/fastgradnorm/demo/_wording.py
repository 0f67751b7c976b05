"""Numbers and sentences that the terminal and the page share. Each says what the run found."""

from fastgradnorm.demo._learning import Curve
from fastgradnorm.demo._results import Results

PARAMS = {"all": "all", "last_layer": "last layer"}


def percent(curve: Curve, point: int) -> str:
    """Accuracy at `point`: mean and, with more than one seed, standard deviation, in percent."""
    mean = f"{100 * curve.means[point]:.1f}"
    return mean if curve.spreads is None else f"{mean} ± {100 * curve.spreads[point]:.1f}"


def rate(samples_per_second: float) -> str:
    """Samples per second to three digits.

    Example:
        >>> rate(81.234), rate(12345.6)
        ('81.2', '12,300')
    """
    rounded = float(f"{samples_per_second:.3g}")
    return f"{rounded:,.0f}" if rounded >= 100 else f"{rounded:g}"


def headline(results: Results) -> str:
    """What the choice is worth against as many random images and plain entropy, whichever wins."""
    point = results.headline_point
    mine = results.curve("acquire")
    others = [_against(results, name, text) for name, text in _OTHERS.items()]
    return (
        f"With {results.settings.label_counts[point]} labels: {percent(mine, point)} % when "
        f"`acquire` chose the added ones; {'; '.join(others)}."
    )


_OTHERS = {"random": "random ones", "entropy": "those of the highest entropy"}


def _against(results: Results, other: str, text: str) -> str:
    point, seeds = results.headline_point, results.settings.seeds
    theirs = results.curve(other)
    wins, ties = results.curve("acquire").wins(theirs, point)
    tied = f", equal in {ties}" if ties else ""
    return (
        f"{percent(theirs, point)} % with {text}, of which it is ahead in {wins} of {seeds} "
        f"{'seeds' if seeds > 1 else 'seed'}{tied}"
    )
