"""Products of bfloat16 on processors that multiply it: they add up in float32 and are rounded once.

A gradient of n numbers, each rounded by up to one part in 2^9, has a norm that is off by about
2^-9 / √n: far less than the rounding of its factors to bfloat16 has made of it. Squares of what
comes out are added in float32.
"""

import functools
from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn import grad

from fastgradnorm_kernels import _direct, reference
from fastgradnorm_kernels.geometry import Geometry
from fastgradnorm_kernels.patches import padded, seen
from fastgradnorm_kernels.shapes import Float

# As of float32, but sums of rounded products lose digits earlier.
CANCELLED = 1e-1
# Multiplications of one product below which a call costs more than is gained.
_WORTH = 1 << 20
# Where oneDNN's own gradient is faster than patches, of one cotangent with the channels last:
# beyond so many positions, with so many inputs at least, and weights of so many numbers at most.
_MANY_POSITIONS, _WIDE, _SHORT = 1 << 9, 1 << 8, 1 << 18


def factors(work: int, *tensors: Tensor) -> tuple[Tensor, ...]:
    """In the dtype that products of so many multiplications are made in."""
    return tensors if _is_narrow(work, *tensors) else reference.widen(*tensors)


def _is_narrow(work: int, *tensors: Tensor) -> bool:
    if work < _WORTH or any(t.dtype != torch.bfloat16 for t in tensors):
        return False
    return tensors[0].device.type == "cpu" and _multiplies()


@functools.cache
def _multiplies() -> bool:
    """Whether the processor multiplies bfloat16 faster than float32."""
    known: Mapping[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return any(known.get(name) for name in ("avx512_bf16", "amx_bf16"))


def direct_sq_norm(a: Float[Tensor, "N T I"], g: Float[Tensor, "N K T O"]) -> Float[Tensor, "N K"]:
    """`reference.direct_sq_norm`."""
    n, _, t, o = g.shape
    if n == 0 or not _is_narrow(t * o * a.shape[-1], a, g):
        return _direct.direct_sq_norm(a, g)
    return _squares(a, g)


def direct_conv_sq_norm(
    x: Float[Tensor, "N C *space"], g: Float[Tensor, "N K O *out"], geometry: Geometry
) -> Float[Tensor, "N K"]:
    """`reference.direct_conv_sq_norm` of one group."""
    t, inputs = g[0, 0, 0].numel(), x.shape[1] * torch.Size(geometry.kernel_size).numel()
    if not _is_narrow(t * inputs * g.shape[2], x, g):
        return _direct.direct_conv_sq_norm(x, g, geometry)
    if _is_own_gradient(x, g, t, inputs):
        return _own_gradients(x, g, geometry)
    views = seen(padded(x, geometry.padding), *geometry[:2], geometry.dilation)
    patches, found = views.new_empty(views.shape[1:]), list[Tensor]()
    for view, some in zip(views, g.flatten(3).mT, strict=True):
        patches.copy_(view)
        found.append(_squares(patches.view(1, inputs, t).mT, some[None]))
    return torch.cat(found) if found else reference.direct_conv_sq_norm(x, g, *geometry, 1)


def _is_own_gradient(x: Tensor, g: Tensor, t: int, inputs: int) -> bool:
    last = x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)
    suits = t > _MANY_POSITIONS and inputs >= _WIDE and inputs * g.shape[2] <= _SHORT
    return last and g.shape[1] == 1 and suits


def _own_gradients(x: Tensor, g: Tensor, geometry: Geometry) -> Tensor:
    shape = g.shape[2], x.shape[1], *geometry.kernel_size
    weights: Callable[..., Tensor] = grad.conv2d_weight  # its annotation has no pairs of numbers
    pairs = zip(x.split(1), g.flatten(0, 1).split(1), strict=True)
    found = [weights(x_i, shape, g_i, *geometry[1:]) for x_i, g_i in pairs]
    norms = [torch.linalg.vector_norm(weight, dtype=torch.float32) for weight in found]
    return torch.stack(norms).square().view(g.shape[:2])


def _squares(a: Tensor, g: Tensor) -> Tensor:
    pairs = zip(a, g, strict=True)
    found = [_square(a_i.mT @ g_ij) for a_i, g_i in pairs for g_ij in g_i]
    return torch.stack(found).view(g.shape[:2])


def _square(x: Tensor) -> Tensor:
    wide = x.float().view(-1)
    return torch.dot(wide, wide)
