"""A new batch, as the line that tells of it."""

import datetime
from collections.abc import Sequence
from typing import Any

from torch import nn

from fastgradnorm import ArgumentError, acquire
from fastgradnorm.active.campaign._journal import Event
from fastgradnorm.active.campaign._samples import groups_of, part_of, watched
from fastgradnorm.active.campaign._state import State


def new_batch(
    pool: Any,
    keys: Sequence[str],
    state: State,
    k: int,
    model: nn.Module,
    strategy: str,
    seed: int,
    groups: Any,
    options: dict[str, Any],
) -> Event:
    """The event of `k` samples without an answer, chosen after what is labelled."""
    skipped = {*state.skipped}
    kept = [i for i, key in enumerate(keys) if key not in skipped]
    if not kept:
        told = f"`pool` must have samples without an answer. All {len(keys)} were skipped."
        raise ArgumentError(told, "pool")
    places = {keys[i]: place for place, i in enumerate(kept)}
    if groups is not None:
        groups = groups_of(groups, kept, len(keys))
    made = acquire(
        model,
        part_of(pool, kept),
        k,
        labelled=[places[key] for key in state.labelled if key in places],
        strategy=strategy,
        seed=seed + len(state.batches),
        groups=groups,
        **options,
    )
    return {
        "event": "ask",
        "keys": [keys[kept[i]] for i in made],
        "records": [{**row, "index": kept[row["index"]]} for row in made.records],
        "samples": len(keys),
        "predicted": watched([keys[i] for i in kept], made),
        "strategy": strategy,
        "seed": int(seed),
        "time": now(),
    }


def now() -> str:
    """The time, as events have it."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
