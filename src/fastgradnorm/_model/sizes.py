"""How many samples a batch holds: read from its first tensor, and refused where it is ambiguous."""

import functools
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from fastgradnorm._errors import ArgumentError
from fastgradnorm._model.opened import opened
from fastgradnorm._validate import fail, type_name

# Names under which samples of several sizes are put end to end, and what tells them apart.
_JOINTS = frozenset({"ptr", "offset", "offsets", "cu_seqlens", "cu_seqlens_q", "cu_seqlens_k"})
_MEMBERS = frozenset({"batch", "batch_idx", "batch_index", "segment_ids"})
# What holds lengths, by its name, or in a tuple without one.
_LENGTHS = re.compile(r"len|size|num|count|split|points|nodes|atoms|^n$|^n_|^\d+$")
_PADDED = (
    "Make each tensor hold one entry a sample: pad the samples in the loader's collate_fn, give a "
    "mask for what is padding, and pass `forward=lambda model, batch: ...` if the model wants them "
    "end to end."
)


def batch_size(named: Sequence[tuple[str, Any]], raw: Any, drawn: int | None) -> int | None:
    """Samples in a batch, or None if there is no tensor in it.

    Args:
        named: Its leaves.
        raw: The batch as the loader yields it.
        drawn: How many indices the loader's sampler drew for it, if known.

    Raises:
        ValueError: If it is ambiguous.
    """
    if isinstance(raw, PackedSequence):
        _refuse_joined(".batch_sizes", raw.batch_sizes, len(raw.data), "a packed sequence")
    tensors = [(name, leaf) for name, leaf in named if isinstance(leaf, Tensor)]
    for name, leaf in tensors:
        if leaf.is_nested:
            raise ArgumentError(
                f"`loader` must yield tensors whose samples have one shape. Got a nested (jagged) "
                f"one{_at(name)}. Pad it, `torch.nested.to_padded_tensor(x, 0)`, and tell the "
                "padding by a mask.",
                "loader",
            )
    if not tensors:
        return None
    name, first = tensors[0]
    if first.dim() == 0:
        raise fail("loader", "batches [N, ...]", first, "Add a batch dimension.")
    size = len(first)
    _check_list(raw, size, drawn)
    _check_joined(tensors, size)
    _check_arrays(named, size)
    if drawn is not None and size != drawn:
        others = [(n, t) for n, t in tensors[1:] if t.dim() and len(t) == drawn]
        if size > drawn or others:
            told = f", where{_at(others[0][0])} there are {drawn}" if others else ""
            raise ArgumentError(
                f"`loader` must yield batches of as many samples as it draws. Got {size}, read "
                f"from the first dimension of {type_name(first)}{_at(name)}, for {drawn} indices"
                f"{told}. {_PADDED} If each entry is a sample of its own, pass the batches "
                "themselves: `(batch for batch in loader)`.",
                "loader",
            )
    return size


def _at(name: str) -> str:
    return f" at `batch{name}`" if name else ""


def _check_list(raw: Any, size: int, drawn: int | None) -> None:
    """A list is inputs and labels, unless it can be a list of samples, too."""
    if not isinstance(raw, (list, tuple)) or len(raw) < 2 or size == drawn:
        return
    tensors = [item for item in raw if isinstance(item, Tensor)]
    if not tensors:
        _check_items(raw, size)
        return
    firsts = [list(item.shape[:1]) for item in tensors]
    # As samples are: of one dtype and shape, but for one dimension.
    alike = len(tensors) == len(raw) and len({(t.dtype, t.shape[1:]) for t in tensors}) == 1
    if any(first != firsts[0] for first in firsts):
        ambiguous = alike or isinstance(raw, list)
    else:
        ambiguous = alike and isinstance(raw, list) and tensors[0].is_floating_point()
    if ambiguous or (alike and len(tensors) == drawn):
        shapes = ", ".join(str(list(item.shape)) for item in tensors[:4])
        raise ArgumentError(
            f"`loader` must yield batches of which it is clear what a sample is. Got a "
            f"{type(raw).__name__} of tensors {shapes}{', ...' if len(tensors) > 4 else ''}, which "
            f"may be {len(tensors)} samples, or inputs of {size} samples and their labels. For "
            "samples, stack them (`torch.stack`; of several lengths, padded with a mask) in the "
            "loader's collate_fn; for inputs and labels, yield the inputs alone, or a mapping.",
            "loader",
        )


