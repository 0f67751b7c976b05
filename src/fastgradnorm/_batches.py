"""What a loader yields, as tensors with the samples first and a way to call the model on them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from fastgradnorm._validate import fail, fail_type

_LABELS = ("labels", "label")


@dataclass(frozen=True)
class Batch:
    """Tensors of N samples, and how to run a model on any of them.

    Attributes:
        leaves: The tensors that hold one entry a sample, each `[N, ...]`.
        run: Calls the model on leaves `[B, ...]` and returns what it returns.
        mask: Valid positions of the logits, bool `[N, *positions]`, or None.
        attention_mask: The mapping's own, `[N, T]`, for logits of that length; or None.
    """

    leaves: tuple[Tensor, ...]
    run: Callable[[nn.Module, Sequence[Tensor]], Any]
    mask: Tensor | None = None
    attention_mask: Tensor | None = None

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


def as_batch(
    raw: Any,
    device: torch.device,
    forward: Callable[[nn.Module, Any], Any] | None = None,
    mask: Callable[[Any], Tensor] | None = None,
) -> Batch:
    """Reads one item of a loader.

    A tensor is the input; of a tuple or list the first element; a mapping is passed as keywords,
    without labels; anything else needs `forward`.
    """
    inputs, call = (raw, forward) if forward is not None else _plain(raw)
    flat, spec = pytree.tree_flatten(inputs)
    flat = [_usable(leaf, device) if isinstance(leaf, Tensor) else leaf for leaf in flat]
    size = _batch_size(flat, raw)
    places = [i for i, leaf in enumerate(flat) if isinstance(leaf, Tensor) and _holds(leaf, size)]

    def run(model: nn.Module, leaves: Sequence[Tensor]) -> Any:
        filled = list(flat)
        for place, leaf in zip(places, leaves, strict=True):
            filled[place] = leaf
        return call(model, pytree.tree_unflatten(filled, spec))

    valid = None if mask is None else _usable(_check_mask(mask(raw), size), device)
    attention = inputs.get("attention_mask") if isinstance(inputs, Mapping) else None
    if isinstance(attention, Tensor) and _holds(attention, size):
        attention = _usable(attention, device).bool()
    else:
        attention = None
    return Batch(tuple(flat[i] for i in places), run, valid, attention)


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
