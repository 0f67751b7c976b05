"""What a loader yields, as tensors with the samples first and a way to call the model on them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from fastgradnorm._model.labels import Item, read_labels
from fastgradnorm._model.opened import opened
from fastgradnorm._model.places import warn_of_dropped
from fastgradnorm._model.sizes import batch_size, is_shared_graph, list_of_samples
from fastgradnorm._schemes.losses import Labels
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
        withheld: What the model is not given, in words, or empty.
        beside: What is known of each sample `[N, ...]` and not given to the model; or None.
        target: Labels `[N, ...]`, or None.
        labelled: From leaves to the samples as a loss is given them; None where none asks for that.
    """

    leaves: tuple[Tensor, ...]
    run: Callable[[nn.Module, Sequence[Tensor]], Any]
    mask: Tensor | None = None
    attention_mask: Tensor | None = None
    constants: tuple[tuple[str, Any], ...] | None = None
    withheld: str = ""
    beside: Tensor | None = None
    target: Tensor | None = None
    labelled: Callable[[Sequence[Tensor]], Item] | None = None

    def __len__(self) -> int:
        return len(self.leaves[0])

    def take(self, index: Tensor | slice) -> "Batch":
        """The samples at `index`, as a batch."""
        return replace(
            self,
            leaves=tuple(leaf[index] for leaf in self.leaves),
            mask=None if self.mask is None else self.mask[index],
            attention_mask=None if self.attention_mask is None else self.attention_mask[index],
            beside=None if self.beside is None else self.beside[index],
            target=None if self.target is None else self.target[index],
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
        model: What is scored, to tell inputs that it is not given from labels; None: that is not
            looked at.
        labels: What of the batches is for a loss; None: labels are never read.
    """

    def __init__(
        self,
        device: torch.device,
        forward: Callable[[nn.Module, Any], Any] | None = None,
        mask: Callable[[Any], Tensor] | None = None,
        model: nn.Module | None = None,
        labels: Labels | None = None,
    ) -> None:
        self._device, self._forward, self._mask, self._model = device, forward, mask, model
        self._labels = labels
        self._constant: dict[str, int] = {}  # length of each constant, by its name in the batch
        self._per_sample: set[str] = set()

    def read(self, raw: Any, drawn: int | None = None) -> Batch:
        """One item as a batch.

        Args:
            raw: What the loader yields.
            drawn: How many samples its sampler drew for it, if known.

        Raises:
            TypeError: If it is of no known type, and there is no `forward`.
            ValueError: If a tensor was per-sample in one batch and is constant in another, or if it
                is ambiguous what a sample is.
        """
        plain = self._forward is None
        inputs, call, rest = _plain(raw) if self._forward is None else (raw, self._forward, ())
        found = opened(inputs)
        size = batch_size(found.named, raw, drawn)
        if size is None:
            raise _refusal(raw, plain)
        if self._model is not None and rest and not (self._labels and len(rest) == 1):
            warn_of_dropped(self._model, inputs, rest)
        self._model = None  # one batch tells
        flat = [
            _usable(leaf, self._device) if isinstance(leaf, Tensor) else leaf
            for _, leaf in found.named
        ]
        first = next(leaf for leaf in flat if isinstance(leaf, Tensor))
        places = [
            i
            for i, (name, _) in enumerate(found.named)
            if isinstance(flat[i], Tensor) and self._holds_samples(name, flat[i], size, first)
        ]

        def fill(leaves: Sequence[Tensor]) -> list[Any]:
            filled = list(flat)
            for place, leaf in zip(places, leaves[: len(places)], strict=True):
                filled[place] = leaf
            return filled

        def run(model: nn.Module, leaves: Sequence[Tensor]) -> Any:
            return call(model, found.close(fill(leaves)))

        mask = self._mask
        valid = None if mask is None else _usable(_check_mask(mask(raw), size), self._device)
        attention = inputs.get("attention_mask") if isinstance(inputs, Mapping) else None
        if isinstance(attention, Tensor) and _holds(attention, size):
            attention = _usable(attention, self._device).bool()
        else:
            attention = None
        others = [pair for i, pair in enumerate(found.named) if i not in places]
        withheld = _withheld(raw, rest) if plain and self._labels is None else ""
        leaves = tuple(flat[i] for i in places)
        batch = Batch(leaves, run, valid, attention, _constants(others), withheld)
        if self._labels is None:
            return batch
        labels, forward, usable = self._labels, self._forward, partial(_usable, device=self._device)

        def remade(model: nn.Module, item: Any) -> Any:
            given, plainly, _ = _plain(item) if forward is None else (item, forward, ())
            return plainly(model, given)

        target, whole = read_labels(raw, size, found, labels, remade)
        batch = replace(batch, target=None if target is None else usable(target))
        if whole is None:
            return batch
        item = partial(whole.item, fill, len(leaves))
        return replace(batch, leaves=(*leaves, *map(usable, whole.beyond)), labelled=item)

    def _holds_samples(self, name: str, leaf: Tensor, size: int, first: Tensor) -> bool:
        length = len(leaf) if leaf.dim() else -1
        if is_shared_graph(name, leaf, first):
            return False
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
    model: nn.Module | None = None,
    labels: Labels | None = None,
) -> Batch:
    """A single item of a loader, see `Reader`."""
    return Reader(device, forward, mask, model, labels).read(raw)


def _plain(raw: Any) -> tuple[Any, Callable[[nn.Module, Any], Any], Sequence[Any]]:
    """The inputs of a tensor, sequence or mapping, how the model takes them, and what is left."""
    if isinstance(raw, (tuple, list)) and raw:
        if not isinstance(raw[0], (Tensor, Mapping)):
            raise _refusal(raw, True)
        mappings = [item for item in raw if isinstance(item, Mapping)]
        like_samples = isinstance(raw, list) or all(
            m.keys() == mappings[0].keys() for m in mappings
        )
        if len(mappings) == len(raw) > 1 and like_samples:
            raise list_of_samples(raw)
        inputs, call, _ = _plain(raw[0])
        return inputs, call, raw[1:]
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
        return inputs, lambda model, given: model(**given), ()
    if isinstance(raw, Tensor):
        return raw, lambda model, given: model(given), ()
    raise _refusal(raw, True)


def _withheld(raw: Any, rest: Sequence[Any]) -> str:
    """What the model is not given, for the error of one that fails without it."""
    mapping = raw[0] if isinstance(raw, (list, tuple)) else raw
    keys = [key for key in mapping if key in _LABELS] if isinstance(mapping, Mapping) else []
    if keys:
        what = f"The batch's {keys[0]!r} is not given to the model"
    elif rest:
        what = (
            f"Of the batch, a {type(raw).__name__} of {len(rest) + 1}, only the first is given to "
            "the model"
        )
    else:
        return ""
    return (
        f"{what}: labels are never read. If it needs it, pass `forward=lambda model, batch: ...`."
    )


def _constants(named: Sequence[tuple[str, Any]]) -> tuple[tuple[str, Any], ...] | None:
    return None if any(type(leaf) not in _PLAIN for _, leaf in named) else tuple(named)


def _refusal(raw: Any, plain: bool) -> TypeError:
    """For batches without a tensor to cut samples from, or whose inputs are not told."""
    if isinstance(raw, (list, tuple)) and len(raw) > 1 and isinstance(raw[0], (list, tuple)):
        return TypeError(str(list_of_samples(raw)) + " Or pass `forward=lambda model, batch: ...`.")
    arrays = any(isinstance(leaf, np.ndarray) for leaf in pytree.tree_leaves(raw))
    if arrays:
        advice = "Make its arrays tensors in the loader's collate_fn, `torch.from_numpy(x)`."
    elif plain:
        advice = "Pass `forward=lambda model, batch: ...` for other batches."
    else:
        advice = "No tensor was found in it, of which `forward` could be given one sample."
    wanted = "an iterable of tensors, tuples or lists of tensors, or mappings of them"
    if not plain:
        wanted = "an iterable of batches that hold tensors [N, ...]"
    return fail_type("loader", wanted, raw, advice)


def _usable(leaf: Tensor, device: torch.device) -> Tensor:
    leaf = leaf.to(device, non_blocking=True)
    # Autograd refuses tensors made in inference mode; a copy made outside is an ordinary tensor.
    return leaf.clone() if leaf.is_inference() else leaf.detach()


def _holds(leaf: Tensor, size: int) -> bool:
    return leaf.dim() > 0 and len(leaf) == size


def _check_mask(mask: Any, size: int) -> Tensor:
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        raise fail_type("mask", "a function that returns a bool tensor [N, *positions]", mask)
    if not _holds(mask, size):
        raise fail("mask", f"a function that returns one row for each of {size} samples", mask)
    return mask
