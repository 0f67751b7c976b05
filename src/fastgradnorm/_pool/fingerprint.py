"""What a checkpoint's scores depend on, as plain data that is equal where these are."""

import hashlib
import inspect
import re
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from fastgradnorm._model.batches import Batch
from fastgradnorm._model.subject import Subject
from fastgradnorm._pool.digest import digest
from fastgradnorm._pool.samples import Pool
from fastgradnorm._version import __version__

# What changes a score, or which samples have one; the rest is about speed and checks.
_OPTIONS = (
    "reduction",
    "likelihood",
    "class_dim",
    "temperature",
    "backend",
    "rtol",
    "num_samples",
    "seed",
    "subset",
)


def model_hash(subject: Subject) -> str:
    """Of parameters and buffers with their names, and of the layers as they print themselves."""
    # Addresses of functions that some layers print are those of this process.
    layers = re.sub(r" at 0x[0-9a-f]+", "", repr(subject.model))
    tensors = dict([*subject.model.named_parameters(), *subject.model.named_buffers()])
    return _of_lines([layers, *tensors, digest(tensors.values())])


def facts(subject: Subject, pool: Pool, first: Batch | None) -> dict[str, Any]:
    """Everything that has to be the same for a run to be continued."""
    options = subject.options
    held: list[Tensor] = []
    if first is not None:
        masks = [mask for mask in (first.mask, first.attention_mask) if mask is not None]
        held = [*first.leaves, *masks]
    return {
        "fastgradnorm": __version__,
        "torch": torch.__version__,
        "device": subject.device.type,
        "model": model_hash(subject),
        "parameters": _of_lines(subject.chosen),
        "params": options.params if isinstance(options.params, str) else "by function",
        "scheme": list(options.schemes),
        **{name: getattr(options, name) for name in _OPTIONS},
        "autocast": str(options.autocast),
        "forward": _code(options.forward),
        "mask": _code(options.mask),
        "pool's size": pool.total,
        "first batch's size": 0 if first is None else len(first),
        "first batch": digest(held),
    }


def _of_lines(lines: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _code(function: Any) -> str | None:
    """A function by its source, or its name where it has none."""
    if function is None:
        return None
    try:
        text = inspect.getsource(function)
    except (OSError, TypeError):
        text = getattr(function, "__qualname__", type(function).__qualname__)
    return _of_lines([text])
