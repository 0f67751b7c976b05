"""What to do about a batch that a model does not run on, found by trying it on others."""

import contextlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from fastgradnorm._model import Batch, Subject, without_values


def cure(subject: Subject, batch: Batch, layer: nn.Module, run: Callable[[list[Any]], Any]) -> str:
    """What to do, with a space before it; empty where nothing is known.

    Args:
        subject: The model, which has just failed on one sample of the batch.
        batch: Of the loader.
        layer: The module that has failed.
        run: Calls the model on other inputs.
    """
    empty = without_values(subject.model)
    if empty is not None:
        return (
            f" It holds {empty} on the meta device, without values. Where it is used, give it some "
            "before scoring, as by `model.to_empty(device=...)` and `load_state_dict`."
        )
    inputs = [leaf[:1] for leaf in batch.leaves]
    wide = {p.dtype for p in subject.model.parameters() if p.is_floating_point()}
    given = {x.dtype for x in inputs if isinstance(x, Tensor)}
    to = next(iter(wide)) if len(wide) == 1 else None
    as_floats = inputs if to is None else [_to(x, to) for x in inputs]
    turned = [_channels_first(x) for x in as_floats]
    last = not _runs(run, as_floats) and _runs(run, turned)
    order = " Channels come first: `x.movedim(-1, 1)`." if last else ""
    if torch.uint8 in given:
        return " It was given bytes. Convert them as in training, as by `x.float() / 255`." + order
    whole = not any(t.is_floating_point or t.is_complex for t in given)
    if to is not None and whole and _runs(run, turned if last else as_floats):
        return " It was given whole numbers. Convert them as in training, by `x.float()`." + order
    if _runs(run, [x[None] if isinstance(x, Tensor) else x for x in batch.leaves]):
        return (
            " It runs on what the loader yields as one sample. If these are samples and no "
            "batches, make batches of them: `DataLoader(samples, batch_size=64)`."
        )
    others = sorted(str(dtype) for dtype in given - wide if dtype.is_floating_point)
    if not (others and wide):
        return order or _takes(layer, [x for x in inputs if isinstance(x, Tensor)])
    names = " and ".join(sorted(map(str, wide)))
    how = ", as by `model.float()`" if others[0] == "torch.float32" else ""
    told = f" It was given {others[0]}, its parameters are {names}: convert one of them{how}."
    return told + order


def _takes(layer: nn.Module, inputs: list[Tensor]) -> str:
    """What a layer takes, of kinds that are known."""
    if isinstance(layer, (nn.Embedding, nn.EmbeddingBag)):
        numbers = [x for x in inputs if not (x.is_floating_point() or x.is_complex())]
        if not numbers:
            return " It looks up whole numbers, such as the tokens of a text."
        most = max((int(x.max()) for x in numbers if x.numel()), default=0)
        rows = layer.num_embeddings
        got = f", and a sample has {most}" if most >= rows else ""
        return f" It has {rows} rows, for 0 to {rows - 1}{got}: are the tokens those of this model?"
    if isinstance(layer, nn.Linear):
        return f" This layer takes [..., {layer.in_features}]: prepare samples as in training."
    if isinstance(layer, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
        sizes = ", ".join({1: "L", 2: "HW", 3: "DHW"}[len(layer.kernel_size)])
        return (
            f" This layer takes [N, {layer.in_channels}, {sizes}]: prepare samples as in training."
        )
    return ""


def _runs(run: Callable[[list[Any]], Any], inputs: list[Any]) -> bool:
    with contextlib.suppress(Exception), torch.no_grad():  # of the model's, on what is no pool
        run(inputs)
        return True
    return False


def _to(x: Any, dtype: torch.dtype) -> Any:
    return x.to(dtype) if isinstance(x, Tensor) and not x.is_complex() else x


def _channels_first(x: Any) -> Any:
    """Of channels last, as NumPy and Pillow have pictures."""
    return x.movedim(-1, 1) if isinstance(x, Tensor) and x.dim() >= 3 else x
