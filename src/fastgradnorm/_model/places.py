"""What of a batch a model is not given: labels, rightly, and inputs that are taken for labels."""

import inspect
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from fastgradnorm._validate import type_name

_LABELS = frozenset({"label", "labels", "target", "targets", "y", "y_true", "ground_truth"})
_PER_SAMPLE = ("len", "size", "num", "count")
_ORDINALS = ("second", "third", "fourth", "fifth")


def warn_of_dropped(model: nn.Module, inputs: Any, rest: Sequence[Any]) -> None:
    """Warns if what comes after a batch's inputs looks like more inputs that the model takes.

    Silent for what are labels in all likelihood, and where `model.forward` has no place for more.

    Args:
        model: What is scored.
        inputs: The first element of the batch, which the model is given.
        rest: The others.
    """
    names = _open_places(model)
    if not names or not isinstance(inputs, Tensor):
        return
    for i, item in enumerate(rest):
        place = names[min(i, len(names) - 1)]
        if isinstance(item, Mapping):
            fitting = [name for name in names if name in item]
            if not fitting:
                continue
            place = fitting[0]
        elif not isinstance(item, Tensor) or not _may_be_input(
            inputs, item, place, last=i == len(rest) - 1
        ):
            continue
        argument = f"batch[{i + 1}]" + (f"[{place!r}]" if isinstance(item, Mapping) else "")
        keyword = "" if place.startswith("*") else f"{place}="
        ordinal = _ORDINALS[i] if i < len(_ORDINALS) else f"{i + 2}th"
        warnings.warn(
            f"`loader` yields {len(rest) + 1} things a batch, of which `model` is given the first "
            f"alone, the others being taken for labels. The {ordinal} ({type_name(item)}) looks "
            f"like an input, for which `model.forward` has a place (`{place}`): without it scores "
            "are wrong. Pass `forward=lambda model, batch: model(batch[0], "
            f"{keyword}{argument})`, or yield mappings of the model's arguments; if it is a label, "
            "`forward=lambda model, batch: model(batch[0])`.",
            stacklevel=4,
        )
        return


def _open_places(model: nn.Module) -> list[str]:
    """Arguments of `model.forward`, after the first, that may take a tensor, and are no labels."""
    try:
        first, *others = inspect.signature(model.forward).parameters.values()
    except (TypeError, ValueError):
        return []
    if first.kind is first.VAR_POSITIONAL:
        others = [first, *others]
    names = []
    for p in others:
        if p.kind is p.VAR_POSITIONAL:
            names.append(f"*{p.name}")
        elif p.kind is not p.VAR_KEYWORD and p.default in (None, p.empty):
            names.append(p.name)
    return [name for name in names if name.lower() not in _LABELS]


def _may_be_input(inputs: Tensor, item: Tensor, place: str, *, last: bool) -> bool:
    if item.dim() == 0 or len(item) != len(inputs):
        return False
    if item.dim() == 1:  # labels, weights, indices; lengths, where some are asked for
        whole = not (item.is_floating_point() or item.is_complex())
        return whole and not last and any(part in place.lower() for part in _PER_SAMPLE)
    binary = bool(((item == 0) | (item == 1)).all())
    if _fits(inputs, item):
        # A mask, types of tokens; or other numbers, of which the last may be labels of tokens.
        return binary or not last or item.is_floating_point()
    # Features or categories, unless they can be one-hot, soft or several labels, or dense ones.
    if item.is_floating_point():
        return not bool(((item >= 0) & (item <= 1)).all())
    return not binary and (item.dim() == 2 or not last)


def _fits(inputs: Tensor, item: Tensor) -> bool:
    """Whether it has an entry for each position, pixel or word of the inputs."""
    begins = item.shape == inputs.shape[: item.dim()]
    pixels = item.dim() == inputs.dim() > 2 and item.shape[2:] == inputs.shape[2:]
    grey = item.dim() == inputs.dim() - 1 > 2 and item.shape[1:] == inputs.shape[2:]
    return begins or pixels or grey
