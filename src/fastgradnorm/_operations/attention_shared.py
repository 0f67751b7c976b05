"""Attention's pull-backs on processors, of many cotangents of the same queries, keys and values.

PyTorch's kernel forms the weights of all pairs anew for each cotangent, and takes four times as
long in bfloat16 as in float32. Here each head of a sample is taken by itself, which stays in the
cache: its weights are formed once, in float32, and the cotangents are more rows of each product.
"""

import fastgradnorm_kernels as kernels
import torch
from torch import Tensor

from fastgradnorm._operations.attention_kernels import Given, Gradients, Made, scores

# Cotangents, and pairs of positions of all of them, from which on this is faster.
_MANY, _LARGE = 2, 1 << 16
# Pairs of positions that are in memory at a time, and of one cotangent at most.
_AT_ONCE, _MOST = 1 << 21, 1 << 22


def suits(cotangents: int, q: Tensor, k: Tensor) -> bool:
    """Whether it is faster for q `[R, H, T, D]` and k `[R, H, S, D]`."""
    pairs = q.shape[-2] * k.shape[-2]
    plain = q.device.type == "cpu" and q.dtype in (torch.float32, torch.bfloat16)
    return plain and cotangents >= _MANY and cotangents * pairs >= _LARGE and pairs <= _MOST


def pulled(g: Tensor, given: Given, made: Made) -> Gradients:
    """Of g `[R, K, H, T, E]`, each `[R, K, H, positions, D]`."""
    q, k, v, mask, is_causal, scale = given
    grads = _pulled(g, q, k, v, mask, made.output, made.rows, is_causal, scale)
    grad_q, grad_k, grad_v = (grad.transpose(2, 3) for grad in grads)
    return grad_q, grad_k, grad_v


@torch.library.custom_op("fastgradnorm::attention_pull", mutates_args=())
def _pulled(
    g: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    output: Tensor,
    rows: Tensor,
    is_causal: bool,
    scale: float,
) -> list[Tensor]:
    """One operator, as a trace would hold those of each head. Positions lie before heads."""
    cotangents, heads = g.shape[1:3]
    found = [
        t.new_empty(len(t), cotangents, t.shape[2], heads, t.shape[3], dtype=g.dtype)
        for t in (q, k, v)
    ]
    for n in range(len(g)):
        for h in range(heads):
            given = [t[n : n + 1, h : h + 1] for t in (q, k, v)]
            own = None if mask is None else mask[n : n + 1, min(h, mask.shape[1] - 1), None]
            one = Given(given[0], given[1], given[2], own, is_causal, scale)
            weights = _weights(one, rows[n, h])
            step = max(1, _AT_ONCE // weights.numel())
            for start in range(0, cotangents, step):
                some = slice(start, start + step)
                made = _of_a_head(g[n, some, h], one, weights, output[n, h])
                for grad, each in zip(found, made, strict=True):
                    grad[n, some, :, h] = each
    return found


@_pulled.register_fake
def _(g: Tensor, q: Tensor, k: Tensor, v: Tensor, *_: object) -> list[Tensor]:
    return [
        t.new_empty(len(t), g.shape[1], t.shape[2], g.shape[2], t.shape[3], dtype=g.dtype)
        for t in (q, k, v)
    ]


def _weights(given: Given, rows: Tensor) -> Tensor:
    """`[T, S]` of one head. Rows add up to one; those that see nothing are zero."""
    return scores(given)[0, 0].sub_(rows[:, None]).exp_()


def _of_a_head(g: Tensor, given: Given, weights: Tensor, output: Tensor) -> Gradients:
    """Of g `[K, T, E]`, a head's queries, keys and values, each `[1, 1, positions, D]`."""
    g = g.contiguous()
    # Some products of strided factors take a hundred times as long.
    q, k, v = (t[0, 0].contiguous() for t in given[:3])
    cotangents, t, e = g.shape
    slopes = kernels.linear(g.view(-1, e), v).float().view(cotangents, t, -1)
    # Through the softmax, whose rows add up to one: p (dp - Σ p dp), the sum being g · output.
    slopes.sub_((g.float() * output.float()).sum(-1, keepdim=True))
    slopes = slopes.mul_(weights * given.scale).to(g.dtype)
    grad_q = kernels.linear(slopes.view(cotangents * t, -1), k.mT.contiguous())
    turned = q.mT.contiguous()
    grad_k = torch.stack([kernels.linear(each.mT, turned) for each in slopes])
    columns = g.transpose(1, 2).reshape(cotangents * e, t)
    grad_v = kernels.linear(weights.to(g.dtype).mT.contiguous(), columns).view(-1, cotangents, e)
    return grad_q.view(cotangents, t, -1), grad_k, grad_v.transpose(0, 1)
