"""Recurrent layers under vmap: samples and cotangents folded once, for all steps of a layer.

The steps run without a derivative. What each of them has begun with is known then, so that the
gates of all steps are one operation, with a rule. Nobody reads what that gives: the pull-back
through all steps gives it its gradient.
"""

from collections.abc import Callable, Sequence
from typing import Any, cast

import fastgradnorm_kernels as kernels
import torch
from fastgradnorm_kernels import functorch
from fastgradnorm_kernels.levels import Aligned, aligned, bare, outside, wrapped
from fastgradnorm_kernels.switches import has_unwatched, unwatched
from torch import Tensor
from torch.nn import functional as F

from fastgradnorm._operations.recurrence_operators import pulled, scanned
from fastgradnorm._operations.recurrences import SCANS, Weights
from fastgradnorm._operations.recurrent_gates import recurrent_gates, recurrent_projection
from fastgradnorm._operations.single_level import (
    SingleLevel,
    dtypes_as_given,
    is_differentiated,
    unwrap,
    wrap,
)


def recurrence(
    kind: str, x: Tensor, states: tuple[Tensor, ...], weights: Weights, backwards: bool
) -> tuple[Tensor, tuple[Tensor, ...]] | None:
    """One layer in one direction: outputs `[T, B, P]` and the last states.

    None where the steps have to be written out, as inside of transforms of the model's own.

    Args:
        kind: Of `SCANS`.
        x: Inputs `[T, B, I]`.
        states: The first ones.
        weights: As the model has them.
        backwards: Whether the last step comes first.
    """
    if not (functorch.works() and has_unwatched()) or x.numel() == 0:
        return None
    with unwatched():
        steps = _steps(kind, x, states, weights, backwards)
    if steps is None:
        return None
    gates = recurrent_gates(x, steps.previous, *weights[:4], steps.gates)
    projected = None
    if weights.projection is not None:
        made = cast(Tensor, steps.projected), weights.projection, steps.like_outputs
        projected = recurrent_projection(*made)
    with unwatched():
        outputs, *cell = steps.tied(gates, projected, *states)
    return outputs, (outputs[0 if backwards else -1], *cell)


def _within(tensor: Tensor) -> Tensor:
    """What the `vjp` right here has wrapped, if it has wrapped the tensor."""
    tensor = functorch.alive(tensor)
    tracked = functorch.is_wrapped(tensor) and functorch.is_differentiable(tensor)
    return functorch.alive(unwrap(tensor)) if tracked else tensor


def _steps(
    kind: str, x: Tensor, states: tuple[Tensor, ...], weights: Weights, backwards: bool
) -> "_Steps | None":
    """None where a derivative is taken elsewhere than right here, or each sample has weights."""
    if functorch.is_transforming() and is_differentiated(x, *states, *weights) is None:
        return None
    with torch.no_grad():
        shared = [None if weight is None else bare(_within(weight)) for weight in weights]
        found = aligned(*map(_within, (x, *states)))
    if found is None or any(weight is not None and weight.places for weight in shared):
        return None
    own = [None if weight is None else weight.tensor for weight in shared]
    with torch.no_grad():
        return _Steps(kind, found, Weights(*cast(Any, own)), backwards)


