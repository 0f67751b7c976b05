"""What of a batch is for the loss: labels, and all that is not given to the model."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn

from fastgradnorm._errors import ArgumentError
from fastgradnorm._model.opened import Opened, opened
from fastgradnorm._model.uncut import Uncut, is_plain_list
from fastgradnorm._schemes import Labels, check_target, find_target
from fastgradnorm._validate import type_name

_KEYS = ("labels", "label")


class Item(NamedTuple):
    """Samples as a loss is given them.

    Attributes:
        call: Calls a model on them.
        content: Their part of what the loader yielded.
        constants: Tensors in it that do not hold one entry a sample, by `id`, each with its place.
    """

    call: Callable[[nn.Module], Any]
    content: Any
    constants: Mapping[int, str]


def read_labels(
    raw: Any,
    size: int,
    inputs: Opened,
    labels: Labels,
    call: Callable[[nn.Module, Any], Any],
    settings: set[str],
) -> "tuple[Tensor | None, Whole | None]":
    """Labels `[N, ...]` of an item of a loader, and all of it, as far as these are asked for."""
    target = None
    if labels.named:
        target = check_target(find_target(raw, labels.target), size)
    if not labels.whole:
        return target, None
    return target, Whole(raw, size, [leaf for _, leaf in inputs.named], labels, call, settings)


class Whole:
    """All of one item of a loader, of which samples are cut out.

    Args:
        raw: The item.
        size: Samples in it.
        inputs: Leaves of what the model is given, as they are in the item.
        labels: How it is read.
        call: From a model and a part of the item to what the model returns.
        settings: Names of lists that held no entry a sample in an item before, to be added to.

    Attributes:
        beyond: Tensors `[N, ...]` that are not among the inputs.

    Raises:
        ValueError: If it is not clear what of it belongs to which sample.
    """

    def __init__(
        self,
        raw: Any,
        size: int,
        inputs: Sequence[Any],
        labels: Labels,
        call: Callable[[nn.Module, Any], Any],
        settings: set[str],
    ) -> None:
        _check_lists(raw, size, inputs, settings)
        self._labels, self._call = labels, call
        known = {id(leaf): i for i, leaf in enumerate(inputs) if isinstance(leaf, Tensor)}
        self._opened = opened(raw, closed=is_plain_list)
        self._inputs: dict[int, int] = {}  # by place in the item: which of the inputs
        self._own: list[int] = []
        self._constants: dict[int, str] = {}
        self._uncut: dict[int, Uncut] = {}
        for place, (name, leaf) in enumerate(self._opened.named):
            if is_plain_list(leaf) and len(leaf) != size:
                settings.add(name)
            elif is_plain_list(leaf) and size > 1 and name not in settings:
                self._uncut[place] = Uncut(name, leaf)
            if not isinstance(leaf, Tensor):
                continue
            per_sample = leaf.dim() > 0 and len(leaf) == size
            if id(leaf) in known:
                self._inputs[place] = known[id(leaf)]
            elif per_sample:
                self._own.append(place)
            if not per_sample:
                self._constants[place] = name
        self.beyond = [self._opened.named[place][1] for place in self._own]
        if labels.found and not (labels.given and _has_no_labels(raw, labels)):
            check_target(find_target(raw, labels.target), size)

    def item(
        self, fill: Callable[[Sequence[Tensor]], list[Any]], count: int, leaves: Sequence[Tensor]
    ) -> Item:
        """The samples of these leaves; the first `count` are of the inputs, which `fill` makes."""
        inputs, beyond = fill(leaves), leaves[count:]
        filled = [leaf for _, leaf in self._opened.named]
        for place, which in self._inputs.items():
            filled[place] = inputs[which]
        for place, leaf in zip(self._own, beyond, strict=True):
            filled[place] = leaf
        constants = {id(filled[place]): name for place, name in self._constants.items()}
        content = given = self._opened.close(filled)
        if self._uncut:  # what the model reads is told elsewhere, as of batches without labels
            content = self._opened.close([self._uncut.get(i, v) for i, v in enumerate(filled)])
        call = self._with_labels if self._labels.given else self._call
        return Item(lambda model: call(model, given), content, constants)

    def _with_labels(self, model: nn.Module, item: Any) -> Any:
        """The model's own call on inputs and labels; or on what has its labels by other names."""
        if _has_no_labels(item, self._labels):
            return self._call(model, item)
        labels = find_target(item, self._labels.target)
        inputs = item[0] if isinstance(item, (tuple, list)) else item
        if not isinstance(inputs, Mapping):
            return model(inputs, labels=labels)
        target = self._labels.target
        without = {k: v for k, v in inputs.items() if k not in _KEYS and k != target}
        return model(**without, labels=labels)


def _has_no_labels(raw: Any, labels: Labels) -> bool:
    """Whether nothing of a batch is named as labels, so that a model may have a loss of it all."""
    if labels.target is not None or not isinstance(raw, (Mapping, Tensor)):
        return False
    return isinstance(raw, Tensor) or not any(key in raw for key in _KEYS)


def _check_lists(raw: Any, size: int, inputs: Sequence[Any], settings: set[str]) -> None:
    """Samples in a list are of several sizes: which of their tensors' entries are whose?

    Not if it is the list that the number of samples was read of, which was judged then; if an
    earlier batch had more or fewer samples than it has parts; or if these are unlike each other.
    """
    first = next((leaf for leaf in inputs if isinstance(leaf, Tensor)), None)
    named = raw if isinstance(raw, Mapping) else {}
    parts = dict(enumerate(raw)) if isinstance(raw, (list, tuple)) else named
    for place, part in parts.items():
        if not isinstance(part, (list, tuple)) or any(each is first for each in part):
            continue
        own = [isinstance(each, Mapping) or _is_other(each, size) for each in part]
        if not any(own) or not _are_alike(part):
            continue
        name = f"parts {place!r}"
        if len(part) != size:
            settings.add(name)
        elif name not in settings:
            raise ArgumentError(
                "`loader` must yield labels as tensors with one entry a sample. Got a "
                f"{type_name(part)} for {size} samples. Pad and stack them in the loader's "
                "collate_fn, or score batches of one sample whose labels are no list.",
                "loader",
            )


def _are_alike(parts: Sequence[Any]) -> bool:
    """Whether parts may be samples: all of one kind, and mappings of the same keys."""
    mappings = [part for part in parts if isinstance(part, Mapping)]
    if len(mappings) not in (0, len(parts)):
        return all(not isinstance(part, Tensor) for part in parts)
    return isinstance(parts, list) or all(m.keys() == mappings[0].keys() for m in mappings)


def _is_other(item: Any, size: int) -> bool:
    """Whether it is a tensor that does not hold one entry a sample."""
    return isinstance(item, Tensor) and not (item.dim() and len(item) == size)
