"""Batches of a map-style dataset's inputs, for those who hand over a dataset and no loader."""

import inspect
from collections import UserList, deque
from collections.abc import Callable, Mapping, Sequence, Sized
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, default_collate

from fastgradnorm._errors import ArgumentError, ArgumentTypeError
from fastgradnorm._pool.loaders import can_be_indexed
from fastgradnorm._validate import type_name

_LABELS = ("labels", "label")
# Batches, or no pool at all: what is told of these is told by `check_loader`.
_SEQUENCES = (
    list, tuple, dict, str, bytes, Tensor, np.ndarray, DataLoader, nn.Module, deque, UserList,
)  # fmt: skip
_TABLES = ("pandas", "polars", "pyarrow")  # their places are columns


def is_dataset(pool: object) -> bool:
    """Whether samples of it can be had by index, one by one."""
    if isinstance(pool, IterableDataset):
        return False
    if isinstance(pool, Dataset):
        return hasattr(pool, "__len__")
    if type(pool).__module__.partition(".")[0] in _TABLES:
        return False
    alike = hasattr(type(pool), "__getitem__") and hasattr(type(pool), "__len__")
    return alike and not isinstance(pool, (*_SEQUENCES, Mapping))


def as_loader(
    pool: Any, model: nn.Module, forward: Callable[..., Any] | None, batch_size: int, name: str
) -> Any:
    """A loader of a dataset's inputs, in order; anything else as it is.

    Of tuples the first is taken, of mappings what the model takes; labels are not looked at, so
    that they may be missing. With `forward`, all of each sample is in the batch.

    Args:
        pool: The caller's.
        model: What takes the inputs.
        forward: The option.
        batch_size: Of the batches.
        name: Of the argument, for errors.
    """
    if not is_dataset(pool):
        return pool
    if not len(pool):
        raise ArgumentError(
            f"`{name}` must be a dataset of at least one sample. Got an empty "
            f"{type(pool).__name__}.",
            name,
        )
    if hasattr(pool, "with_format") and hasattr(pool, "column_names"):
        pool = pool.with_format("torch")
    collate = default_collate if forward is not None else _Inputs(model, name)
    return DataLoader(pool, batch_size, collate_fn=collate)


def size_before_reading(loader: Any) -> int | None:
    """How many samples the dataset of a loader has; None where an index need not be a sample."""
    if not can_be_indexed(loader) or loader.batch_sampler is None:
        return None
    one = loader.collate_fn is default_collate or isinstance(loader.collate_fn, _Inputs)
    data: object = loader.dataset
    return len(data) if one and isinstance(data, Sized) else None


class _Inputs:
    """Collates the inputs of samples."""

    def __init__(self, model: nn.Module, name: str) -> None:
        self._accepted, self._name = _accepted(model), name

    def __call__(self, samples: Sequence[Any]) -> Any:
        chosen = [self._input(sample) for sample in samples]
        try:
            return default_collate(chosen)
        except (TypeError, RuntimeError) as error:
            first = chosen[0]
            told = first
            if isinstance(first, Mapping):
                told = {key: type_name(value) for key, value in first.items()}
            raise ArgumentTypeError(
                f"`{self._name}` must be a dataset whose inputs are tensors of one shape. Got "
                f"{told if isinstance(told, dict) else type_name(told)}: "
                f"{str(error).rstrip('.')}. Give the dataset a transform "
                "that makes tensors, or pass a DataLoader with a `collate_fn`, such as "
                "DataCollatorWithPadding(tokenizer) for texts.",
                self._name,
            ) from error

    def _input(self, sample: Any) -> Any:
        while isinstance(sample, (tuple, list)) and sample and not _is_array(sample):
            sample = sample[0]
        if not isinstance(sample, Mapping):
            return _as_tensor(sample)
        kept = {k: _as_tensor(v) for k, v in sample.items() if k not in _LABELS}
        if self._accepted is not None:
            kept = {k: v for k, v in kept.items() if k in self._accepted}
        if not kept:
            raise ArgumentTypeError(
                f"`{self._name}` must be a dataset whose mappings have something that the model "
                f"takes. Got the keys {', '.join(map(repr, sample))}. {_what_is_given(sample)}",
                self._name,
            )
        return kept


def _what_is_given(sample: Mapping[Any, Any]) -> str:
    inputs = {key: value for key, value in sample.items() if key not in _LABELS}
    arrays = [key for key, value in inputs.items() if isinstance(value, (Tensor, np.ndarray))]
    if arrays:
        return f"Pass `forward=lambda model, batch: model(batch[{arrays[0]!r}])`, or the like."
    texts = [key for key, value in sample.items() if isinstance(value, str)]
    made = f"dataset.map(lambda row: tokenizer(row[{texts[0]!r}]))" if texts else ""
    tokens = f"Make tokens of texts first, such as by `{made}`. " if texts else ""
    return f"{tokens}Pass `forward=lambda model, batch: ...`."


def _is_array(value: Any) -> bool:
    """Whether it is a list of numbers, or of such lists: one input, which PyTorch would take apart.

    A tuple is an input and its label, numbers too.
    """
    if not isinstance(value, list) or not value:
        return False
    return all(isinstance(item, (int, float)) or _is_array(item) for item in value)


def _as_tensor(value: Any) -> Any:
    return torch.tensor(value, device="cpu") if _is_array(value) else value


def _accepted(model: nn.Module) -> frozenset[str] | None:
    """Names that a model takes as keywords; None: any."""
    try:
        parameters = inspect.signature(model.forward).parameters.values()
    except (TypeError, ValueError):
        return None
    if any(each.kind is each.VAR_KEYWORD for each in parameters):
        named = [each.name for each in parameters if each.kind is not each.VAR_KEYWORD]
        # transformers' models take keywords that no dataset has a column for.
        return frozenset(named) if hasattr(model, "config") and len(named) > 2 else None
    return frozenset(each.name for each in parameters)
