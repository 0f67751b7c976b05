"""Scaled dot-product attention under vmap: samples and cotangents become the fused kernel's batch.

The fused kernels have no vmap rule, and without one PyTorch runs them once a sample and cotangent.
Attention has no parameters, so nothing but its speed and memory is at stake: both stay what the
kernel makes of them, memory linear in length. Which kernel that is: see `attention_choice`.
"""

import math
from collections.abc import Callable
from typing import Any, cast

import torch
from fastgradnorm_kernels import functorch
from fastgradnorm_kernels.levels import aligned, outside, wrapped
from fastgradnorm_kernels.switches import has_unwatched, unwatched
from torch import Tensor
from torch.nn import functional as F

from fastgradnorm._operations import attention_choice, attention_shared
from fastgradnorm._operations.attention_kernels import ON_CPU, Given, Gradients, Made
from fastgradnorm._operations.operation import Operation
from fastgradnorm._operations.single_level import (
    SingleLevel,
    dtypes_as_given,
    is_differentiated,
    unwrap,
    wrap,
)


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor | None:
    """As `F.scaled_dot_product_attention`, or None where that one has to be called itself."""
    if dropout_p > 0 or query.dim() < 3 or query.dim() > 4:
        return None
    if attn_mask is not None and (attn_mask.requires_grad or attn_mask.dim() > query.dim()):
        return _plain(query, key, value, attn_mask, is_causal, scale)
    if torch.is_autocast_enabled(query.device.type):
        dtype = torch.get_autocast_dtype(query.device.type)
        query, key, value = (t.to(dtype) for t in (query, key, value))
        if attn_mask is not None and attn_mask.is_floating_point():
            attn_mask = attn_mask.to(dtype)
    if enable_gqa:  # keys and values each have their own number of heads
        key, value = (_repeated(t, query.shape[-3]) for t in (key, value))
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        zeros = torch.zeros_like(attn_mask, dtype=query.dtype)
        attn_mask = zeros.masked_fill(~attn_mask, -torch.inf)
    batched = query.dim() == 4
    q, k, v = (t if batched else t[None] for t in (query, key, value))
    scale = math.pow(query.shape[-1], -0.5) if scale is None else scale
    if attn_mask is not None:
        attn_mask = attn_mask.reshape((1,) * (4 - attn_mask.dim()) + attn_mask.shape)
    laid = _broadcast(q, k, v, attn_mask)
    if laid is None:
        return None  # PyTorch says what does not fit: kernels would read past the end
    q, k, v, attn_mask = laid
    if not functorch.is_transforming():
        return None
    differentiated = is_differentiated(q, k, v, attn_mask) if has_unwatched() else None
    if differentiated is None:
        output = _plain(q, k, v, attn_mask, is_causal, scale)
    else:
        with unwatched():  # no mode need look on
            if differentiated:
                output = _Attention.within(q, k, v, attn_mask, is_causal, scale)
            else:
                output, *_ = _attended(q, k, v, attn_mask, is_causal, scale)
    return output if batched or output is None else output[0]


