"""Linear layers with frozen weights under vmap: samples, cotangents and positions in one product.

Forward and pull-back are the same product, by `fastgradnorm_kernels.linear`, which is faster on
some processors than what `F.linear` calls. Elsewhere `F.linear` itself is as good.
"""

from typing import Any

import fastgradnorm_kernels as kernels
import torch
import torch._C._functorch as functorch
from torch import Tensor
from torch.nn import functional as F


def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """As `F.linear`."""
    frozen = all(_frozen(t) for t in (weight, bias) if t is not None)
    plain = input.device.type == "cpu" and input.dtype == weight.dtype == torch.float32
    if not (frozen and plain) or weight.dim() != 2 or torch.is_autocast_enabled("cpu"):
        return F.linear(input, weight, bias)
    output: Tensor = _Linear.apply(input, weight, bias)  # type: ignore[no-untyped-call]
    return output


def _frozen(tensor: Tensor) -> bool:
    """Whether a tensor is the same for all samples and has no gradient."""
    return not tensor.requires_grad and not functorch.is_functorch_wrapped_tensor(tensor)


class _Linear(torch.autograd.Function):
    """`x weightᵀ + bias` for x `[..., I]`, differentiated by x alone."""

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return kernels.linear(x, weight, bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(inputs[1])

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        (weight,) = ctx.saved_tensors
        return _Linear.apply(g, weight.mT, None), None, None  # type: ignore[no-untyped-call]

    @staticmethod
    def vmap(info: Any, in_dims: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Any:
        return _Linear.apply(x.movedim(in_dims[0], 0), weight, bias), 0  # type: ignore[no-untyped-call]
