"""Which samples of a pool may be chosen: what is labelled, and groups of samples."""

import itertools
import math
import operator
import os
from collections.abc import Mapping, Sequence, Set, Sized, ValuesView
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from fastgradnorm._errors import ArgumentError, ArgumentTypeError
from fastgradnorm._pool import is_dataset
from fastgradnorm._validate import Words, check_integer, fail, fail_type

_NO_BATCH = (str, bytes, os.PathLike, float, bool, np.bool_)
_MOST = torch.iinfo(torch.int64).max
_MASK = "Of a mask pass where it is true, such as `[i for i, known in enumerate(mask) if known]`."
_WHAT = "indices of the pool, or a loader or dataset of other samples"


def without_iterator(labelled: Any) -> Any:
    """The same, where it can be read only once: a list of indices, or batches from the first on.

    Raises:
        TypeError: If the first is neither an index nor a batch.
    """
    if not hasattr(labelled, "__next__") or isinstance(labelled, DataLoader):
        return labelled
    for first in labelled:
        whole = itertools.chain([first], labelled)
        return list(whole) if _is_index(first) or isinstance(first, _NO_BATCH) else whole
    return None


def labelled_indices(labelled: Any) -> Tensor | None:
    """Indices `[m]` of what is labelled, none if it is None; None if it is a loader or dataset.

    Raises:
        TypeError: If they are no integers.
    """
    data: Any = labelled.dataset if isinstance(labelled, DataLoader) else labelled
    if labelled is None or (is_dataset(data) and not len(data)):
        return torch.empty(0, dtype=torch.int64, device="cpu")
    if isinstance(labelled, (str, bytes, os.PathLike)):
        raise fail_type("labelled", _WHAT, labelled, "Read the file: which places has it?")
    if isinstance(labelled, (*_NO_BATCH, int, np.integer)):
        one = _is_index(labelled)
        raise fail_type("labelled", _WHAT, labelled, f"Pass `[{labelled!r}]`." if one else "")
    # Of pandas, polars.
    column = None if isinstance(labelled, Dataset) else getattr(labelled, "to_numpy", None)
    if column is not None or isinstance(labelled, (Tensor, np.ndarray)):
        return _of_array(labelled if column is None else column())
    if not isinstance(labelled, (Sequence, Set, ValuesView, Mapping)):
        return None
    first = next(iter(labelled), None)
    if isinstance(first, _NO_BATCH) and not isinstance(labelled, Mapping):
        advice = f" {_MASK}" if isinstance(first, (bool, np.bool_)) else ""
        raise ArgumentTypeError(
            f"`labelled` must be {_WHAT}. Got {first!r} at place 0.{advice}", "labelled"
        )
    if first is not None and not _is_index(first):
        return None
    items = list(labelled)
    for place, item in enumerate(items):
        if not _is_index(item):
            raise ArgumentTypeError(
                f"`labelled` must be {_WHAT}. Got {item!r} at place {place}.", "labelled"
            )
    numbers = [operator.index(i) for i in items]
    far = next((i for i in numbers if abs(i) > _MOST), None)
    if far is not None:
        raise fail("labelled", "indices of the pool", far)
    found = torch.tensor(numbers, dtype=torch.int64, device="cpu")
    return found.sort().values if isinstance(labelled, Set) else found


def _of_array(labelled: Any) -> Tensor:
    if isinstance(labelled, np.ndarray) and labelled.dtype.kind not in "biufc":
        raise fail_type("labelled", _WHAT, labelled)
    given = np.array(labelled) if isinstance(labelled, np.ndarray) else labelled  # it is read-only
    found = torch.as_tensor(given, device="cpu").detach().cpu()
    if found.layout is not torch.strided:
        raise fail_type("labelled", _WHAT, found, "Pass `labelled.to_dense()`.")
    if found.dtype == torch.bool:
        raise fail_type("labelled", _WHAT, found, "Of a mask pass `mask.nonzero()`, flattened.")
    if found.dim() > 1 or (len(found.reshape(-1)) and found.dtype.is_floating_point):
        raise fail_type("labelled", _WHAT, found, "Wrap one batch in a list: `[batch]`.")
    if found.is_complex():
        raise fail_type("labelled", _WHAT, found)
    return found.reshape(-1).to(torch.int64)


