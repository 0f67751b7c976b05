"""Checks of shapes, dtypes and devices, and their messages."""

from collections.abc import Sequence

import torch
from torch import Tensor

from fastgradnorm_kernels.geometry import Geometry

_KERNEL_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
_PRECISIONS = ("ieee", "tf32", "tf32x3", "bf16x6")


def _shape(tensor: Tensor) -> list[int]:
    return [*tensor.shape]


def check_precision(input_precision: str) -> None:
    """How float32 products are taken by the matrix units."""
    if input_precision not in _PRECISIONS:
        raise ValueError(
            f"`input_precision` must be one of {', '.join(_PRECISIONS)}. Got {input_precision!r}."
        )


def check_kernel_dtypes(**tensors: Tensor | None) -> None:
    """Kernels read float32, float16 and bfloat16, from one device."""
    device = None
    for name, tensor in tensors.items():
        if tensor is None:
            continue
        if tensor.dtype not in _KERNEL_DTYPES:
            raise TypeError(
                f"`{name}` must be float32, float16 or bfloat16 for a Triton kernel. Got "
                f"{tensor.dtype}. Use backend='torch'."
            )
        if device is not None and tensor.device != device:
            raise ValueError(f"`{name}` must be on {device}, as the others. Got {tensor.device}.")
        device = tensor.device


def check_head(logits: Tensor, q: Tensor) -> None:
    """Logits [N, C], C > 0, and q [N]."""
    if logits.ndim != 2 or logits.shape[1] == 0:
        raise ValueError(f"`logits` must be [N, C] with C > 0. Got {_shape(logits)}.")
    if q.shape != logits.shape[:1]:
        raise ValueError(f"`q` must be [{logits.shape[0]}], one a row. Got {_shape(q)}.")
    check_kernel_dtypes(logits=logits, q=q)


def check_linear_head(features: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    """Features [N, D], weight [C, D], bias [C], of one dtype."""
    if features.ndim != 2:
        raise ValueError(f"`features` must be [N, D]. Got {_shape(features)}.")
    if weight.ndim != 2 or weight.shape[0] == 0 or weight.shape[1] != features.shape[1]:
        raise ValueError(
            f"`weight` must be [C, {features.shape[1]}] with C > 0. Got {_shape(weight)}."
        )
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"`bias` must be [{weight.shape[0]}]. Got {_shape(bias)}.")
    check_kernel_dtypes(features=features, weight=weight, bias=bias)
    if weight.dtype != features.dtype:
        raise TypeError(f"`weight` must be {features.dtype}, as `features`. Got {weight.dtype}.")


def check_pair(activations: Tensor, grad_outputs: Tensor) -> None:
    """Activations [N, T, I] and output gradients [N, K, T, O], of one dtype."""
    if activations.ndim != 3:
        raise ValueError(f"`activations` must be [N, T, I]. Got {_shape(activations)}.")
    n, t = activations.shape[:2]
    if grad_outputs.ndim != 4 or grad_outputs.shape[0] != n or grad_outputs.shape[2] != t:
        raise ValueError(f"`grad_outputs` must be [{n}, K, {t}, O]. Got {_shape(grad_outputs)}.")
    if max(activations[:1].numel(), grad_outputs[:1, :1].numel()) >= 2**31:
        raise ValueError(
            f"`activations` must have fewer than 2³¹ elements a sample for a Triton kernel, and so "
            f"must `grad_outputs`. Got {_shape(activations)}, {_shape(grad_outputs)}. Use "
            "backend='torch'."
        )
    check_kernel_dtypes(activations=activations, grad_outputs=grad_outputs)
    if grad_outputs.dtype != activations.dtype:
        raise TypeError(
            f"`grad_outputs` must be {activations.dtype}, as `activations`. Got "
            f"{grad_outputs.dtype}."
        )


def check_affine(normalized: Tensor, grad_outputs: Tensor) -> None:
    """Normalised inputs [N, T, D] and output gradients [N, K, T, D]."""
    if normalized.ndim != 3:
        raise ValueError(f"`normalized` must be [N, T, D]. Got {_shape(normalized)}.")
    n, t, d = normalized.shape
    if grad_outputs.ndim != 4 or (n, t, d) != (grad_outputs.shape[0], *grad_outputs.shape[2:]):
        raise ValueError(f"`grad_outputs` must be [{n}, K, {t}, {d}]. Got {_shape(grad_outputs)}.")
    check_kernel_dtypes(normalized=normalized, grad_outputs=grad_outputs)


