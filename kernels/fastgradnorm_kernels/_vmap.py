"""Custom operators with their vmap rules and the shapes of their outputs."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from fastgradnorm_kernels import functorch
from fastgradnorm_kernels._errors import telling
from fastgradnorm_kernels.levels import bare, outside, wrapped
from fastgradnorm_kernels.reference import accumulation_dtype

F = TypeVar("F", bound=Callable[..., Any])


def foldable(name: str, columns: int | None = None) -> Callable[[F], F]:
    """Makes an operator of a function `(a, g, *options)` with one or two outputs, all `[N, K]`.

    Or, where `columns` are given, with one `[N, K, columns]`.

    A batch dimension of `a` is folded into N, one of `g` alone into K. Where the wrappers are those
    of samples and cotangents this is done at once, without the operator.
    """

    def decorate(function: F) -> F:
        function = telling(name.rpartition(":")[2])(function)
        op: Any = torch.library.custom_op(name, function, mutates_args=())
        _register(op, function, columns)

        @functools.wraps(function)
        def call(a: Tensor, g: Tensor, *options: Any, **named: Any) -> Any:
            looks = not torch.compiler.is_compiling() and functorch.works()
            if looks and functorch.is_wrapped(g):
                folded = _folded(a, g)
                if folded is not None:
                    a, g, split = folded
                    with outside():
                        outputs = function(a, g, *options, **named)
                    return _each(outputs, split)
            return op(a, g, *options, **named)

        return call  # type: ignore[return-value]

    return decorate


def _folded(a: Tensor, g: Tensor) -> tuple[Tensor, Tensor, Callable[[Tensor], Tensor]] | None:
    """Samples S and N in one, cotangents L and K too, and what gives outputs their wrappers back.

    Activations of each cotangent, as where factors are exchanged, are those of so many samples.
    None for other wrappers.
    """
    inner, outer = bare(a), bare(g)
    if inner is None or outer is None or not inner.places:
        return None
    levels = tuple(outer.places)
    if len(levels) > 2 or tuple(inner.places) != levels[: len(inner.places)]:
        return None
    x, y = inner.fronted(), outer.fronted()
    if len(inner.places) == len(levels):  # [S, N, K, ...] or [S, L, N, K, ...]
        count = len(levels)
        sizes = y.shape[: count + 2]
        return (
            x.flatten(0, count),
            y.flatten(0, count),
            lambda o: wrapped(o.view(*sizes, *o.shape[2:]), levels),
        )
    y = y.movedim(1, 2)  # [S, N, L, K, ...]
    sizes = y.shape[:4]
    return (
        x.flatten(0, 1),
        y.flatten(2, 3).flatten(0, 1),
        lambda o: wrapped(o.view(*sizes, *o.shape[2:]).movedim(2, 1), levels),
    )


def _each(outputs: Any, function: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(outputs, Tensor):
        return function(outputs)
    return tuple(function(o) for o in outputs)


def _register(op: Any, function: Callable[..., Any], columns: int | None) -> None:
    def rule(info: Any, in_dims: Sequence[int | None], a: Tensor, g: Tensor, *options: Any) -> Any:
        a_dim, g_dim = in_dims[:2]
        size = info.batch_size
        if a_dim is None:
            assert g_dim is not None
            g = g.movedim(g_dim, 1)  # [N, B, K, ...]
            n, k = g.shape[0], g.shape[2]
            outputs = op(a, g.flatten(1, 2), *options)
            shape, dim = (n, size, k), 1
        else:
            a = a.movedim(a_dim, 0)
            g = g.expand(size, *g.shape) if g_dim is None else g.movedim(g_dim, 0)
            n, k = g.shape[1:3]
            outputs = op(a.flatten(0, 1), g.flatten(0, 1), *options)
            shape, dim = (size, n, k), 0
        if isinstance(outputs, Tensor):
            return outputs.view(*shape, *outputs.shape[2:]), dim
        return tuple(o.view(shape) for o in outputs), (dim,) * len(outputs)

    def fake(a: Tensor, g: Tensor, *options: Any, **named: Any) -> Any:
        outputs = tuple(
            g.new_empty(*g.shape[:2], *own, dtype=accumulation_dtype(g.dtype)) for _ in range(count)
        )
        return outputs if count > 1 else outputs[0]

    own = () if columns is None else (columns,)
    returned = torch.library.infer_schema(function, mutates_args=()).rpartition("->")[2]
    count = returned.count("Tensor")
    op.register_vmap(rule)
    op.register_fake(fake)


def rowwise(op: Any) -> None:
    """Registers `op(rows, *others)`, whose three outputs are all `[N]`, one entry a row.

    A batch dimension is folded into N, together with that of other arguments of N entries; where
    any other argument has a batch dimension, each slice is computed by itself.
    """

    def rule(info: Any, in_dims: Sequence[int | None], *arguments: Any) -> Any:
        size = info.batch_size
        batched = [
            x
            if not isinstance(x, Tensor)
            else x.expand(size, *x.shape)
            if dim is None
            else x.movedim(dim, 0)
            for x, dim in zip(arguments, in_dims, strict=True)
        ]
        rows, second, *more = batched
        if not more:
            outputs = op(rows.flatten(0, 1), second.flatten(0, 1))
            return tuple(o.view(size, -1) for o in outputs), (0, 0, 0)
        if all(dim is None for dim in in_dims[1:]):
            outputs = op(rows.flatten(0, 1), *arguments[1:])
            return tuple(o.view(size, -1) for o in outputs), (0, 0, 0)
        slices = [op(*(x[i] if isinstance(x, Tensor) else x for x in batched)) for i in range(size)]
        return tuple(torch.stack(column) for column in zip(*slices, strict=True)), (0, 0, 0)

    def fake(rows: Tensor, *others: Any) -> tuple[Tensor, Tensor, Tensor]:
        first, second, third = (
            rows.new_empty(rows.shape[0], dtype=torch.float32) for _ in range(3)
        )
        return first, second, third

    op.register_vmap(rule)
    op.register_fake(fake)
