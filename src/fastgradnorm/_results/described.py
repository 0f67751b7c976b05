"""Chosen samples and their pool in numbers: why each was chosen, what the model thinks of all."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from fastgradnorm._results.scores import PoolScores

_LEVELS = (0.05, 0.5, 0.95)


def records(
    columns: Mapping[str, Tensor],
    scores: PoolScores,
    places: Tensor,
    positions: Tensor,
    gains: list[float] | None,
    near: list[tuple[int, int | None]] | None,
) -> list[dict[str, Any]]:
    """A dict a chosen sample, best first.

    Args:
        columns: Predictions of the whole pool.
        scores: Of the whole pool.
        places: Where in the dataset each sample of the pool is.
        positions: Of the chosen, in the pool.
        gains: Share of the pool that each adds to what is covered; None: unknown.
        near: How many near-duplicates each has, and the rank of one chosen before; None: unknown.
    """
    found = []
    for rank, i in enumerate(positions.tolist()):
        found.append(
            {
                "index": int(places[i]),
                "rank": rank + 1,
                "score": float(scores.values[i]),
                "predicted": int(columns["predicted"][i]),
                "confidence": float(columns["confidence"][i]),
                "runner_up": int(columns["runner_up"][i]),
                "runner_up_probability": float(columns["runner_up_probability"][i]),
                "coverage": None if gains is None else gains[rank],
                "alike": None if near is None else near[rank][0],
                "alike_chosen": None if near is None else near[rank][1],
            }
        )
    return found


def pool_facts(
    columns: Mapping[str, Tensor],
    scores: PoolScores,
    labelled: int | None,
    candidates: int,
    cover: tuple[float, list[float]] | None,
) -> dict[str, Any]:
    """What the model thinks of the pool."""
    confidence = columns["confidence"].double()
    known = confidence.isfinite()  # of outputs that are NaN nothing is predicted
    classes, counts = columns["predicted"][known].long().unique(return_counts=True)
    confidence = confidence[known].sort().values
    levels: dict[str, float] = {}
    if len(confidence):
        levels = {"mean": float(confidence.mean())}
        for level in _LEVELS:
            levels[f"{100 * level:.0f}%"] = float(confidence[int(level * (len(confidence) - 1))])
    told = None
    if cover is not None:
        before, gains = cover
        told = {"before": before, "after": before + sum(gains)}
    return {
        "samples": len(scores),
        "labelled": labelled,
        "candidates": candidates,
        "classes": dict(zip(classes.tolist(), counts.tolist(), strict=True)),
        "confidence": levels or {"mean": float("nan")},
        "coverage": told,
        "findings": list(scores.provenance.get("findings", ())),
    }
