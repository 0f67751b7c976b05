"""What models, samples and options are, in a few bytes that are equal where these are.

A checkpoint goes on only with the same ones, and ranks must have the same ones.
"""

import hashlib
import itertools
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils.data import Subset, TensorDataset

from fastgradnorm._errors import ArgumentError
from fastgradnorm._model import Batch, Subject
from fastgradnorm._options import Options
from fastgradnorm._pool.draws import as_indices
from fastgradnorm._pool.functions import code_of, settings_of
from fastgradnorm._version import __version__

LISTED = "samples in the list"  # which another process may have read from elsewhere: unknown
_FEW = 64  # of the first samples are told
_ROWS = 1024  # of the numbers that a dataset holds are looked at


def digest(tensors: Iterable[Tensor]) -> str:
    """SHA-256 of dtypes, shapes and values, wherever and however these lie in memory."""
    found = hashlib.sha256()
    for tensor in tensors:
        found.update(f"{tensor.dtype} {list(tensor.shape)}".encode())
        if tensor.is_meta:
            continue  # without values
        flat = tensor.detach().cpu().reshape(-1).contiguous()
        found.update(flat.view(torch.uint8).numpy().data)
    return found.hexdigest()


def model_hash(subject: Subject) -> str:
    """Of parameters and buffers with their names, and of the layers and what they do not print."""
    # Addresses of functions that some layers print are those of this process.
    layers = re.sub(r" at 0x[0-9a-f]+", "", repr(subject.model))
    tensors = dict([*subject.model.named_parameters(), *subject.model.named_buffers()])
    held = settings_of(subject.model, digest)
    return _of_lines([layers, *held, *tensors, digest(tensors.values())])


def facts(
    subject: Subject,
    total: int | None,
    first: Batch | None,
    drawn: Tensor | None = None,
    dataset: Any = None,
    batches: Any = None,
) -> dict[str, Any]:
    """Everything that has to be the same for a run to be continued.

    Args:
        subject: The model and the options.
        total: How many samples the pool has, if known.
        first: Its first batch, if there is one.
        drawn: Which samples of the dataset are in that; None: unknown, or the first ones.
        dataset: The caller's, if there is one.
        batches: What it is read from.
    """
    options = subject.options
    # One by one, so that batches of any size begin alike as far as both go.
    few = () if first is None else [first.take(slice(i, i + 1)) for i in range(len(first))[:_FEW]]
    return {
        "fastgradnorm": __version__,
        "torch": torch.__version__,
        "device": subject.device.type,
        "model": model_hash(subject),
        "parameters": _of_lines(subject.chosen),
        **plain_options(options, subject.model),
        "pool's size": total,
        LISTED: listed(batches),
        "pool's samples": _samples(dataset),
        "first indices": None if drawn is None else drawn[:_FEW].tolist(),
        "first samples": [_sample(one) for one in few],
    }


def refuse_others(path: Path, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Raises where the facts of a file are not those of a run, and says which."""
    differ = [
        f"{name} ({_short(found.get(name))} there, {_short(wanted.get(name))} here)"
        for name in dict.fromkeys([*wanted, *found])
        if not _agree(name, found.get(name), wanted.get(name))
    ]
    if differ:
        raise ArgumentError(
            f"`checkpoint` must be of the same model, options and pool. Got {str(path)!r}, which "
            f"differs in {', '.join(differ)}. Use another path, or delete it to start anew.",
            "checkpoint",
        )


def _agree(name: str, there: Any, here: Any) -> bool:
    """Whether two facts are one; of the first samples, as many as both tell."""
    if name == LISTED:
        return there == here or None in (there, here)
    if there == here or not name.startswith("first "):
        return bool(there == here)
    # None: in sequence.
    pairs = zip(there or itertools.count(), here or itertools.count(), strict=False)
    return all(a == b for a, b in pairs)


def _short(value: Any, most: int = 40) -> str:
    text = str(value)
    return text if len(text) <= most else text[: most - 3] + "..."


def listed(batches: Any) -> int | None:
    """Samples of a list of batches: as many as the first thing in each that has a length says."""
    if not isinstance(batches, (list, tuple)):
        return None
    parts = [
        next((x for x in pytree.tree_leaves(batch) if isinstance(x, (Tensor, np.ndarray))), None)
        for batch in batches
    ]
    return sum(len(part) for part in parts if part is not None and part.ndim)


def _samples(dataset: Any) -> str | None:
    """Of which samples of another dataset it takes, and of what lies in memory.

    Nothing is loaded for it. None: neither is known.
    """
    found = []
    while isinstance(dataset, Subset):
        taken = as_indices(dataset.indices)
        found += [] if taken is None else [digest([taken])]
        dataset = dataset.dataset
    if isinstance(dataset, TensorDataset) and dataset.tensors:
        inputs = dataset.tensors[0]  # the others may be labels, which need not be read
        rows = torch.linspace(
            0, len(inputs) - 1, min(len(inputs), _ROWS), dtype=torch.float64, device="cpu"
        )
        found.append(digest([inputs[rows.long().to(inputs.device)]]))
    return _of_lines(found)[:16] if found else None


def _sample(one: Batch) -> str:
    beside = one.mask, one.attention_mask, one.target
    return digest([*one.leaves, *(each for each in beside if each is not None)])[:16]


def plain_options(options: Options, model: nn.Module, whole: bool = True) -> dict[str, Any]:
    """Every option that changes a score, as JSON can hold it: functions by a hash of their code.

    Args:
        options: All that is asked for.
        model: The caller's, which is no part of what functions hold.
        whole: Whether the numbers of large tensors that functions hold count too.
    """
    plain = {name: _plain(value, model, whole) for name, value in options.changing.items()}
    # Which parameters a function has chosen is known, and tells more than its code.
    params = options.params if isinstance(options.params, str) else "by function"
    return {**plain, "scheme": list(options.whole.schemes), "params": params}


def _plain(value: Any, model: nn.Module, whole: bool) -> Any:
    if isinstance(value, torch.dtype):
        return str(value)
    return code_of(value, model, digest, whole) if callable(value) else value


def _of_lines(lines: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def tensor_digests(model: nn.Module) -> tuple[dict[str, str], dict[str, str]]:
    """Of parameters and of buffers, by name."""
    parameters = {name: digest([p]) for name, p in model.named_parameters()}
    return parameters, {name: digest([b]) for name, b in model.named_buffers()}


def likeness(sample: Any) -> list[str]:
    """One line for each thing in what a loader yields: a digest, or its plain value."""
    if isinstance(sample, Mapping):
        sample = dict(sample)
    return [_told(leaf) for leaf in pytree.tree_leaves(sample)]


def digest_of(value: Any) -> str:
    """One digest of all that is in a value of plain things, tensors, arrays, columns of tables."""
    if hasattr(value, "to_numpy") or isinstance(value, np.ndarray):
        value = value.tolist() if hasattr(value, "tolist") else list(value)
    keys = [*map(repr, value)] if isinstance(value, Mapping) else []
    return _of_lines([*keys, *likeness(value)])


def _told(leaf: Any) -> str:
    if isinstance(leaf, np.ndarray) and leaf.dtype.kind in "biuf":
        leaf = torch.from_numpy(leaf.copy())
    if isinstance(leaf, Tensor):
        return digest([leaf])
    if isinstance(leaf, (str, bytes, int, float, type(None))):
        return repr(leaf)
    return type(leaf).__name__
