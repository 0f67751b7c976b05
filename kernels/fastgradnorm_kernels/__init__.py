"""Squared norms of per-sample gradients and scores of linear heads, as fused operations."""

from fastgradnorm_kernels._backends import computed_by, resolve_backend
from fastgradnorm_kernels._dispatch import (
    affine_sq_norm,
    batch_norm_sq_norm,
    conv_sq_norm,
    direct_sq_norm,
    embedding_sq_norm,
    ghost_sq_norm,
    head_scores,
    linear_head_scores,
    recurrent_sq_norms,
    scaled_channels,
    weight_sq_norm,
)
from fastgradnorm_kernels._errors import KernelError
from fastgradnorm_kernels._forms import choose_form, form_flops
from fastgradnorm_kernels._hashing import hash_codes, hash_table, hashed_sums
from fastgradnorm_kernels._matmul import add_linear, adding, linear, linear_pulled
from fastgradnorm_kernels.bias_norm import bias_sq_norm
from fastgradnorm_kernels.patches import conv_patches
from fastgradnorm_kernels.reference import HeadScores, accumulation_dtype

__all__ = [
    "HeadScores",
    "KernelError",
    "accumulation_dtype",
    "add_linear",
    "adding",
    "affine_sq_norm",
    "batch_norm_sq_norm",
    "bias_sq_norm",
    "choose_form",
    "computed_by",
    "conv_patches",
    "conv_sq_norm",
    "direct_sq_norm",
    "embedding_sq_norm",
    "form_flops",
    "ghost_sq_norm",
    "hash_codes",
    "hash_table",
    "hashed_sums",
    "head_scores",
    "linear",
    "linear_head_scores",
    "linear_pulled",
    "recurrent_sq_norms",
    "resolve_backend",
    "scaled_channels",
    "weight_sq_norm",
]
