"""A pool's batches as they are read, and which samples they are of."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from torch import Tensor
from torch.utils.data import DataLoader

from fastgradnorm._options import Options
from fastgradnorm._pool.collation import collated, watched
from fastgradnorm._pool.draws import Draws
from fastgradnorm._pool.failing import Asked, Keys, telling
from fastgradnorm._pool.loaders import draws_of, with_draws
from fastgradnorm._pool.stacked import fetched, several, taken_at_once


class Reading(NamedTuple):
    """A pool that is being read.

    Attributes:
        batches: What is left of it.
        draws: Tells the samples of each, where that can be told.
    """

    batches: Iterator[Any]
    draws: Draws | None


def may_come_together(options: Options) -> bool:
    """Whether several of the caller's batches may be read as one.

    What the caller's functions are given is a batch of the caller's: a loss of its own is, and a
    `target` that is one.
    """
    own = options.forward, options.mask, options.latency, options.checkpoint
    if any(option is not None for option in own):
        return False
    labels = options.labels
    return labels is None or not (labels.whole or labels.given or callable(labels.target))


def traced(
    loader: DataLoader[Any], dataset: Any, places: Tensor | None, together: bool = False
) -> Reading:
    """Reads a loader's batches, and writes down what is drawn for them.

    Args:
        loader: Over a dataset with indices.
        dataset: The caller's, of which that may be a part.
        places: Where in the caller's dataset its samples are; None: it is that dataset.
        together: As in `Pool.open`.
    """
    keys, rows, each = draws_of(loader), taken_at_once(loader), None
    if rows is not None and together:
        keys, each = several(keys, rows.most)
    drawn = Keys(keys)
    draws = Draws(drawn, places, each)
    asked = None
    if rows is not None:
        batches = iter(fetched(loader, rows, draws))
    elif loader.num_workers:  # whose own functions look at the dataset that they have
        batches = iter(with_draws(loader, draws, **watched(loader)))
    else:
        asked = Asked(loader.dataset)
        batches = iter(with_draws(loader, draws, asked, **watched(loader)))
    return Reading(telling(collated(batches), dataset, drawn, places, asked), draws)