class _Steps:
    """All steps of a layer in one direction, for all samples.

    Args:
        kind: Of `SCANS`.
        found: Inputs `[T, B, I]`, and the first states.
        weights: Plain tensors.
        backwards: Whether the last step comes first.

    Attributes:
        outputs: Hidden states `[T, B, P]`, under vmap as all of these.
        cell: The last cell state `[B, H]` of LSTMs.
        previous: What steps have begun with `[T, B, P]`, in the dtype of products.
        projected: What was projected `[T, B, H]`, in that dtype, if anything was.
        gates: A tensor of the shape of the gates that `pull` gives gradients of.
        like_outputs: One of the shape of the outputs, in the dtype of products.
    """

    def __init__(self, kind: str, found: Aligned, weights: Weights, backwards: bool) -> None:
        tensors, self._levels, self._sizes = found
        x, *states = cast("list[Tensor]", tensors)
        self._batch = x.shape[-2]
        begin = tuple(state.detach().reshape(-1, state.shape[-1]) for state in states)
        with outside():
            rows = x.detach().reshape(-1, *x.shape[-3:]).transpose(0, 1).flatten(1, 2)
            own = [None if weight is None else weight.detach() for weight in weights]
            product = F.linear if torch.is_autocast_enabled(x.device.type) else kernels.linear
            bias = SCANS[kind].shared_bias(Weights(*cast(Any, own)))
            gates = product(rows, cast(Tensor, own[0]), bias)
        with outside(), dtypes_as_given(x):
            own = [None if weight is None else weight.to(gates.dtype) for weight in own]
            self._scan = made = scanned(kind, gates, begin, Weights(*cast(Any, own)), backwards)
            outputs = self._by_sample(made.outputs)
            first = begin[0].view(len(outputs), self._batch, -1)
            self.outputs = self._wrapped(outputs)
            self.previous = self._wrapped(made.previous(first, outputs, 1).to(gates.dtype))
            self.projected = None
            if made.projected is not None:
                self.projected = self._wrapped(self._by_sample(made.projected.to(gates.dtype)))
            self.cell = None
            if made.cell is not None:
                cell = made.cell.reshape(*self._sizes, self._batch, -1)
                self.cell = wrapped(cell, self._levels)
            width = gates.shape[-1] // made.gates * (made.gates + made.own)
            shape = *self._sizes, len(gates), self._batch
            nothing = gates.new_zeros(())
            self.gates = wrapped(nothing.expand(*shape, width), self._levels)
            like = nothing.expand(*shape, made.outputs.shape[-1])
            self.like_outputs = wrapped(like, self._levels)

    def _by_sample(self, steps: Tensor) -> Tensor:
        """`[samples, T, B, ...]` of `[T, samples * B, ...]`."""
        rows: Tensor = steps.unflatten(1, (-1, self._batch)).transpose(0, 1).contiguous()
        return rows

    def _wrapped(self, rows: Tensor) -> Tensor:
        """`[samples, T, B, ...]` under vmap."""
        return wrapped(rows.reshape(*self._sizes, *rows.shape[1:]), self._levels)

    def made(self) -> tuple[Tensor, ...]:
        """Outputs, and the last cell state if there is one."""
        return (self.outputs,) if self.cell is None else (self.outputs, self.cell)

    def tied(self, *inputs: Tensor | None) -> tuple[Tensor, ...]:
        """What was made, with a derivative by the shares it was made of, and by the states."""
        if not functorch.is_transforming():
            plain: Any = _Plain
            return cast("tuple[Tensor, ...]", plain.apply(self, *inputs))
        if not is_differentiated(*inputs):
            return self.made()
        return cast("tuple[Tensor, ...]", _Light.within(self, *inputs))

    def kept(self) -> tuple[Tensor, ...]:
        """What is kept for pull-backs alone, plain tensors."""
        return self._scan.kept

    def pulled(self, g: Tensor | None, g_cell: Tensor | None) -> list[Tensor | None]:
        """Gradients by the inputs of `tied`, from those of what was made."""
        with outside():
            samples = torch.zeros(*self._sizes, 1, device=self._scan.outputs.device)
        found = aligned(g, g_cell, wrapped(samples, self._levels))
        assert found is not None
        (g, g_cell, _), levels, sizes = found
        with outside(), dtypes_as_given(self._scan.outputs):
            if g is None:  # nobody uses the outputs
                steps = self._scan.outputs.unflatten(1, (-1, self._batch)).transpose(0, 1)
                g = steps.new_zeros(()).expand(*sizes, *steps.shape[1:])

            def fold(tensor: Tensor) -> Tensor:
                """`[samples, cotangents, ...]`, as the levels are in this order."""
                return tensor.reshape(samples.numel(), -1, *tensor.shape[len(sizes) :])

            parts = pulled(self._scan, fold(g), None if g_cell is None else fold(g_cell))
            return [
                None if p is None else wrapped(p.reshape(*sizes, *p.shape[2:]), levels)
                for p in parts
            ]


