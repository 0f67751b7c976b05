"""What a loader yields, as tensors with the samples first and a way to call the model on them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from fastgradnorm._validate import fail, fail_type

_LABELS = ("labels", "label")
_PLAIN = frozenset({bool, bytes, float, int, str, type(None)})


@dataclass(frozen=True)
class Batch:
    """Tensors of N samples, and how to run a model on any of them.

    Attributes:
        leaves: The tensors that hold one entry a sample, each `[N, ...]`.
        run: Calls the model on leaves `[B, ...]` and returns what it returns.
        mask: Valid positions of the logits, bool `[N, *positions]`, or None.
        attention_mask: The mapping's own, `[N, T]`, for logits of that length; or None.
        constants: What else the model is given, by name, if all of it is plain values; else None.
    """

    leaves: tuple[Tensor, ...]
    run: Callable[[nn.Module, Sequence[Tensor]], Any]
    mask: Tensor | None = None
    attention_mask: Tensor | None = None
    constants: tuple[tuple[str, Any], ...] | None = None

    def __len__(self) -> int:
        return len(self.leaves[0])

    def take(self, index: Tensor | slice) -> "Batch":
        """The samples at `index`, as a batch."""
        return replace(
            self,
            leaves=tuple(leaf[index] for leaf in self.leaves),
            mask=None if self.mask is None else self.mask[index],
            attention_mask=None if self.attention_mask is None else self.attention_mask[index],
        )

    def valid(self, logits_shape: Sequence[int]) -> Tensor | None:
        """Which positions `[N, *positions]` of logits `[*positions, C]` count; None: all."""
        *positions, _ = logits_shape
        if self.mask is not None:
            if not positions or list(self.mask.shape[1:]) != positions:
                wanted = f"[N, {', '.join(map(str, positions))}]" if positions else "none at all"
                raise fail(
                    "mask",
                    f"a function that returns the positions of the logits, {wanted}",
                    self.mask,
                )
            return self.mask
        if self.attention_mask is not None and list(self.attention_mask.shape[1:]) == positions:
            return self.attention_mask
        return None


class Reader:
    """Reads the items of one loader, one after the other.

    A tensor is the input; of a tuple or list the first element; a mapping is passed as keywords,
    without labels; anything else needs `forward`. The first tensor says how many samples there are.
    Any other whose first dimension is that long holds one entry a sample too; the rest are constant
    and passed as they are. So that a constant does not count as per-sample in a batch that happens
    to be as large, each must be the same thing in every batch.

    Args:
        device: Where the tensors go.
        forward: `(model, batch) -> logits` for batches of other types.
        mask: `(batch) -> bool [N, *positions]`.
    """

    def __init__(
        self,
        device: torch.device,
        forward: Callable[[nn.Module, Any], Any] | None = None,
        mask: Callable[[Any], Tensor] | None = None,
    ) -> None:
        self._device, self._forward, self._mask = device, forward, mask
        self._constant: dict[str, int] = {}  # length of each constant, by its name in the batch
        self._per_sample: set[str] = set()

    def read(self, raw: Any) -> Batch:
        """One item as a batch.

        Raises:
            TypeError: If it is of no known type, and there is no `forward`.
            ValueError: If a tensor was per-sample in one batch and is constant in another.
        """
        inputs, call = (raw, self._forward) if self._forward is not None else _plain(raw)
        named, spec = pytree.tree_flatten_with_path(inputs)
        flat = [
            _usable(leaf, self._device) if isinstance(leaf, Tensor) else leaf for _, leaf in named
        ]
        size = _batch_size(flat, raw)
        places = [
            i
            for i, (path, leaf) in enumerate(named)
            if isinstance(leaf, Tensor) and self._holds_samples(pytree.keystr(path), leaf, size)
        ]

        def run(model: nn.Module, leaves: Sequence[Tensor]) -> Any:
            filled = list(flat)
            for place, leaf in zip(places, leaves, strict=True):
                filled[place] = leaf
            return call(model, pytree.tree_unflatten(filled, spec))

        mask = self._mask
        valid = None if mask is None else _usable(_check_mask(mask(raw), size), self._device)
        attention = inputs.get("attention_mask") if isinstance(inputs, Mapping) else None
        if isinstance(attention, Tensor) and _holds(attention, size):
            attention = _usable(attention, self._device).bool()
        else:
            attention = None
        constants = _constants([path_leaf for i, path_leaf in enumerate(named) if i not in places])
        return Batch(tuple(flat[i] for i in places), run, valid, attention, constants)

    def _holds_samples(self, name: str, leaf: Tensor, size: int) -> bool:
        length = len(leaf) if leaf.dim() else -1
        if self._constant.get(name) == length:
            return False
        if length == size and name not in self._constant:
            self._per_sample.add(name)
            return True
        if name in self._per_sample or length == size:
            raise ValueError(
                "`loader` must yield tensors that hold one entry a sample in every batch, or in "
                f"none. Got {list(leaf.shape)} for `batch{name}` of {size} samples, unlike in an "
                "earlier batch. Give the constant tensors to the model in `forward=lambda model, "
                "batch: ...`, not in the batch."
            )
        self._constant[name] = length
        return False


def as_batch(
    raw: Any,
    device: torch.device,
    forward: Callable[[nn.Module, Any], Any] | None = None,
    mask: Callable[[Any], Tensor] | None = None,
) -> Batch:
    """A single item of a loader, see `Reader`."""
    return Reader(device, forward, mask).read(raw)


def _plain(raw: Any) -> tuple[Any, Callable[[nn.Module, Any], Any]]:
    """The inputs of a tensor, sequence or mapping, and how the model takes them."""
    if isinstance(raw, (tuple, list)) and raw:
        if isinstance(raw[0], (Tensor, Mapping)):
            return _plain(raw[0])
        raise _refusal(raw)
    if isinstance(raw, Mapping):
        inputs = {key: value for key, value in raw.items() if key not in _LABELS}
        for key, value in inputs.items():
            if isinstance(value, (list, tuple, str)):
                raise fail_type(
                    "loader",
                    f"batches whose {key!r} is a tensor",
                    value,
                    "Tokenise and collate in the loader, or pass `forward=`.",
                )
        return inputs, lambda model, given: model(**given)
    if isinstance(raw, Tensor):
        return raw, lambda model, given: model(given)
    raise _refusal(raw)


def _constants(named: Sequence[tuple[Any, Any]]) -> tuple[tuple[str, Any], ...] | None:
    if any(type(leaf) not in _PLAIN for _, leaf in named):
        return None
    return tuple((pytree.keystr(path), leaf) for path, leaf in named)


def _refusal(raw: Any) -> TypeError:
    return fail_type(
        "loader",
        "an iterable of tensors, tuples or lists of tensors, or mappings of them",
        raw,
        "Pass `forward=lambda model, batch: ...` for other batches.",
    )


def _usable(leaf: Tensor, device: torch.device) -> Tensor:
    leaf = leaf.to(device, non_blocking=True)
    # Autograd refuses tensors made in inference mode; a copy made outside is an ordinary tensor.
    return leaf.clone() if leaf.is_inference() else leaf.detach()


def _holds(leaf: Tensor, size: int) -> bool:
    return leaf.dim() > 0 and len(leaf) == size


def _batch_size(flat: Sequence[Any], raw: Any) -> int:
    for leaf in flat:
        if isinstance(leaf, Tensor):
            if leaf.dim() == 0:
                raise fail("loader", "batches [N, ...]", leaf, "Add a batch dimension.")
            return len(leaf)
    raise _refusal(raw)


def _check_mask(mask: Any, size: int) -> Tensor:
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        raise fail_type("mask", "a function that returns a bool tensor [N, *positions]", mask)
    if not _holds(mask, size):
        raise fail("mask", f"a function that returns one row for each of {size} samples", mask)
    return mask
