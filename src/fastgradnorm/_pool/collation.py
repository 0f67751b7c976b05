"""Whether a loader's collation puts the samples of a batch in an order of its own."""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils.data import default_collate

from fastgradnorm._process import put_back_random_states

_SAMPLES = 4


def orders_samples(loader: Any, indices: Tensor) -> bool:
    """Of a few samples: whether what it makes of them is the same when they are given backwards.

    A collation that sorts, as by length to pack sequences, is told by that; one that keeps each
    sample in its place gives other batches, and so does one that draws random numbers.

    Args:
        loader: The caller's, which has a collation and a dataset that can be indexed.
        indices: Of the samples of a batch.
    """
    collate = getattr(loader, "collate_fn", None)
    if collate is None or collate is default_collate or len(indices) < 2:
        return False
    try:
        with put_back_random_states():
            samples = [loader.dataset[i] for i in indices[:_SAMPLES].tolist()]
            forwards, backwards = (collate(list(given)) for given in (samples, samples[::-1]))
    except Exception:  # of the caller's: what it cannot do here it need not do
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