def _pulled(ctx: Any, gradients: Sequence[Tensor | None]) -> tuple[Tensor | None, ...]:
    g, g_cell = gradients if len(gradients) == 2 else (*gradients, None)
    parts = ctx.steps.pulled(g, g_cell)
    dtypes = [None if d is None else d for d in ctx.dtypes]
    return None, *(
        None if part is None or dtype is None else part.to(dtype)
        for part, dtype in zip(parts, dtypes, strict=True)
    )


def _dtypes(inputs: Sequence[Tensor | None]) -> list[torch.dtype | None]:
    return [None if tensor is None else tensor.dtype for tensor in inputs]


class _Light(SingleLevel):
    """What all steps have made, within the `vjp` right here."""

    @staticmethod
    def forward(ctx: Any, steps: _Steps, *inputs: Tensor | None) -> tuple[Tensor, ...]:
        ctx.steps, ctx.dtypes = steps, _dtypes(inputs)
        ctx.set_materialize_grads(False)
        return tuple(map(wrap, steps.made()))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError("a gradient of a recurrent layer is differentiated once more")
        return _pulled(ctx, gradients)


class _Plain(torch.autograd.Function):
    """The same outside of transforms."""

    @staticmethod
    def forward(ctx: Any, steps: _Steps, *inputs: Tensor | None) -> tuple[Tensor, ...]:
        ctx.save_for_backward(*steps.kept())  # which are counted so
        ctx.steps, ctx.dtypes = steps, _dtypes(inputs)
        ctx.set_materialize_grads(False)
        return steps.made()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        return _pulled(ctx, gradients)


def without_derivative(function: Callable[..., Any], *args: Any) -> tuple[Tensor, ...] | None:
    """`function`, one of PyTorch's recurrent layers, called once for all samples.

    None where a derivative may be taken, where each sample has weights of its own, and in plain
    passes.
    """
    if torch.is_grad_enabled() or not (functorch.works() and has_unwatched()):
        return None  # uses of parameters are to be seen
    with unwatched():
        return _at_once(function, *args)


def _at_once(function: Callable[..., Any], *args: Any) -> tuple[Tensor, ...] | None:
    x, start, flat, *options, batch_first = args
    several = isinstance(start, (tuple, list))
    states: tuple[Tensor, ...] = tuple(start) if several else (start,)
    if x.is_cuda or is_differentiated(x, *states, *flat) is not False:
        return None
    weights, found = [bare(weight) for weight in flat], aligned(x, *states)
    if found is None or any(weight is None or weight.places for weight in weights):
        return None
    tensors, levels, sizes = found
    count = len(levels)
    front = tuple(range(count))

    def fold(tensor: Tensor, dim: int) -> Tensor:
        """Levels beside the batch, which is the dimension `dim`."""
        beside = tuple(range(dim, dim + count))
        return tensor.movedim(front, beside).flatten(dim, dim + count)

    def unfold(tensor: Tensor, dim: int) -> Tensor:
        beside = tuple(range(dim, dim + count))
        return wrapped(tensor.unflatten(dim, (*sizes, -1)).movedim(beside, front), levels)

    batch = 0 if batch_first else 1
    with outside():
        rows, *begin = cast("list[Tensor]", tensors)
        folded = tuple(fold(state, 1) for state in begin)
        own = [weight.tensor for weight in weights if weight is not None]
        given = fold(rows, batch), folded if several else folded[0], own
        output, *last = function(*given, *options, batch_first)
        return unfold(output, batch), *(unfold(state, 1) for state in last)
