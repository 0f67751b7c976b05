"""From scores to the samples to label."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Protocol, get_args

import numpy as np
import torch
from torch import Tensor

from fastgradnorm._validate import check_integer, fail, fail_type

Strategy = Literal["top", "gumbel", "proportional"]


class HasSelect(Protocol):
    """Scores that know which samples they are of, as `PoolScores`."""

    def select(self, k: int, *, strategy: Strategy = "top", seed: int = 0) -> Tensor:
        """Dataset indices of the samples to label."""
        ...


def select(
    scores: "Tensor | np.ndarray | Sequence[float] | HasSelect",
    k: int,
    *,
    strategy: Strategy = "top",
    seed: int = 0,
) -> Tensor:
    r"""Indices of the `k` samples to label, best first.

    Args:
        scores: `[N]`, numbers in a tensor, array, list or column; higher is better. NaN is
            never selected. Of `PoolScores` the result is what
            `PoolScores.select` gives: indices in the dataset.
        k: How many.
        strategy: `"top"`: the highest scores; ties go to the lower index. `"gumbel"`: without
            replacement with probability ∝ :math:`e^{s / \sigma}`, :math:`\sigma` the standard
            deviation of the scores: good ones, but not only near-duplicates of the best.
            `"proportional"`: without replacement with probability ∝ score.
        seed: Of the random strategies.

    Returns:
        Indices `[k]`, int64, on the CPU. For the random strategies in the order they were drawn.

    Raises:
        ValueError: If `k` exceeds the number of scores that are not NaN, or for `"proportional"`
            the number of positive ones, or if one is negative.
        TypeError: If `scores` is none of these.

    Example:
        >>> select(torch.tensor([0.1, 0.7, float("nan"), 0.7]), 2)
        tensor([1, 3])
    """
    own: Callable[..., Tensor] | None = getattr(scores, "select", None)
    if callable(own) and not hasattr(scores, "__array__"):  # a table has both
        return own(k, strategy=strategy, seed=seed)
    values = _numbers(scores).detach().cpu().double()
    if values.dim() != 1:
        raise fail("scores", "one-dimensional", values)
    k = check_integer("k", k, at_least=0)
    if strategy not in get_args(Strategy):
        wanted = "one of " + ", ".join(map(repr, get_args(Strategy)))
        advice = "Those that look at predictions or features are `acquire`'s."
        raise fail("strategy", wanted, strategy, advice)
    check_integer("seed", seed, at_least=0)
    keys = values if strategy == "top" else _random_keys(values, strategy, seed)
    usable = int((~keys.isnan()).sum())
    if k > usable:
        kind = "positive scores" if strategy == "proportional" else "scores that are not NaN"
        raise fail("k", f"at most {usable}, the number of {kind}", k)
    # A stable sort keeps equal scores in pool order; NaN goes last.
    return (
        torch.sort(-keys.nan_to_num(nan=-torch.inf), stable=True).indices[:k]
        if k
        else (torch.empty(0, dtype=torch.int64, device="cpu"))
    )


def _numbers(scores: object) -> Tensor:
    wanted = "a tensor or array [N], or PoolScores"
    if isinstance(scores, Mapping):
        advice = "Of several schemes or groups choose one, such as `scores['expected']`."
        raise fail_type("scores", wanted, scores, advice)
    if hasattr(scores, "columns"):
        advice = "Of a table pass the column of scores, such as `table['score']`."
        raise fail_type("scores", wanted, scores, advice)
    if isinstance(scores, Tensor):
        if scores.is_complex():
            raise fail_type("scores", wanted, scores, "Complex numbers have no order.")
        return scores
    if not isinstance(scores, (list, tuple)) and not hasattr(scores, "__array__"):
        raise fail_type("scores", wanted, scores)
    if isinstance(scores, np.ndarray) and scores.dtype.kind not in "biufO":
        raise fail_type("scores", wanted, scores, f"It holds {scores.dtype}.")
    try:
        if isinstance(scores, np.ma.MaskedArray):  # what is masked is no number
            masked: np.ma.MaskedArray[Any, Any] = np.ma.masked_array(scores, dtype=np.float64)
            return torch.from_numpy(masked.filled(np.nan))
        return torch.from_numpy(np.array(scores, dtype=np.float64))
    except (TypeError, ValueError) as error:
        raise fail_type("scores", wanted, scores) from error


def _random_keys(values: Tensor, strategy: str, seed: int) -> Tensor:
    """Log-weights plus Gumbel noise: the largest keys are a draw without replacement."""
    noise = -np.log(np.random.default_rng(seed).standard_exponential(len(values)))
    known = values[values.isfinite()]
    if strategy == "gumbel":
        spread = known.std(correction=0) if len(known) else torch.tensor(0.0, device="cpu")
        weights = values / spread if spread > 0 else torch.where(values.isnan(), values, 0.0)
    else:
        if bool((known < 0).any()):
            raise fail("scores", "non-negative for strategy='proportional'", float(known.min()))
        weights = torch.where(values > 0, values.log(), torch.nan)
    return weights + torch.from_numpy(noise)
