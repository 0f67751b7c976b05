"""What a custom operator tells PyTorch's transforms: its vmap rule, and its outputs' shapes."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastgradnorm_kernels.reference import accumulation_dtype


def foldable(op: Any) -> None:
    """Registers `op(a, g, *options)`, whose outputs, one or two, are all `[N, K]`.

    A batch dimension of `a` is folded into N, one of `g` alone into K.
    """

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
            return outputs.view(shape), dim
        return tuple(o.view(shape) for o in outputs), (dim,) * len(outputs)

    def fake(a: Tensor, g: Tensor, *options: Any, **named: Any) -> Any:
        outputs = tuple(
            g.new_empty(g.shape[:2], dtype=accumulation_dtype(g.dtype)) for _ in range(count)
        )
        return outputs if count > 1 else outputs[0]

    count = len(op._opoverload._schema.returns)
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