def _check_items(raw: Sequence[Any], size: int) -> None:
    """Of tuples or mappings, each may be a sample, with its label."""
    first = raw[0]
    if not isinstance(first, (tuple, list, Mapping)) or len({type(item) for item in raw}) > 1:
        return
    leaves = [leaf for item in raw for _, leaf in opened(item).named]
    mappings = isinstance(first, Mapping) and all(item.keys() == first.keys() for item in raw)
    if (mappings and isinstance(raw, list)) or any(
        not isinstance(leaf, Tensor) or leaf.shape[:1] != (size,) for leaf in leaves
    ):
        raise list_of_samples(raw)


def list_of_samples(raw: Sequence[Any]) -> ValueError:
    """The error for batches that are lists of what a dataset yields."""
    return ValueError(
        f"`loader` must yield batches of tensors with one entry a sample. Got a "
        f"{type(raw).__name__} of {len(raw)} {type(raw[0]).__name__}s, which looks like "
        f"{len(raw)} samples one by one. Put them together in the loader's collate_fn, such as "
        "`torch.utils.data.default_collate`, or pad them there."
    )


def _check_joined(tensors: Sequence[tuple[str, Tensor]], size: int) -> None:
    """Samples of several sizes put end to end are not told apart by the first dimension."""
    for name, leaf in tensors:
        key = _key(name)
        if leaf.is_floating_point() or leaf.is_complex() or not key:
            continue
        if key == "edge_index" and not is_shared_graph(name, leaf, tensors[0][1]):
            _refuse_joined(name, leaf, size, "the edges of a graph, or of several in one")
        if leaf.dim() != 1 or not len(leaf):
            continue
        steps = leaf.long().diff()
        rising = bool((steps >= 0).all())
        begins = rising and int(leaf[0]) == 0 and bool((steps > 1).any()) and len(leaf) != size
        end = int(leaf[-1])
        if key in _JOINTS or (begins and (end == size or (key.isdigit() and end < size))):
            _refuse_joined(name, leaf, size, "where in the others each sample begins")
        if key in _MEMBERS and len(leaf) == size and rising and int(leaf[0]) == 0:
            _refuse_joined(name, leaf, size, "the sample that each entry of the others belongs to")
        if len(leaf) != size and int(leaf.sum()) == size and _LENGTHS.search(key):
            _refuse_joined(name, leaf, size, "how many entries of the others each sample has")


@functools.lru_cache(maxsize=1 << 10)
def _key(name: str) -> str:
    """The last key or attribute of a leaf's place: `ptr` of `._store['ptr']`."""
    words: list[str] = re.findall(r"\w+", name)
    return words[-1] if words else ""


def is_shared_graph(name: str, leaf: Tensor, first: Tensor) -> bool:
    """Whether it holds the edges of one graph `[2, E]` for inputs `[N, nodes, ...]`."""
    return _key(name) == "edge_index" and leaf.dim() == 2 and len(leaf) == 2 and first.dim() > 2


def _refuse_joined(name: str, leaf: Tensor, size: int, what: str) -> None:
    raise ArgumentError(
        f"`loader` must yield tensors with one entry a sample. Got {type_name(leaf)}{_at(name)}, "
        f"which looks like {what}: samples of several sizes, put end to end, of which {size} would "
        f"be read from the first tensor's first dimension. {_PADDED}",
        "loader",
    )


def _check_arrays(named: Sequence[tuple[str, Any]], size: int) -> None:
    for name, leaf in named:
        if isinstance(leaf, np.ndarray) and leaf.ndim and len(leaf) == size:
            raise ArgumentError(
                f"`loader` must yield what differs between samples as tensors, from which samples "
                f"are cut. Got a NumPy array {leaf.dtype} {list(leaf.shape)}{_at(name)} beside "
                f"{size} samples. Use `torch.from_numpy` in the loader's collate_fn.",
                "loader",
            )
