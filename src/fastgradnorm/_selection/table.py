"""Every strategy by name: what chooses, and what it must be given."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from fastgradnorm._selection.adaptive_herding import adaptive_herding
from fastgradnorm._selection.badge import badge, diverse, spread
from fastgradnorm._selection.by_order import at_random, by_score
from fastgradnorm._selection.coreset import coreset, farthest
from fastgradnorm._selection.fisher import fisher
from fastgradnorm._selection.given import Chosen, Given
from fastgradnorm._selection.herding import herding
from fastgradnorm._selection.lcmd import lcmd
from fastgradnorm._selection.max_herding import max_herding
from fastgradnorm._selection.probcover import probcover
from fastgradnorm._selection.typiclust import typiclust
from fastgradnorm._selection.uncertainty import entropy, least_confidence, margin
from fastgradnorm._selection.uncertainty_herding import uncertainty_herding


@dataclass(frozen=True)
class Entry:
    """One strategy.

    Attributes:
        choose: Chooses.
        words: What it does, for people.
        scored: Whether it goes by the score.
        points: Whether it looks at points: features of the last layer, or sketches.
        space: The only points that it has a meaning for, if so.
        labelled: Whether it starts from the points of what is labelled.
        single: Whether a sample must have one label: not one a position, nor several.
        classes: Whether it looks at the probabilities of the classes.
    """

    choose: Callable[[Given], Chosen]
    words: str
    scored: bool = False
    points: bool = False
    space: str | None = None
    labelled: bool = False
    single: bool = False
    classes: bool = False


TABLE: dict[str, Entry] = {
    "herding": Entry(
        herding, "coverage of the pool, weighted by score", scored=True, points=True, labelled=True
    ),
    "adaptive": Entry(
        adaptive_herding,
        "coverage of the pool, weighted by score the more of it is covered",
        scored=True,
        points=True,
        labelled=True,
    ),
    "maxherding": Entry(max_herding, "coverage of the pool", points=True, labelled=True),
    "uherding": Entry(
        uncertainty_herding,
        "coverage of the pool, weighted by margin, with a radius that shrinks",
        points=True,
        labelled=True,
    ),
    "typiclust": Entry(typiclust, "typical samples of clusters", points=True, labelled=True),
    "probcover": Entry(
        probcover, "coverage of the pool by balls", points=True, labelled=True, classes=True
    ),
    "coreset": Entry(coreset, "each the farthest from the others", points=True, labelled=True),
    "kcenter": Entry(farthest, "each the farthest from the others chosen", points=True),
    "lcmd": Entry(
        lcmd, "the farthest of the largest cluster around the others", points=True, labelled=True
    ),
    "bait": Entry(
        fisher,
        "what tells most about the last layer",
        points=True,
        space="features",
        labelled=True,
        single=True,
        classes=True,
    ),
    "badge": Entry(
        badge,
        "far-apart gradients of the last layer",
        points=True,
        space="features",
        single=True,
        classes=True,
    ),
    "diverse": Entry(
        diverse,
        "far-apart directions of the gradient, weighted by score",
        scored=True,
        points=True,
        space="sketch",
    ),
    "kmeans++": Entry(spread, "far-apart points", points=True),
    "top": Entry(by_score, "the highest scores", scored=True),
    "gumbel": Entry(
        partial(by_score, draw="gumbel"), "drawn by the exponential of the score", scored=True
    ),
    "proportional": Entry(partial(by_score, draw="proportional"), "drawn by score", scored=True),
    "margin": Entry(margin, "two classes nearly as probable"),
    "entropy": Entry(entropy, "the least certain prediction, by its entropy"),
    "least_confidence": Entry(least_confidence, "the least probable prediction"),
    "random": Entry(at_random, "any"),
}
