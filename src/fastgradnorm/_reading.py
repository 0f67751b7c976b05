"""A pool that is chosen from, read: what of it may be chosen, and what is labelled already."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Subset

from fastgradnorm._candidates import check_indices
from fastgradnorm._errors import ArgumentError, ArgumentTypeError, NonFiniteScoreError
from fastgradnorm._gather import Gathered, Wants, gather
from fastgradnorm._options import Options
from fastgradnorm._pool import CALLED, can_be_indexed, made_anew

# Columns that hold points, of which a pass has one at most.
POINTS = ("features", "sketch")


@dataclass(frozen=True, eq=False)
class Reading:
    """What the pass over a pool gave.

    Attributes:
        gathered: Of the pool.
        before: Of what is labelled, where a strategy starts from that.
        places: Where in the dataset each sample of the pass is.
        candidates: Positions in the pass that may be chosen.
        size: Of the dataset; None: that is not known.
        labelled: How many are labelled; None: that is not known.
        lost: Why others of the pass may not be chosen, in words; empty: all may.
    """

    gathered: Gathered
    before: dict[str, Tensor] | None
    places: Tensor
    candidates: Tensor
    size: int | None
    labelled: int | None
    lost: str


def read_pool(
    model: nn.Module,
    loader: Any,
    others: Any,
    known: Tensor | None,
    asked: Options,
    wants: Wants,
) -> Reading:
    """One pass over a pool, and one over what else is labelled, where a strategy starts from that.

    Args:
        model: The caller's.
        loader: Of the pool.
        others: Loader of labelled samples of which not all are in the pool, or None.
        known: Indices of labelled samples of the pool; None: none of the others is one.
        asked: How it is scored.
        wants: What is wanted beside the scores.

    Raises:
        ValueError: If `known` does not fit the pool.
    """
    with _called("pool"):
        gathered = gather(model, loader, asked, wants)
    places = gathered.scores.indices
    places = torch.arange(len(gathered.scores), device="cpu") if places is None else places
    size = gathered.scores.provenance["samples"]["dataset"]
    if size is None and asked.subset is None:
        size = len(places)  # of a stream of which a part is scored, it is not known
    if size is not None and bool(((places < 0) & (places >= -size)).any()):
        places = places.remainder(size)  # -1 is the last one
    candidates = _first_of_each(places)
    before, count = None, None if others is not None or known is None else len(known)
    points = wants.features or wants.sketch is not None
    if known is not None:
        check_indices(known, size)
        candidates = candidates[~torch.isin(places[candidates], known)]
    if points and others is not None:
        with _called("labelled"):
            found = gather(model, others, _again(asked), wants)
        before, count = found.columns, len(found.scores)
    elif points and known is not None and len(known):
        before = _of_pool(model, loader, asked, wants, gathered, places, known)
    usable = gathered.scores.values[candidates].isfinite()
    for name in POINTS:
        if name in gathered.columns:
            usable &= gathered.columns[name][candidates].isfinite().all(1)
    here = int(torch.isin(places, known).sum()) if known is not None else 0
    left = {"a label already": here, "no finite score": int((~usable).sum())}
    told = [
        f"{number} {'has' if number == 1 else 'have'} {what}"
        for what, number in left.items()
        if number
    ]
    lost = f"Of {len(places)} samples {' and '.join(told)}." if told else ""
    return Reading(gathered, before, places, candidates[usable], size, count, lost)


@contextlib.contextmanager
def _called(name: str) -> Iterator[None]:
    """What is wrong with a `loader` is told of the argument that it is."""
    token = CALLED.set(name)
    try:
        yield
    except (ValueError, TypeError) as error:
        if isinstance(error, (ArgumentError, ArgumentTypeError)) and error.argument == "loader":
            error.argument = name
        if len(error.args) == 1:
            told = str(error).replace("sample of the loader", f"sample of `{name}`", 1)
            if isinstance(error, NonFiniteScoreError) and name == "labelled":
                told = f"Of `labelled`: {told}"
            error.args = (told.replace("`loader`", f"`{name}`"),)
        raise
    finally:
        CALLED.reset(token)


def _first_of_each(places: Tensor) -> Tensor:
    """Positions of samples, each once, in the order of the pass."""
    _, first = np.unique(places.numpy(), return_index=True)
    return torch.from_numpy(np.sort(first))


def _of_pool(
    model: nn.Module,
    loader: Any,
    asked: Options,
    wants: Wants,
    gathered: Gathered,
    places: Tensor,
    known: Tensor,
) -> dict[str, Tensor]:
    """Columns of labelled samples of the pool; those that the pass left out are read now."""
    here = _first_of_each(places)
    here = here[torch.isin(places[here], known)]
    found = {name: values[here] for name, values in gathered.columns.items()}
    missing = known[~torch.isin(known, places)]
    if not len(missing):
        return found
    if not can_be_indexed(loader):
        raise ArgumentError(
            "`labelled` must be among the samples that `pool` yields, where it can only be read "
            f"from its beginning. Got {len(missing)} that are not. Pass them as a loader.",
            "labelled",
        )
    rest = made_anew(loader, Subset(loader.dataset, missing.tolist()), batch_size=64)
    more = gather(model, rest, _again(asked), wants).columns
    return {name: torch.cat([values, more[name]]) for name, values in found.items()}


def _again(asked: Options) -> Options:
    """The same options for what is labelled: all of it, verified already, in a file of its own."""
    path = None if asked.checkpoint is None else Path(asked.checkpoint)
    beside = path and path.with_name(f"{path.name}.labelled")
    return replace(asked, subset=None, verify=False, checkpoint=beside)