def _repeated(tensor: Tensor, heads: int) -> Tensor:
    if tensor.shape[-3] == heads:
        return tensor
    return tensor.repeat_interleave(heads // tensor.shape[-3], -3)


_Laid = tuple[Tensor, Tensor, Tensor, Tensor | None]


def _broadcast(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> _Laid | None:
    """All of one batch and number of heads, the mask `[B, 1 or H, T, S]`; None if they do not fit.

    Kernels take the shape of the queries for that of all.
    """
    if not q.dim() == k.dim() == v.dim() == 4 or q.shape[-1] != k.shape[-1]:
        return None
    (length, others), shapes = (q.shape[-2], k.shape[-2]), [t.shape[:-2] for t in (q, k, v)]
    if others != v.shape[-2]:
        return None
    if mask is not None:
        if mask.shape[-2] not in (1, length) or mask.shape[-1] not in (1, others):
            return None
        shapes.append(mask.shape[:-2])
    try:
        outer = torch.broadcast_shapes(*shapes)
    except RuntimeError:
        return None
    q, k, v = (t if t.shape[:-2] == outer else t.expand(*outer, -1, -1) for t in (q, k, v))
    return q, k, v, None if mask is None else mask.expand(outer[0], -1, -1, -1)


def _plain(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, is_causal: bool, scale: float | None
) -> Tensor | None:
    """By its formula: where a mask is differentiated (relative positions), or transforms nest.

    Positions that may look at nothing, such as padding before a text, get zeros, as PyTorch has it.
    """
    if q.shape[:-2] != k.shape[:-2] or (is_causal and mask is not None):
        return None
    if is_causal:
        ahead = torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool, device=q.device).triu(1)
        mask = torch.zeros_like(ahead, dtype=q.dtype).masked_fill(ahead, -torch.inf)
    scale = math.pow(q.shape[-1], -0.5) if scale is None else scale
    products = (q * scale) @ k.mT
    if mask is None:
        return products.softmax(-1) @ v
    products = products + mask
    blind = (products == -torch.inf).all(-1, keepdim=True)
    weights = products.masked_fill(blind, 0.0).softmax(-1)
    return weights.masked_fill(blind, 0.0) @ v


_Folded = tuple[list[Tensor | None], Callable[[Tensor], Tensor]]


def _folded(*tensors: Tensor | None) -> _Folded:
    """Samples, cotangents and the batch behind them as one batch, and how an output is unfolded."""
    found = aligned(*tensors)
    assert found is not None
    inside, levels, sizes = found
    count = len(levels)

    def unfold(output: Tensor) -> Tensor:
        return wrapped(output.unflatten(0, (*sizes, -1)) if count else output, levels)

    return [None if t is None else _flat(t, count) for t in inside], unfold


def _flat(tensor: Tensor, count: int) -> Tensor:
    """`[B, H, T, D]` of samples and cotangents; a copy has the positions before the heads."""
    if tensor.dim() != count + 4:
        return tensor.flatten(0, count)
    return tensor.transpose(-3, -2).flatten(0, count).transpose(1, 2)


def _attended(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, is_causal: bool, scale: float
) -> tuple[Tensor, Tensor, Any, Any]:
    """Output, log-sum-exp of the rows, and for the backward pass what was kept, and the way."""
    (q_, k_, v_, mask), unfold = _folded(q, k, v, mask)
    assert q_ is not None and k_ is not None and v_ is not None
    with outside(), dtypes_as_given(q_):
        way = attention_choice.choose(q_, k_, v_, mask, is_causal)
        output, rows, kept = way.forward(Given(q_, k_, v_, mask, is_causal, scale))
        return unfold(output), unfold(rows), kept, way


class _Attention(SingleLevel):
    """Attention of q `[B, H, T, D]`, with a mask `[B, 1 or H, T, S]` or None."""

    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        mask: Tensor | None,
        is_causal: bool,
        scale: float,
    ) -> Tensor:
        q, k, v = unwrap(q), unwrap(k), unwrap(v)
        mask = None if mask is None else unwrap(mask)
        output, rows, ctx.kept, ctx.way = _attended(q, k, v, mask, is_causal, scale)
        ctx.save_for_backward(q, k, v, mask, output, rows)
        ctx.is_causal, ctx.scale = is_causal, scale
        return wrap(output)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        shared = _shared(g, ctx) if ctx.way is ON_CPU else None
        if shared is not None:
            return (*shared, None, None, None)
        tensors, unfold = _folded(g, *ctx.saved_tensors)
        g_, q, k, v, mask, output, rows = cast("list[Any]", tensors)  # the mask alone may be None
        with outside(), dtypes_as_given(g_):
            given = Given(q, k, v, mask, ctx.is_causal, ctx.scale)
            grads = ctx.way.backward(g_, given, Made(output, rows, ctx.kept))
            return (*(unfold(grad) for grad in grads), None, None, None)


OPERATIONS: dict[Callable[..., Any], Operation] = {
    F.scaled_dot_product_attention: Operation(opened=attention)
}


def _shared(g: Tensor, ctx: Any) -> Gradients | None:
    """The gradients where many cotangents look at the same samples; None elsewhere."""
    found = aligned(g, *ctx.saved_tensors)
    assert found is not None
    count, (g_, *saved) = len(found.levels), found.tensors
    given = [t for t in saved if t is not None]
    several = [i for i in range(count) if all(t.stride(i) == 0 for t in given)]
    own = [i for i in range(count) if i not in several]

    def rows(tensor: Tensor | None) -> Tensor | None:
        """`[R, ...]`, without the levels of cotangents."""
        if tensor is None:
            return None
        index = tuple(0 if i in several else slice(None) for i in range(count))
        return tensor[index].flatten(0, len(own))

    assert g_ is not None
    with outside(), dtypes_as_given(g_):
        q, k, v, mask, output, sums = map(rows, saved)
        assert q is not None and k is not None and v is not None
        assert output is not None and sums is not None
        sizes = [found.sizes[i] for i in several]
        if not attention_shared.suits(math.prod(sizes), q, k):
            return None
        batch = len(own)  # where that of the model comes to lie
        order, leading = [*own, count, *several], list(range(count + 1))
        outer = [found.sizes[i] for i in own]
        g_ = g_.movedim(order, leading).flatten(0, batch).flatten(1, len(several))
        grads = attention_shared.pulled(
            g_, Given(q, k, v, mask, ctx.is_causal, ctx.scale), Made(output, sums)
        )

        def unfold(grad: Tensor) -> Tensor:
            grad = grad.unflatten(1, sizes).unflatten(0, (*outer, -1))
            return wrapped(grad.movedim(leading, order), found.levels)

        return unfold(grads[0]), unfold(grads[1]), unfold(grads[2])
