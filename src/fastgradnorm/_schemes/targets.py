"""Where the label of a sample stands in its batch, and how a loss of PyTorch is given it."""

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import is_dataclass
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.nn import functional as F

from fastgradnorm._errors import LossError
from fastgradnorm._validate import fail, fail_type

Target = str | int | Callable[[Any], Any]

_KEYS = ("labels", "label")
# They read classes from dimension 1 of what they are given, whatever the model's outputs are like.
_OF_CLASSES: tuple[Any, ...] = (F.cross_entropy, F.nll_loss)
_OF_CLASSES_FORWARD = (nn.CrossEntropyLoss.forward, nn.NLLLoss.forward)


class Labels(NamedTuple):
    """How batches are read for their labels.

    Attributes:
        target: Where they are.
        named: Whether labels are taken out of a batch.
        whole: Whether a loss is given all that is in the batch.
        given: Whether the model is given the labels.
        found: Whether a loss that is given the whole batch takes labels at `target`.
    """

    target: Target | None
    named: bool
    whole: bool
    given: bool
    found: bool


def takes_logits(loss: Any) -> bool:
    """Whether it is called as `(logits, target)`, as PyTorch's losses are."""
    while isinstance(loss, functools.partial):
        loss = loss.func
    return isinstance(loss, nn.Module) or getattr(loss, "__module__", None) == F.__name__


def reads_classes(loss: Any) -> bool:
    """Whether it is a loss of PyTorch that takes dimension 1 of its input for the classes."""
    while isinstance(loss, functools.partial):
        loss = loss.func
    return loss in _OF_CLASSES or getattr(type(loss), "forward", None) in _OF_CLASSES_FORWARD


def with_classes_first(logits: Tensor, target: Any, class_dim: int) -> tuple[Tensor, Any]:
    """Logits `[N, C, *positions]` and labels, of logits that have the classes elsewhere.

    Probabilities of the classes move with them, unless they stand so already.
    """
    if not -logits.dim() <= class_dim < logits.dim() or class_dim in (1, 1 - logits.dim()):
        return logits, target
    moved = logits.movedim(class_dim, 1)
    if isinstance(target, Tensor) and target.shape == logits.shape:
        target = target.movedim(class_dim, 1)
    return moved, target


def find_target(raw: Any, target: Target | None) -> Any:
    """What of an item of a loader the label is.

    Args:
        raw: The item.
        target: A key, a position or the name of a field, or a function of the item; None: the field
            or key `labels` or `label`, or else the second of two.

    Raises:
        ValueError: If there is none, or more than one.
    """
    if callable(target):
        return target(raw)
    if target is not None:
        try:
            return raw[target]
        except (KeyError, IndexError, TypeError) as error:
            if target in _fields(raw):
                return getattr(raw, str(target))
            raise LossError(
                f"`target` must be a key or position of the batch. Got {target!r}; the batch "
                f"is {_described(raw)}. Pass a function of the batch for other places.",
                "target",
            ) from error
    named = raw if isinstance(raw, Mapping) else _fields(raw)
    found = [key for key in _KEYS if key in named]
    if len(found) > 1:
        raise LossError(
            "`target` must say which are the labels. Got none for a batch with both "
            "'labels' and 'label'. Pass `target='labels'`, or the other.",
            "target",
        )
    if found:
        return raw[found[0]] if isinstance(raw, Mapping) else getattr(raw, found[0])
    if isinstance(raw, (tuple, list)) and len(raw) == 2:
        return raw[1]
    raise LossError(
        f"`target` must say where the labels are. Got none for a batch that is {_described(raw)}: "
        "only what has the key or name 'labels' or 'label', and of two things the second, is taken "
        "for them. Pass a key, name or position, or a function of the batch.",
        "target",
    )


def _fields(raw: Any) -> list[str]:
    """Names of what an item holds that is no mapping: of a named tuple, of a dataclass, of any."""
    return list(_names(raw)) if not isinstance(raw, (Mapping, Tensor)) else []


def _names(raw: Any) -> Iterator[str]:
    if isinstance(raw, tuple):
        yield from getattr(raw, "_fields", ())
        return
    kinds = [getattr(kind, "__slots__", ()) for kind in type(raw).__mro__]
    slots = [name for kind in kinds for name in ([kind] if isinstance(kind, str) else kind)]
    declared = raw.__dataclass_fields__ if is_dataclass(raw) else ()
    for name in dict.fromkeys([*declared, *getattr(raw, "__dict__", ()), *slots]):
        if hasattr(raw, name):
            yield name


def _described(raw: Any) -> str:
    if isinstance(raw, Mapping):
        return f"a mapping of {', '.join(map(repr, raw))}"
    told = f", {', '.join(map(repr, names))}" if (names := _fields(raw)[:8]) else ""
    if isinstance(raw, (tuple, list)):
        return f"a {type(raw).__name__} of {len(raw)}{told}"
    return f"a {type(raw).__name__} with{told[1:]}" if told else f"a {type(raw).__name__} alone"


def check_target(found: Any, size: int) -> Tensor:
    """Labels `[N, ...]` of a batch of so many samples.

    Raises:
        TypeError: If they are no tensor.
        ValueError: If there is not one entry a sample.
    """
    if not isinstance(found, Tensor):
        names = isinstance(found, (list, tuple)) and any(isinstance(each, str) for each in found)
        advice = "Give each class a number." if names else "Collate them in the loader."
        raise fail_type("target", "labels that are a tensor [N, ...]", found, advice)
    if found.dim() == 0 or len(found) != size:
        raise fail(
            "target",
            f"labels with one entry for each of {size} samples",
            found,
            "Pass `target=`, the key or position of the labels in the batch, if it is elsewhere.",
        )
    return found
