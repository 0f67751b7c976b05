"""What a loader yields, as tensors with the samples first and a way to call the model on them."""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from fastgradnorm._errors import ArgumentError
from fastgradnorm._model.given import Given
from fastgradnorm._model.labels import Item, read_labels
from fastgradnorm._model.numbers_of import strided
from fastgradnorm._model.opened import opened
from fastgradnorm._model.places import warn_of_dropped
from fastgradnorm._model.raw import plain, refusal, with_tensors, withheld
from fastgradnorm._model.sizes import batch_size, is_shared_graph
from fastgradnorm._schemes import Labels
from fastgradnorm._validate import fail, fail_type


@dataclass(frozen=True)
class Batch:
    """Tensors of N samples, and how to run a model on any of them.

    Attributes:
        leaves: The tensors that hold one entry a sample, each `[N, ...]`.
        run: Calls the model on leaves `[B, ...]` and returns what it returns.
        mask: Valid positions of the logits, bool `[N, *positions]`, or None.
        attention_mask: The mapping's own, `[N, T]`, for logits of that length; or None.
        withheld: What the model is not given, in words, or empty.
        beside: What is known of each sample `[N, ...]` and not given to the model; or None.
        target: Labels `[N, ...]`, or None.
        labelled: From leaves to the samples as a loss is given them; None where none asks for that.
    """

    leaves: tuple[Tensor, ...]
    run: Callable[[nn.Module, Sequence[Tensor]], Any]
    mask: Tensor | None = None
    attention_mask: Tensor | None = None
    withheld: str = ""
    beside: Tensor | None = None
    target: Tensor | None = None
    labelled: Callable[[Sequence[Tensor]], Item] | None = None

    def __len__(self) -> int:
        return self.leaves[0].shape[0]

    @property
    def kind(self) -> Any:
        """Equal for batches on which a model is called alike; None where that is not known."""
        return self.run.kind if isinstance(self.run, Given) else None

    def _with(self, **changes: Any) -> "Batch":
        """As `replace`, which takes ten times as long, and is called for each batch."""
        made = object.__new__(type(self))
        made.__dict__.update(self.__dict__, **changes)
        return made

    def take(self, index: Tensor | slice) -> "Batch":
        """The samples at `index`, as a batch."""
        return self._with(
            leaves=tuple(leaf[index] for leaf in self.leaves),
            mask=None if self.mask is None else self.mask[index],
            attention_mask=None if self.attention_mask is None else self.attention_mask[index],
            beside=None if self.beside is None else self.beside[index],
            target=None if self.target is None else self.target[index],
        )

    def copied(self) -> "Batch":
        """The same samples in other memory: a loader may write its next batch into theirs."""

        def copy(tensor: Tensor) -> Tensor:
            return tensor.clone(memory_format=torch.contiguous_format)

        def each(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else copy(tensor)

        return self._with(
            leaves=tuple(map(copy, self.leaves)),
            mask=each(self.mask),
            attention_mask=each(self.attention_mask),
            beside=each(self.beside),
            target=each(self.target),
        )

    def kept(self) -> "Batch":
        """The same in memory of its own, and what the model is given beside the samples, too."""
        run = self.run.kept() if isinstance(self.run, Given) else self.run
        return replace(self.copied(), run=run)

    @classmethod
    def join(cls, parts: Sequence["Batch"]) -> "Batch":
        """Samples of one shape as one batch, with what the first one's model is given beside."""
        if len(parts) == 1:
            return parts[0]

        def cat(tensors: Sequence[Tensor | None]) -> Any:
            found = [tensor for tensor in tensors if tensor is not None]
            return torch.cat(found) if found else None

        return replace(
            parts[0],
            leaves=tuple(map(cat, zip(*(part.leaves for part in parts), strict=True))),
            mask=cat([part.mask for part in parts]),
            attention_mask=cat([part.attention_mask for part in parts]),
            target=cat([part.target for part in parts]),
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

    A tensor or an array of NumPy's is the input; of a tuple or list the first element; a mapping is
    passed as keywords, without labels; anything else needs `forward`. The first tensor says how
    many samples there are.
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
        self._of = model
        self._constant: dict[str, int] = {}  # length of each constant, by its name in the batch
        self._per_sample: set[str] = set()
        self._settings: set[str] = set()  # lists that hold no entry a sample, by name
        # Where a tensor alone is the input, which all batches of a kind are read like: the kind.
        self._alone: tuple[tuple[type, int], Batch] | None = None
        self._copying = False

    @functools.cached_property
    def _wide(self) -> bool:
        parameters = [] if self._of is None else self._of.parameters()
        return any(parameter.dtype == torch.float64 for parameter in parameters)

    def settle(self) -> None:
        """Waits for copies from pinned memory, which a loader may write the next batch to.

        By then little is left to wait for: they were first in their stream.
        """
        if self._copying:
            torch.cuda.current_stream(self._device).synchronize()
            self._copying = False

    def _usable(self, leaf: Tensor) -> Tensor:
        if leaf.is_meta and self._device.type != "meta":
            advice = "What the model is given is on the meta device, which has shapes alone."
            raise fail("loader", "of batches that have values", leaf, advice)
        # Nowhere else: a copy to the host is read at once, and would be before it is there.
        later = self._device.type == "cuda" and leaf.device.type == "cpu" and leaf.is_pinned()
        self._copying |= later
        leaf = leaf.to(self._device, non_blocking=later)
        # Autograd refuses tensors made in inference mode; a copy made outside is an ordinary one.
        return leaf.clone() if leaf.is_inference() else leaf.detach()

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
        plainly = self._forward is None
        raw = with_tensors(raw, self._wide) if plainly and type(raw) is not Tensor else raw
        key = None if self._labels is None else self._labels.target
        inputs, call, rest = plain(raw, key) if self._forward is None else (raw, self._forward, ())
        found = opened(inputs)
        size = batch_size(found.named, raw, drawn)
        if size is None:
            raise refusal(raw, plainly)
        kind = type(raw), len(rest)
        if type(inputs) is Tensor and self._alone is not None and self._alone[0] == kind:
            alone = self._usable(inputs)
            if alone.layout == torch.strided:
                return self._alone[1]._with(leaves=(alone,))
        if self._model is not None and rest and not (self._labels and len(rest) == 1):
            warn_of_dropped(self._model, inputs, rest)
        self._model = None  # one batch tells
        flat = [self._usable(leaf) if isinstance(leaf, Tensor) else leaf for _, leaf in found.named]
        first = next(leaf for leaf in flat if isinstance(leaf, Tensor))
        places = [
            i
            for i, (name, _) in enumerate(found.named)
            if isinstance(flat[i], Tensor) and self._holds_samples(name, flat[i], size, first)
        ]
        names = tuple(name for name, _ in found.named)
        shared = tuple(None if i in places else leaf for i, leaf in enumerate(flat))
        run = Given(names, shared, tuple(places), found.close, call, found.form, found.beside)
        mask = self._mask
        valid = None if mask is None else self._usable(_check_mask(mask(raw), size))
        attention = inputs.get("attention_mask") if isinstance(inputs, Mapping) else None
        if isinstance(attention, Tensor) and _holds(attention, size):
            attention = self._usable(attention).bool()
        else:
            attention = None
        untold = withheld(raw, rest) if plainly and self._labels is None else ""
        leaves = tuple(strided(flat[i]) for i in places)
        batch = Batch(leaves, run, valid, attention, untold)
        labels, forward = self._labels, self._forward
        if labels is None:
            if type(inputs) is Tensor and plainly and mask is None:
                self._alone = kind, replace(batch, leaves=())
            return batch

        def remade(model: nn.Module, item: Any) -> Any:
            given, called, _ = plain(item, key) if forward is None else (item, forward, ())
            return called(model, given)

        target, whole = read_labels(raw, size, found, labels, remade, self._settings)
        batch = replace(batch, target=None if target is None else strided(self._usable(target)))
        if whole is None:
            return batch
        item = partial(whole.item, run.fill, len(leaves))
        leaves += tuple(strided(self._usable(leaf)) for leaf in whole.beyond)
        return replace(batch, leaves=leaves, labelled=item)

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
            raise ArgumentError(
                "`loader` must yield tensors that hold one entry a sample in every batch, or in "
                f"none. Got {list(leaf.shape)} for `batch{name}` of {size} samples, unlike in an "
                "earlier batch. Give the constant tensors to the model in `forward=lambda model, "
                "batch: ...`, not in the batch.",
                "loader",
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


def _holds(leaf: Tensor, size: int) -> bool:
    return leaf.dim() > 0 and len(leaf) == size


def _check_mask(mask: Any, size: int) -> Tensor:
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        raise fail_type("mask", "a function that returns a bool tensor [N, *positions]", mask)
    if not _holds(mask, size):
        raise fail("mask", f"a function that returns one row for each of {size} samples", mask)
    return mask
