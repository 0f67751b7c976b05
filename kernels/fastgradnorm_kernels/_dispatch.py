"""The operations as PyTorch sees them: custom operators with vmap rules, each choosing how it is computed.

Inside `vmap` over samples of `vmap` over cotangents an operation is called with one sample and one
cotangent, `a [1, T, I]` and `g [1, 1, T, O]`. Its rule folds a batch dimension of the activations into
N, and one of the output gradients alone into K, so that the computation below sees whole tensors
`a [N, T, I]`, `g [N, K, T, O]` and shares what depends on `a` alone.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastgradnorm_kernels import reference
from fastgradnorm_kernels._forms import choose_form

# A ghost norm below this share of its uncancelled terms has lost too many float32 digits. [DESIGN: 1e-4]
_CANCELLED = 1e-4


def _foldable(op: Any) -> None:
    """Registers the vmap rule of `op(a, g, *options)`, whose outputs are all `[N, K]`."""

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

    op.register_vmap(rule)


def _norm_like(g: Tensor) -> Tensor:
    return g.new_empty(g.shape[:2], dtype=reference.accumulation_dtype(g.dtype))


def _weight_sq_norm(a: Tensor, g: Tensor) -> Tensor:
    n, k, t, o = g.shape
    form = choose_form(t, a.shape[-1], o, k)
    if form == "closed form":
        return reference.outer_sq_norm(a, g)
    if form == "direct":
        return reference.direct_sq_norm(a, g)
    sq_norm, uncancelled = reference.ghost_sq_norm(a, g)
    lost = sq_norm < _CANCELLED * uncancelled
    if sq_norm.dtype == torch.float32 and bool(lost.any()):
        rows, columns = lost.nonzero(as_tuple=True)
        sq_norm[rows, columns] = reference.direct_sq_norm(a[rows], g[rows, columns][:, None])[:, 0]
    return sq_norm


def resolve_backend(backend: str, device: torch.device) -> str:
    """`"torch"` or `"triton"`: what computes on `device` when `backend` is asked for."""
    if backend not in ("auto", "torch", "triton"):
        raise ValueError(f"`backend` must be 'auto', 'torch' or 'triton'. Got {backend!r}.")
    if backend == "triton":
        raise NotImplementedError(
            "`backend='triton'` is not available yet. Use backend='torch' or 'auto'."
        )
    return "torch"


@torch.library.custom_op("fastgradnorm::weight_sq_norm", mutates_args=())
def weight_sq_norm(activations: Tensor, grad_outputs: Tensor, backend: str = "auto") -> Tensor:
    r"""`‖Σ_t g_t a_tᵀ‖²` `[N, K]` of a linear weight, from `a [N, T, I]` and `g [N, K, T, O]`."""
    return _weight_sq_norm(activations, grad_outputs)


@torch.library.custom_op("fastgradnorm::conv_sq_norm", mutates_args=())
def conv_sq_norm(
    x: Tensor,
    grad_outputs: Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    backend: str = "auto",
) -> Tensor:
    r"""Squared norm `[N, K]` of a convolution's weight gradient, from `x [N, C, *]`, `g [N, K, O, *]`.

    The positions are the output's, the activations the patches each one sees; the groups have no
    cross terms, so that their norms add up.
    """
    n, k, o = grad_outputs.shape[:3]
    size, step, pad, spread = tuple(kernel_size), tuple(stride), tuple(padding), tuple(dilation)
    patches = reference.conv_patches(x, size, step, pad, spread)  # [N, C*I, T]
    t = math.prod(grad_outputs.shape[3:])
    a = patches.view(n * groups, -1, t).mT
    g = grad_outputs.reshape(n, k, groups, o // groups, t)
    if groups == 1:
        return _weight_sq_norm(a, g[:, :, 0].mT)
    g = g.transpose(1, 2).reshape(n * groups, k, o // groups, t).mT
    return _weight_sq_norm(a, g).view(n, groups, k).sum(1)


@torch.library.custom_op("fastgradnorm::affine_sq_norm", mutates_args=())
def affine_sq_norm(
    normalized: Tensor, grad_outputs: Tensor, backend: str = "auto"
) -> tuple[Tensor, Tensor]:
    r"""Squared norms `[N, K]` of scale and shift, from `x̂ [N, T, D]` and `g [N, K, T, D]`."""
    weight, bias = reference.affine_sq_norm(normalized, grad_outputs)
    return weight, bias


@torch.library.custom_op("fastgradnorm::embedding_sq_norm", mutates_args=())
def embedding_sq_norm(
    ids: Tensor, grad_outputs: Tensor, padding_idx: int | None = None, backend: str = "auto"
) -> Tensor:
    r"""`Σ_v ‖Σ_{t: id_t = v} g_t‖²` `[N, K]`, from `ids [N, T]` and `g [N, K, T, O]`."""
    return reference.embedding_sq_norm(ids, grad_outputs, padding_idx)


def bias_sq_norm(grad_outputs: Tensor) -> Tensor:
    r"""`‖Σ_t g_t‖²` `[...]` of a bias added at every position, from `g [..., T, O]`.

    Plain tensor operations with any leading dimensions: vmap needs no rule.
    """
    total = grad_outputs.to(reference.accumulation_dtype(grad_outputs.dtype)).sum(-2)
    return torch.linalg.vector_norm(total, dim=-1).square()


def head_scores(logits: Tensor, q: Tensor, *, backend: str = "auto") -> reference.HeadScores:
    r"""The three scores of a linear last layer, from logits `[N, C]` and `q = ‖h‖² + 1` `[N]`."""
    return reference.head_scores(logits, q)


for _op in (weight_sq_norm, conv_sq_norm, affine_sq_norm, embedding_sq_norm):
    _foldable(_op)


@weight_sq_norm.register_fake
def _(activations: Tensor, grad_outputs: Tensor, backend: str = "auto") -> Tensor:
    return _norm_like(grad_outputs)


@conv_sq_norm.register_fake
def _(x: Tensor, grad_outputs: Tensor, *options: Any, **named: Any) -> Tensor:
    return _norm_like(grad_outputs)


@affine_sq_norm.register_fake
def _(normalized: Tensor, grad_outputs: Tensor, backend: str = "auto") -> tuple[Tensor, Tensor]:
    return _norm_like(grad_outputs), _norm_like(grad_outputs)


@embedding_sq_norm.register_fake
def _(
    ids: Tensor, grad_outputs: Tensor, padding_idx: int | None = None, backend: str = "auto"
) -> Tensor:
    return _norm_like(grad_outputs)
