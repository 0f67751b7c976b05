"""Names of strategies."""

import difflib
from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor

from fastgradnorm import SCHEMES, ArgumentError
from fastgradnorm._selection import TABLE, names
from fastgradnorm.active import _strategies as s
from fastgradnorm.active._context import Context

# `"entropy"` is the strategy that goes by the entropy itself.
_NAMES = {"entropy": "entropy_gradnorm"}
_PARAMS = ("last_layer", "all")
_DRAWS: tuple[s.Draw, ...] = ("top", "gumbel", "proportional")


def _norm(scheme: str, params: str, reduction: str = "global") -> Callable[[Context], Tensor]:
    return partial(s.gradient_norm, scheme=scheme, params=params, reduction=reduction)


def _sketch_norm(context: Context, **options: Any) -> Tensor:
    return s.sketch(context, **options).sq_norms.sqrt()


def _all() -> dict[str, s.Strategy[Any]]:
    found: list[s.Strategy[Any]] = [
        s.Random(),
        s.ByScore("entropy", s.entropy),
        s.ByScore("margin", s.margin),
        s.ByScore("least_confidence", s.least_confidence),
        s.CoreSet(),
        s.KMeansPP("badge", s.badge),
        s.ByScore("published", _norm("entropy", "all", "per_tensor")),
    ]
    for scheme in SCHEMES:
        name = _NAMES.get(scheme, scheme)
        for params in _PARAMS:
            norm = _norm(scheme, params)
            found += [s.ByScore(f"{name}/{params}/{draw}", norm, draw) for draw in _DRAWS]
            unit = partial(s.sketch, params=params, unit=True)
            found.append(s.KMeansPP(f"{name}/{params}/diverse", unit, norm))
    for sketched in ("predicted", "entropy"):
        for params in _PARAMS:
            embed = partial(s.sketch, scheme=sketched, params=params)
            base = f"sketch/{sketched}/{params}"
            norm = partial(_sketch_norm, scheme=sketched, params=params)
            found += [
                s.KMeansPP(f"{base}/kmeans++", embed),
                s.KCenter(f"{base}/kcenter", embed),
                s.ByScore(f"{base}/proportional", norm, "proportional"),
            ]
    known = {each.name: each for each in found}
    return known | {name: s.Acquired(name) for name in _acquired() if name not in known}


def _acquired() -> tuple[str, ...]:
    """Those that `fastgradnorm.acquire` has and nothing above, the main ones of them."""
    covering = ("herding", "maxherding", "typiclust", "probcover", "lcmd")
    over = [f"sketch/predicted/{params}/{how}" for params in _PARAMS for how in covering]
    by = [
        f"{_NAMES.get(scheme, scheme)}/{params}/herding" for scheme in SCHEMES for params in _PARAMS
    ]
    return (*TABLE, *by, *over)


_STRATEGIES = _all()


def strategies() -> tuple[str, ...]:
    """The names that `strategy` knows."""
    return tuple(_STRATEGIES)


def strategy(name: str) -> s.Strategy[Any]:
    """The strategy of that name.

    - `"random"`; `"entropy"`, `"margin"`, `"least_confidence"`: by class probabilities, for dense
      outputs their mean over positions;
    - `"coreset"` (Sener and Savarese, 2018); `"badge"` (Ash et al., 2020);
    - `"published"`: the code published with Wang et al. (2022), entropy gradients with the norms of
      parameter tensors added up;
    - `"<score>/<params>/<draw>"`: `expected`, `expected_squared` or `entropy_gradnorm` over
      `last_layer` or `all`, and `top`, `gumbel`, `proportional` (see `fastgradnorm.select`), or
      `diverse`: k-means++ over the directions of gradient sketches, weighted by the score;
    - `"sketch/<of>/<params>/<how>"`: over sketches of the gradient of the `predicted` class's loss
      or of the `entropy`, `kmeans++`, `kcenter`, or `proportional` to its norm;
    - every other name that `fastgradnorm.acquire` knows, such as `"herding"`, `"maxherding"`,
      `"typiclust"`, `"expected/all/herding"`, `"sketch/predicted/all/lcmd"`: it is what chooses.

    Raises:
        ValueError: If there is none; the message has the closest names.
    """
    if name in _STRATEGIES:
        return _STRATEGIES[name]
    if name in names():
        return s.Acquired(name)
    near = difflib.get_close_matches(str(name), _STRATEGIES, n=3) or list(_STRATEGIES)[:7]
    raise ArgumentError(
        f"`name` must be one of `fastgradnorm.active.strategies()`. Got {name!r}. "
        f"Close to it: {', '.join(near)}.",
        "name",
    )