def check_embedding(ids: Tensor, grad_outputs: Tensor) -> None:
    """Token ids [N, T] and output gradients [N, K, T, O]."""
    if ids.ndim != 2 or ids.dtype not in (torch.int32, torch.int64):
        raise ValueError(f"`ids` must be [N, T] of int32 or int64. Got {_shape(ids)}, {ids.dtype}.")
    n, t = ids.shape
    if grad_outputs.ndim != 4 or grad_outputs.shape[0] != n or grad_outputs.shape[2] != t:
        raise ValueError(f"`grad_outputs` must be [{n}, K, {t}, O]. Got {_shape(grad_outputs)}.")
    check_kernel_dtypes(grad_outputs=grad_outputs)


def check_hashed(x: Tensor, table: Tensor, shifts: Tensor | None) -> None:
    """Numbers [N, G, R, C], a table [G or 1, slots, dim] and shifts [N or 1, R], both int32."""
    if x.ndim != 4:
        raise ValueError(f"`x` must be [N, G, R, C]. Got {_shape(x)}.")
    n, groups, r, _ = x.shape
    if table.ndim != 3 or len(table) not in (1, groups) or table.dtype != torch.int32:
        raise ValueError(
            f"`table` must be [{groups} or 1, slots, dim] of int32. Got {_shape(table)}, "
            f"{table.dtype}."
        )
    if shifts is not None and (
        shifts.ndim != 2 or len(shifts) not in (1, n) or shifts.shape[1] != r
    ):
        raise ValueError(f"`shifts` must be [{n} or 1, {r}]. Got {_shape(shifts)}.")
    check_kernel_dtypes(x=x)


def check_conv(
    x: Tensor, grad_outputs: Tensor, options: Sequence[Sequence[int]], groups: int
) -> None:
    """Input [N, C, *], gradients [N, K, O, *], and four options of one number a dimension."""
    dims = x.ndim - 2
    if dims not in (1, 2, 3):
        raise ValueError(f"`x` must be [N, C, *] with one to three dimensions. Got {_shape(x)}.")
    if grad_outputs.ndim != dims + 3 or grad_outputs.shape[0] != x.shape[0]:
        raise ValueError(
            f"`grad_outputs` must be [{x.shape[0]}, K, O, *] with {dims} dimensions. Got "
            f"{_shape(grad_outputs)}."
        )
    names = ("kernel_size", "stride", "padding", "dilation")
    for name, option in zip(names, options, strict=True):
        if len(option) != dims:
            raise ValueError(f"`{name}` must have {dims} numbers. Got {[*option]}.")
    if groups < 1 or x.shape[1] % groups or grad_outputs.shape[2] % groups:
        raise ValueError(
            f"`groups` must divide {x.shape[1]} input and {grad_outputs.shape[2]} output channels. "
            f"Got {groups}."
        )
    expected = [*Geometry(*map(tuple, options)).out(x.shape[2:])]
    if [*grad_outputs.shape[3:]] != expected:
        raise ValueError(
            f"`grad_outputs` must be {expected} in space for these options. Got "
            f"{[*grad_outputs.shape[3:]]}."
        )
    if max(x[:1].numel(), grad_outputs[:1, :1].numel()) >= 2**31:
        raise ValueError(
            f"`x` must have fewer than 2³¹ elements a sample for a Triton kernel. Got {_shape(x)}. "
            "Use backend='torch'."
        )
    check_kernel_dtypes(x=x, grad_outputs=grad_outputs)
    if grad_outputs.dtype != x.dtype:
        raise TypeError(f"`grad_outputs` must be {x.dtype}, as `x`. Got {grad_outputs.dtype}.")


def dense(tensor: Tensor, inner: int) -> Tensor:
    """The tensor itself where its `inner` last dimensions are contiguous, else a copy."""
    step = 1
    for size, stride in zip(
        tensor.shape[-inner:][::-1], tensor.stride()[-inner:][::-1], strict=True
    ):
        if size > 1 and stride != step:
            return tensor.contiguous()
        step *= size
    return tensor
