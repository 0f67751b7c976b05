"""Names of strategies: what is chosen how, by which score, over which points."""

import difflib
from dataclasses import dataclass, replace
from typing import Literal

from fastgradnorm._errors import ArgumentError, ArgumentTypeError
from fastgradnorm._selection.table import TABLE, Entry

# What "auto" stands for.
AUTO = "herding"
_SCORES = {"expected": "expected", "expected_squared": "expected_squared"}
_SCORES |= {"entropy_gradnorm": "entropy"}
_PARAMS = ("last_layer", "all")


@dataclass(frozen=True)
class Named:
    """What a name says; None: it leaves that open.

    Attributes:
        name: As it was given.
        how: A key of `TABLE`.
        scheme: Of the score.
        params: Of the score and the sketches.
        reduction: Of the score.
        sketch: The points are sketches of this gradient.
    """

    name: str
    how: str
    scheme: str | None = None
    params: str | None = None
    reduction: str | None = None
    sketch: Literal["predicted", "entropy"] | None = None

    @property
    def entry(self) -> Entry:
        """The strategy."""
        return TABLE[self.how]


def named(name: str) -> Named:
    """What a name stands for.

    - `"auto"`, or one of `TABLE`: how to choose; the score is left open;
    - `"<score>/<params>/<how>"`: by `expected`, `expected_squared` or `entropy_gradnorm` over the
      `last_layer` or `all`, with a `how` that goes by score;
    - `"sketch/<of>/<params>/<how>"`: over sketches of the gradient of the `predicted` class's loss
      or of the `entropy`, with a `how` that looks at points; `proportional` to their norm;
    - `"published"`: the code published with Wang et al. (2022).

    Raises:
        ValueError: If there is none; the message has the closest names.
    """
    if not isinstance(name, str):
        raise ArgumentTypeError(
            f"`strategy` must be a name. Got {type(name).__name__}.", "strategy"
        )
    if name == "auto":
        return Named(name, AUTO)
    if name in TABLE:
        return Named(name, name)
    if name == "published":
        return Named(name, "top", "entropy", "all", "per_tensor")
    found = _composed(name)
    if found is not None:
        return found
    near = difflib.get_close_matches(name.lower(), names(), n=3) or ["auto", *TABLE][:8]
    raise ArgumentError(f"`strategy` must be one that is known. Got {name!r}. Close to it: "
                     f"{', '.join(near)}.", "strategy")  # fmt: skip


def _composed(name: str) -> Named | None:
    first, *rest = name.split("/")
    if first == "sketch" and len(rest) == 3:
        of, params, how = rest
        entry = TABLE.get(how)
        fits = entry is not None and (how == "proportional" or over_sketches(entry))
        if fits and of in ("predicted", "entropy") and params in _PARAMS:
            return Named(name, how, params=params, sketch=of)  # type: ignore[arg-type]
    if first in _SCORES and len(rest) == 2:
        params, how = rest
        if params in _PARAMS and how in TABLE and TABLE[how].scored:
            return Named(name, how, _SCORES[first], params)
    return None


def over_sketches(entry: Entry) -> bool:
    """Whether a strategy may look at sketches."""
    return entry.points and entry.space != "features"


def names() -> tuple[str, ...]:
    """All names."""
    scored = [how for how, entry in TABLE.items() if entry.scored]
    pointed = [how for how, entry in TABLE.items() if over_sketches(entry)]
    found = ["auto", *TABLE, "published"]
    found += [f"{s}/{p}/{how}" for s in _SCORES for p in _PARAMS for how in scored]
    found += [
        f"sketch/{of}/{p}/{how}"
        for of in ("predicted", "entropy")
        for p in _PARAMS
        for how in (*pointed, "proportional")
    ]
    return tuple(found)


def in_space(what: Named, space: str) -> Named:
    """The same over `"last_layer"` features or over a `"sketch"`, where it leaves that open.

    Raises:
        ValueError: If it has no meaning there.
    """
    if what.entry.space == "sketch" and what.sketch is None:
        return replace(what, sketch="predicted")
    if space != "sketch" or what.sketch is not None or not what.entry.points:
        return what
    if not over_sketches(what.entry):
        raise ArgumentError(
            f"`space` must be 'last_layer' for {what.name!r}, which is about the last layer. "
            "Got 'sketch'.",
            "space",
        )
    return replace(what, sketch="predicted")
