"""Whether a loader's collation puts the samples of a batch in an order of its own."""

import contextlib
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils.data import default_collate

from fastgradnorm._process import put_back_random_states

_SAMPLES = 4
# Of collations that were watched: whether they do.
_SEEN: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()


class Watched:
    """A collation that is looked at when it makes its first batch: nothing is read a second time.

    Args:
        collate: The caller's.
    """

    def __init__(self, collate: Any) -> None:
        self._collate, self._seen = collate, False

    def __call__(self, samples: Any) -> Any:
        given = list(samples[:_SAMPLES]) if isinstance(samples, list) else []
        batch = self._collate(samples)
        if not self._seen:
            self._seen = True
            with contextlib.suppress(TypeError):  # it has no hash
                _SEEN[self._collate] = _orders(self._collate, given)
        return batch


def watched(loader: Any) -> dict[str, Any]:
    """Arguments of a loader that is to stand for this one; workers cannot tell what they see."""
    by_itself = loader.num_workers == 0 and loader.batch_sampler is not None
    return {"collate_fn": Watched(loader.collate_fn)} if by_itself and _is_own(loader) else {}


def _is_own(loader: Any) -> bool:
    collate = getattr(loader, "collate_fn", None)
    return collate is not None and collate is not default_collate


def orders_samples(loader: Any, indices: Tensor) -> bool:
    """Of a few samples: whether what it makes of them is the same when they are given backwards.

    A collation that sorts, as by length to pack sequences, is told by that; one that keeps each
    sample in its place gives other batches, and so does one that draws random numbers. The samples
    are read for it unless it was `watched`.

    Args:
        loader: The caller's, which has a collation and a dataset that can be indexed.
        indices: Of the samples of a batch.
    """
    if not _is_own(loader):
        return False
    with contextlib.suppress(TypeError, KeyError):
        return _SEEN[loader.collate_fn]
    try:
        samples = [loader.dataset[i] for i in indices[:_SAMPLES].tolist()]
    except Exception:  # of the caller's: what it cannot do here it need not do
        return False
    return _orders(loader.collate_fn, samples)


def _orders(collate: Any, samples: list[Any]) -> bool:
    if len(samples) < 2:
        return False
    try:
        with put_back_random_states():
            forwards, backwards = (collate(list(given)) for given in (samples, samples[::-1]))
    except Exception:  # of the caller's
        return False
    first, second = _arrays(forwards), _arrays(backwards)
    rows = [a for a in first if a.dim() and len(a) == len(samples)]
    if len(first) != len(second) or not all(map(torch.equal, first, second)):
        return False
    return any(not torch.equal(a, a.flip(0)) for a in rows)


def _arrays(batch: Any) -> list[Tensor]:
    leaves = pytree.tree_leaves(batch)
    plain = [torch.as_tensor(x) if isinstance(x, np.ndarray) else x for x in leaves]
    return [x for x in plain if isinstance(x, Tensor)]
