"""How a model is given what a loader yields, and what of that it is not given."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils.data import DataLoader, Dataset

from fastgradnorm._model.sizes import list_of_samples
from fastgradnorm._validate import fail_type

_LABELS = ("labels", "label")


def plain(
    raw: Any, target: object = None
) -> tuple[Any, Callable[[nn.Module, Any], Any], Sequence[Any]]:
    """The inputs of a tensor, sequence or mapping, how the model takes them, and what is left.

    Args:
        raw: What a loader yields.
        target: The key of a mapping's labels, by which a model need not take them.
    """
    if isinstance(raw, (tuple, list)) and raw:
        if not isinstance(raw[0], (Tensor, Mapping)):
            raise refusal(raw, True)
        mappings = [item for item in raw if isinstance(item, Mapping)]
        like_samples = isinstance(raw, list) or all(
            m.keys() == mappings[0].keys() for m in mappings
        )
        if len(mappings) == len(raw) > 1 and like_samples:
            raise list_of_samples(raw)
        inputs, call, _ = plain(raw[0])
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
        return inputs, partial(_by_keywords, target), ()
    if isinstance(raw, Tensor):
        return raw, lambda model, given: model(given), ()
    raise refusal(raw, True)


def _by_keywords(target: object, model: nn.Module, given: Mapping[str, Any]) -> Any:
    """A model's call on a mapping, without labels that it has no argument for."""
    if target in given and len(given) > 1 and not _takes(model, str(target)):
        given = {key: value for key, value in given.items() if key != target}
    return model(**given)


def _takes(model: nn.Module, name: str) -> bool:
    """Whether a model has an argument of that name, or takes any."""
    found = inspect.signature(model.forward).parameters
    return name in found or any(p.kind is p.VAR_KEYWORD for p in found.values())


def with_tensors(raw: Any, wide: bool) -> Any:
    """The same batch with tensors in place of NumPy's arrays of numbers.

    Args:
        raw: What a loader yields; arrays in its lists, tuples and mappings are found.
        wide: Whether float64, which NumPy makes where nothing else is said, stays; else it becomes
            PyTorch's default.
    """
    if isinstance(raw, np.ndarray) and raw.dtype.kind in "biufc":
        # Not of the same memory: PyTorch has no arrays that are read-only or of other byte orders.
        found = torch.from_numpy(raw.astype(raw.dtype.newbyteorder("=")))
        narrow = found.dtype == torch.float64 and not wide
        return found.to(torch.get_default_dtype()) if narrow else found
    if isinstance(raw, Mapping) and any(isinstance(v, np.ndarray) for v in raw.values()):
        return {key: with_tensors(value, wide) for key, value in raw.items()}
    if type(raw) in (tuple, list) and any(isinstance(v, (np.ndarray, Mapping)) for v in raw):
        values = [with_tensors(value, wide) for value in raw]
        return tuple(values) if type(raw) is tuple else values
    return raw


def withheld(raw: Any, rest: Sequence[Any]) -> str:
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


def refusal(raw: Any, plainly: bool) -> TypeError:
    """For batches without a tensor to cut samples from, or whose inputs are not told."""
    if isinstance(raw, (list, tuple)) and len(raw) > 1 and isinstance(raw[0], (list, tuple)):
        return TypeError(str(list_of_samples(raw)) + " Or pass `forward=lambda model, batch: ...`.")
    if isinstance(raw, (DataLoader, Dataset)):
        whole = "loader" if isinstance(raw, DataLoader) else "DataLoader(dataset, batch_size=8)"
        advice = f"Of a whole pool take one batch: `next(iter({whole}))`."
        return fail_type("batch", "one batch, as a loader yields it", raw, advice)
    arrays = any(isinstance(leaf, np.ndarray) for leaf in pytree.tree_leaves(raw))
    if arrays:
        advice = "Arrays must hold numbers, and `forward` is given tensors: make them such in the "
        advice += "loader's collate_fn, `torch.from_numpy(x)`."
    elif plainly and any(isinstance(leaf, str) for leaf in pytree.tree_leaves(raw)):
        advice = "Make tokens of texts in the loader, such as by `collate_fn=lambda texts: "
        advice += "tokenizer(texts, padding=True, return_tensors='pt')`."
    elif plainly:
        advice = "Pass `forward=lambda model, batch: ...` for other batches."
    else:
        advice = "No tensor was found in it, of which `forward` could be given one sample."
    wanted = "an iterable of tensors, tuples or lists of tensors, or mappings of them"
    if not plainly:
        wanted = "an iterable of batches that hold tensors [N, ...]"
    return fail_type("loader", wanted, raw, advice)
