"""The numbers in a gradient, as norms and projections see them."""

import torch
from fastgradnorm_kernels import accumulation_dtype
from torch import Tensor, nn


def numbers(gradient: Tensor) -> Tensor:
    """All of them, flat, wide enough to be squared and summed; complex ones are two each."""
    if gradient.is_complex():
        gradient = torch.view_as_real(gradient.resolve_conj())
    return gradient.to(accumulation_dtype(gradient.dtype)).reshape(-1)


def count(tensor: Tensor) -> int:
    """How many those of a gradient of `tensor` are."""
    return tensor.numel() * (2 if tensor.is_complex() else 1)


def is_finite(tensor: Tensor) -> bool:
    """Whether all numbers are, by the least and the largest: a tenth of the time of asking each."""
    if not tensor.numel():
        return True
    given = torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor
    return bool(torch.stack(torch.aminmax(given)).isfinite().all())


def in_double(tensor: Tensor) -> Tensor:
    """In float64, or complex128; integers as they are."""
    if tensor.is_complex():
        return tensor.to(torch.complex128)
    return tensor.double() if tensor.is_floating_point() else tensor


def model_in_double(model: nn.Module) -> nn.Module:
    """The model, cast in place."""
    cast: nn.Module = model._apply(in_double)
    return cast
