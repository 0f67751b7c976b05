"""The operations as PyTorch sees them: custom operators, each choosing how it is computed.

Inside `vmap` over samples of `vmap` over cotangents an operation is called with one sample and one
cotangent, `a [1, T, I]` and `g [1, 1, T, O]`. Its rule folds a batch dimension of the activations
into N, and one of the output gradients alone into K, so that the computation below sees whole
tensors `a [N, T, I]`, `g [N, K, T, O]` and shares what depends on `a` alone.

Kernels are imported where they are called: `backend="torch"` never imports Triton.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastgradnorm_kernels import (
    _batch_norms,
    _device_norms,
    _torch_norms,
    recurrent_norm,
    reference,
)
from fastgradnorm_kernels._backends import norm_precision, uses_triton
from fastgradnorm_kernels._errors import telling
from fastgradnorm_kernels._forms import choose_tiled_form
from fastgradnorm_kernels._launch import on
from fastgradnorm_kernels._torch_norms import CANCELLED
from fastgradnorm_kernels._vmap import foldable, rowwise
from fastgradnorm_kernels.geometry import Geometry
from fastgradnorm_kernels.recurrent_norm import Columns


def _alike(a: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
    """Both in one dtype: the wider; on a GPU the narrower, as autograd has it under autocast."""
    if a.dtype == g.dtype:
        return a, g
    wide = torch.promote_types(a.dtype, g.dtype)
    dtype = a.dtype if (wide == a.dtype) != g.is_cuda else g.dtype
    return a.to(dtype), g.to(dtype)


def _torch_form(tensor: Tensor) -> Any:
    """Where the forms are that suit the tensor's device."""
    return _torch_norms if tensor.device.type == "cpu" else _device_norms


def _off_matrix_units(dtype: torch.dtype, precision: str) -> bool:
    return dtype == torch.float32 and precision == "ieee"


def _triton_weight_sq_norm(a: Tensor, g: Tensor) -> Tensor:
    from fastgradnorm_kernels import checked_norm, direct_norm

    _, k, t, o = g.shape
    precision = norm_precision(g.dtype, g.device)
    form = choose_tiled_form(t, a.shape[-1], o, k, _off_matrix_units(g.dtype, precision))
    if form == "closed form":
        return reference.outer_sq_norm(a, g)
    if form == "direct":
        return direct_norm.direct_sq_norm(a, g, input_precision=precision)
    return checked_norm.checked_sq_norm(a, g, CANCELLED, input_precision=precision)


@foldable("fastgradnorm::weight_sq_norm")
def weight_sq_norm(activations: Tensor, grad_outputs: Tensor, backend: str = "auto") -> Tensor:
    r"""`‖Σ_t g_t a_tᵀ‖²` `[N, K]` of a linear weight, from `a [N, T, I]` and `g [N, K, T, O]`."""
    a, g = _alike(activations, grad_outputs)
    if not uses_triton(backend, g):
        sq_norm: Tensor = _torch_form(g).weight_sq_norm(a, g)
        return sq_norm
    with on(g):
        return _triton_weight_sq_norm(a, g)


