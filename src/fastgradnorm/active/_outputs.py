"""A plain forward pass over samples: their logits, and what the last layer was given."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from fastgradnorm.active._context import Context

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_LAYERS = (nn.Linear, *_CONVOLUTIONS, *_TRANSPOSED)


@dataclass(frozen=True)
class Outputs:
    """Of one batch.

    Attributes:
        logits: `[B, T, C]`, float64, over the temperature; T = 1 for one label a sample, else the
            positions of dense outputs, or the labels of multi-label ones with C = 2.
        valid: Share of each position in its sample `[B, T]`: one over the number of valid ones.
        features: `[B, D]`: what the layer that made the logits was given, the mean over positions;
            None if not asked for.
    """

    logits: Tensor
    valid: Tensor
    features: Tensor | None

    @property
    def dense(self) -> bool:
        """Whether a sample has several positions."""
        return self.logits.shape[1] > 1

    def mean(self, values: Tensor) -> Tensor:
        """The mean `[B, ...]` over valid positions of values `[B, T, ...]`."""
        return torch.einsum("bt,bt...->b...", self.valid, values)


def outputs(context: Context, indices: Tensor, features: bool = False) -> Iterator[Outputs]:
    """Runs the model on items of the pool, batch by batch, without gradients.

    Raises:
        TypeError: If the model does not return logits.
        ValueError: If `features` are asked for and the logits come from no linear or convolutional
            layer.
    """
    last = _LastLayer(context.model)
    some = next(iter(context.model.parameters()))
    for batch in context.loader(indices):
        with torch.no_grad(), last:  # not while the caller works with what it got
            on_device = pytree.tree_map_only(Tensor, lambda t: t.to(some.device), batch)
            made = _call(context, on_device)
            given = last.features_of(made).double() if features else None
        yield _outputs(context, batch, made, given)


def _call(context: Context, batch: Any) -> Tensor:
    forward = context.score_options.get("forward")
    if forward is not None:
        made = forward(context.model, batch)
    elif isinstance(batch, dict):
        made = context.model(**batch)
    else:
        made = context.model(batch)
    if not isinstance(made, Tensor):
        raise TypeError(
            f"`task.make_model` must make models that return logits. Got {type(made).__name__}. "
            'Set `score_options = {"forward": lambda model, batch: ...}` on the task.'
        )
    return made


def _outputs(context: Context, batch: Any, made: Tensor, features: Tensor | None) -> Outputs:
    options = context.score_options
    z = made.movedim(options.get("class_dim", 1), -1) if made.dim() > 1 else made[:, None]
    z = z.double() / options.get("temperature", 1.0)
    mask = None if options.get("mask") is None else options["mask"](batch).to(z.device)
    binary = z.shape[-1] == 1 or options.get("likelihood") == "bernoulli"
    if binary:  # each label is a choice between two classes, of logits 0 and z
        z = torch.stack([torch.zeros_like(z), z], -1)
        mask = None if mask is None else mask[..., None].expand(z.shape[:-1])
    z = z.reshape(len(z), -1, z.shape[-1])
    valid = torch.ones_like(z[..., 0]) if mask is None else mask.reshape(len(z), -1).to(z.dtype)
    share = valid / valid.sum(1, keepdim=True).clamp_min(1)
    return Outputs(z, share, features)


class _LastLayer:
    """While entered, sees what each linear or convolutional layer is given."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.seen: list[tuple[Tensor, Tensor, nn.Module]] = []
        self._hooks: list[Any] = []

    def __enter__(self) -> None:
        for module in self.model.modules():
            if isinstance(module, _LAYERS):
                self._hooks.append(module.register_forward_hook(self._note))

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()
        self.seen.clear()

    def _note(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        self.seen.append((inputs[0], output, module))

    def features_of(self, logits: Tensor) -> Tensor:
        """The input `[B, D]` of the last layer, the mean over its positions."""
        for given, output, module in reversed(self.seen):
            if output.untyped_storage().data_ptr() == logits.untyped_storage().data_ptr():
                if given.dim() == 2:
                    return given
                channels = -1 if isinstance(module, nn.Linear) else 1
                return given.movedim(channels, -1).flatten(1, -2).mean(1)
        raise ValueError(
            "`task.make_model` must make models whose logits come from a linear or convolutional "
            "layer, possibly reshaped, for strategies that look at features. Got one whose logits "
            "come from elsewhere. Use a strategy over gradients of all parameters."
        )