def _is_index(value: Any) -> bool:
    if isinstance(value, (Tensor, np.ndarray)) and (value.ndim or "int" not in str(value.dtype)):
        return False
    return hasattr(type(value), "__index__") and not isinstance(value, (bool, np.bool_))


def check_indices(labelled: Tensor, size: int | None) -> None:
    """Raises `ValueError` unless they are different samples of a pool of this size, if known."""
    most = _MOST if size is None else size
    out = labelled[(labelled < 0) | (labelled >= most)]
    if len(out):
        raise fail(
            "labelled",
            "indices of the pool" + ("" if size is None else f", in [0, {size})"),
            int(out[0]),
            "Samples that are not in the pool are passed as a loader.",
        )
    values, counts = labelled.unique(return_counts=True)
    if bool((counts > 1).any()):
        twice = int(values[counts > 1][0])
        raise ArgumentError(
            f"`labelled` must be different indices. Got {twice} more than once.", "labelled"
        )


def check_early(size: int | None, known: Tensor | None, groups: Any, k: int) -> None:
    """Raises before the pool is read what would be raised after it, where its size is known."""
    if size is None:
        return
    if groups is not None:
        group_numbers(groups, size, torch.empty(0, dtype=torch.int64, device="cpu"))
    labelled = 0 if known is None else len(known)
    if known is not None:
        check_indices(known, size)
    if k > size - labelled:
        have = "has" if labelled == 1 else "have"
        lost = f"Of {size} samples {labelled} {have} a label already." if labelled else ""
        raise fail("k", f"at most {size - labelled}, the number of candidates", k, lost)


def group_numbers(groups: Any, size: int | None, places: Tensor) -> Tensor:
    """The number `[n]` of the group of each sample at `places`; one of None has its own.

    Raises:
        ValueError: If there is not one for each sample of the pool.
    """
    wanted = "the group of each sample of the pool"
    if isinstance(groups, (str, bytes)) or not isinstance(groups, Sized):
        raise fail_type("groups", wanted, groups)
    if isinstance(groups, Mapping):
        missing = [i for i in places.tolist() if i not in groups]
        if missing:
            raise fail("groups", f"{wanted}, by its index", Words(f"none for {missing[0]}"))
        found = [groups[i] for i in places.tolist()]
    else:
        values = groups.tolist() if hasattr(groups, "tolist") else list(groups)  # type: ignore[call-overload]
        least = int(places.max()) + 1 if size is None and len(places) else size
        if len(values) != size and (size is not None or len(values) < (least or 0)):
            raise fail("groups", f"{wanted}, {least} in all", Words(f"{len(values)} in all"))
        found = [values[i] for i in places.tolist()]
    numbers: dict[Any, int] = {}
    try:
        names = [_name(value) for value in found]
        keys = [("alone", place) if name is None else name for place, name in enumerate(names)]
        told = [numbers.setdefault(key, len(numbers)) for key in keys]
    except TypeError as error:
        raise fail_type("groups", f"{wanted}, as names or numbers", found[0]) from error
    return torch.tensor(told, dtype=torch.int64, device="cpu")


def _name(value: Any) -> Any:
    """What equal groups have in common; None of what is in no group.

    A tensor is equal to none but itself where its place in a mapping is looked for, and so is NaN.
    """
    if isinstance(value, Tensor) or (isinstance(value, np.ndarray) and value.ndim == 0):
        if value.ndim:
            raise TypeError("a tensor of several numbers")
        value = value.item()
    missing = type(value).__name__ in ("NAType", "NaTType")  # of pandas
    return None if missing or (isinstance(value, float) and math.isnan(value)) else value


def check_groups(groups: Any, max_per_group: Any) -> int | None:
    """`max_per_group`; raises unless both are given, or none."""
    if (groups is None) != (max_per_group is None):
        one = "max_per_group" if groups is None else "groups"
        other = "groups" if groups is None else "max_per_group"
        raise ArgumentError(f"`{other}` must be given with `{one}`. Got None.", other)
    if max_per_group is None:
        return None
    return check_integer("max_per_group", max_per_group, at_least=1)