@foldable("fastgradnorm::recurrent_sq_norms", columns=4)
def recurrent_sq_norms(
    activations: Tensor,
    grad_outputs: Tensor,
    inputs: int,
    both: int,
    backend: str = "auto",
) -> Tensor:
    r"""Squared norms `[N, K, 4]` of both weights of a recurrent layer's gates, and both biases.

    Of `a [N, T, I]`, the first `inputs` are the input's, the others the hidden state's. Of `g [N,
    K, T, O]` the first `both` are at the products of both, the others half at the one's, half at
    the other's.
    """
    a, g = _alike(activations, grad_outputs)
    columns = Columns(inputs, both, (g.shape[-1] - both) // 2)
    if not uses_triton(backend, g):
        return recurrent_norm.recurrent_sq_norms(a, g, columns, _torch_form(g).weight_sq_norm)
    with on(g):
        return recurrent_norm.recurrent_sq_norms(a, g, columns, _triton_weight_sq_norm)


@foldable("fastgradnorm::ghost_sq_norm")
def ghost_sq_norm(
    activations: Tensor, grad_outputs: Tensor, backend: str = "auto"
) -> tuple[Tensor, Tensor]:
    r"""`Σ_{s,t} (a_s·a_t)(g_s·g_t)` and `Σ_t ‖a_t‖²‖g_t‖²`, both `[N, K]`; see `weight_sq_norm`.

    Where the first is far below the second its terms cancelled and digits are lost.
    """
    a, g = _alike(activations, grad_outputs)
    if not uses_triton(backend, g):
        sq_norm, uncancelled = reference.ghost_sq_norm(a, g)
        return sq_norm, uncancelled
    from fastgradnorm_kernels import ghost_norm

    with on(g):
        sq_norm, uncancelled = ghost_norm.ghost_sq_norm(
            a, g, input_precision=norm_precision(g.dtype, g.device)
        )
        return sq_norm, uncancelled


@foldable("fastgradnorm::direct_sq_norm")
def direct_sq_norm(activations: Tensor, grad_outputs: Tensor, backend: str = "auto") -> Tensor:
    r"""`‖Σ_t g_t a_tᵀ‖²` `[N, K]`, by forming the gradient; see `weight_sq_norm`."""
    a, g = _alike(activations, grad_outputs)
    if not uses_triton(backend, g):
        return reference.direct_sq_norm(a, g)
    from fastgradnorm_kernels import direct_norm

    with on(g):
        return direct_norm.direct_sq_norm(a, g, input_precision=norm_precision(g.dtype, g.device))


def _triton_conv_sq_norm(x: Tensor, g: Tensor, geometry: Geometry, groups: int) -> Tensor:
    from fastgradnorm_kernels import conv_norm

    inputs = x.shape[1] // groups * math.prod(geometry.kernel_size)
    precision = norm_precision(g.dtype, g.device)
    sizes = math.prod(g.shape[3:]), inputs, g.shape[2] // groups, g.shape[1]
    form = choose_tiled_form(*sizes, _off_matrix_units(g.dtype, precision))
    if form == "direct":
        return conv_norm.conv_direct_sq_norm(x, g, geometry, groups, input_precision=precision)
    return conv_norm.conv_checked_ghost_sq_norm(
        x, g, geometry, groups, CANCELLED, input_precision=precision
    )


@foldable("fastgradnorm::conv_sq_norm")
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
    r"""Squared norm `[N, K]` of a convolution's weight, from `x [N, C, *]` and `g [N, K, O, *]`.

    The positions are the output's, the activations the patches each one sees; the groups have no
    cross terms, so that their norms add up.
    """
    x, grad_outputs = _alike(x, grad_outputs)
    geometry = Geometry(*map(tuple, (kernel_size, stride, padding, dilation)))
    if uses_triton(backend, grad_outputs):
        with on(x):
            return _triton_conv_sq_norm(x, grad_outputs, geometry, groups)
    sq_norm: Tensor = _torch_form(x).conv_sq_norm(x, grad_outputs, geometry, groups)
    return sq_norm


@foldable("fastgradnorm::affine_sq_norm", columns=2)
def _affine_sq_norms(normalized: Tensor, grad_outputs: Tensor, backend: str = "auto") -> Tensor:
    if not uses_triton(backend, grad_outputs):
        return torch.stack(reference.affine_sq_norm(normalized, grad_outputs), -1)
    from fastgradnorm_kernels import affine_norm

    with on(grad_outputs):
        return affine_norm.affine_sq_norms(normalized, grad_outputs)


def affine_sq_norm(
    normalized: Tensor, grad_outputs: Tensor, backend: str = "auto"
) -> tuple[Tensor, Tensor]:
    r"""Squared norms `[N, K]` of scale and shift, from `x̂ [N, T, D]` and `g [N, K, T, D]`."""
    weight, bias = _affine_sq_norms(normalized, grad_outputs, backend).unbind(-1)
    return weight, bias


@foldable("fastgradnorm::batch_norm_sq_norms", columns=2)
def _batch_norm_sq_norms(
    x: Tensor, grad_outputs: Tensor, mean: Tensor, var: Tensor, eps: float, backend: str = "auto"
) -> Tensor:
    if not uses_triton(backend, grad_outputs):
        return _batch_norms.batch_norm_sq_norms(x, grad_outputs, mean, var, eps)
    from fastgradnorm_kernels import affine_norm

    rows = _batch_norms.normalized_rows(x, grad_outputs, mean, var, eps)
    with on(grad_outputs):
        return affine_norm.affine_sq_norms(*rows)


def batch_norm_sq_norm(
    x: Tensor, grad_outputs: Tensor, mean: Tensor, var: Tensor, eps: float, backend: str = "auto"
) -> tuple[Tensor, Tensor]:
    r"""`affine_sq_norm` of a batch norm by running statistics, x `[N, C, *]`, g `[N, K, C, *]`."""
    found = _batch_norm_sq_norms(x, grad_outputs, mean, var, eps, backend)
    weight, bias = found.unbind(-1)
    return weight, bias


@foldable("fastgradnorm::embedding_sq_norm")
def embedding_sq_norm(
    ids: Tensor, grad_outputs: Tensor, padding_idx: int | None = None, backend: str = "auto"
) -> Tensor:
    r"""`Σ_v ‖Σ_{t: id_t = v} g_t‖²` `[N, K]`, from `ids [N, T]` and `g [N, K, T, O]`."""
    if not uses_triton(backend, grad_outputs):
        return reference.embedding_sq_norm(ids, grad_outputs, padding_idx)
    from fastgradnorm_kernels import embedding_norm

    with on(grad_outputs):
        return embedding_norm.embedding_sq_norm(ids, grad_outputs, padding_idx)


@telling("scaled_channels")
def scaled_channels(
    g: Tensor, var: Tensor, weight: Tensor | None, eps: float, backend: str = "auto"
) -> Tensor:
    r"""`g[n, c, *] weight[c] / √(var[c] + ε)` in g's dtype, from `g [N, C, *]` and `var [C]`."""
    given = (g, var) if weight is None else (g, var, weight)
    if not all(uses_triton(backend, tensor) for tensor in given):
        return reference.scaled_channels(g, var, weight, eps)
    from fastgradnorm_kernels import scaled

    with on(g):
        return scaled.scaled_channels(g, var, weight, eps)


@torch.library.custom_op("fastgradnorm::head_scores", mutates_args=())
@telling("head_scores")
def _triton_head_scores(logits: Tensor, q: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    from fastgradnorm_kernels import logit_head

    with on(logits):
        expected, expected_squared, entropy = logit_head.head_scores(logits, q)
        return expected, expected_squared, entropy


def head_scores(logits: Tensor, q: Tensor, *, backend: str = "auto") -> reference.HeadScores:
    r"""The three scores of a linear last layer, from logits `[N, C]` and `q = ‖h‖² + 1` `[N]`."""
    if uses_triton(backend, logits):
        return reference.HeadScores(*_triton_head_scores(logits, q.float()))
    return reference.head_scores(logits, q)


@torch.library.custom_op("fastgradnorm::linear_head_scores", mutates_args=())
@telling("linear_head_scores")
def _triton_linear_head_scores(
    features: Tensor, weight: Tensor, bias: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    from fastgradnorm_kernels import linear_head

    with on(features):
        scores = linear_head.linear_head_scores(features, weight, bias)
        return scores.expected, scores.expected_squared, scores.entropy


def linear_head_scores(
    features: Tensor, weight: Tensor, bias: Tensor | None = None, *, backend: str = "auto"
) -> reference.HeadScores:
    r"""`head_scores` of the logits `h Wᵀ + b`, from `h [N, D]`, `W [C, D]` and `b [C]` or none.

    `q` is `‖h‖² + 1`, or `‖h‖²` without a bias. With Triton the logits of some rows
    are in memory at a time.
    """
    if uses_triton(backend, features):
        return reference.HeadScores(*_triton_linear_head_scores(features, weight, bias))
    return reference.linear_head_scores(features, weight, bias)


for _op in (_triton_head_scores, _triton_linear_head_scores):
    rowwise(_op)
