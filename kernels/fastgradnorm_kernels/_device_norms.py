"""Weight norms on GPUs by tensor operations alone: whole blocks of samples, and no value is read.

For devices and dtypes that have no kernel. A ghost norm whose terms cancel would have to be made
again, and which ones that are only the device knows: so ghost norms are made in float64, where
nothing that matters is lost, and only where they are cheaper even so.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from fastgradnorm_kernels import reference
from fastgradnorm_kernels._forms import choose_form
from fastgradnorm_kernels.geometry import Geometry
from fastgradnorm_kernels.patches import grouped
from fastgradnorm_kernels.shapes import Float

# Elements of patches, Grams and gradients that are in memory at a time.
_BLOCK = 1 << 26
# How much slower float64 products are than float32 ones, at most.
_FLOAT64 = 32


def weight_sq_norm(a: Float[Tensor, "N T I"], g: Float[Tensor, "N K T O"]) -> Float[Tensor, "N K"]:
    """`‖Σ_t g_t a_tᵀ‖²`."""
    _, k, t, o = g.shape
    inputs = a.shape[-1]
    if choose_form(t, inputs, o, k) == "closed form":
        return reference.outer_sq_norm(a, g)
    a, g = reference.widen(a, g)
    dtype, ghost = g.dtype, k * t * o + t * inputs
    dearer = 1 if dtype == torch.float64 else _FLOAT64
    if dearer * ghost < k * o * inputs:

        def norms(a: Tensor, g: Tensor) -> Tensor:
            a, g = a.double(), g.double()
            return reference.ghost_at_once(a @ a.mT, g).sq_norm.to(dtype)

        return _in_blocks(norms, t * t + 2 * (k * t * o + t * inputs), a, g)

    def direct(a: Tensor, g: Tensor) -> Tensor:
        gradients = torch.bmm(g.mT.reshape(len(g), k * o, t), a)
        norm: Tensor = torch.linalg.vector_norm(gradients.view(len(g), k, o * inputs), dim=-1)
        return norm.square()

    return _in_blocks(direct, k * o * inputs, a, g)


def conv_sq_norm(
    x: Float[Tensor, "N C *space"],
    g: Float[Tensor, "N K O *out"],
    geometry: Geometry,
    groups: int,
) -> Float[Tensor, "N K"]:
    """`‖Σ_t g_t a_tᵀ‖²` of the patches a that each position of the output sees."""
    _, k, _, *out = g.shape
    t, inputs = math.prod(out), x.shape[1] // groups * math.prod(geometry.kernel_size)

    def norms(x: Tensor, g: Tensor) -> Tensor:
        return weight_sq_norm(*grouped(x, g, geometry, groups)).view(len(x), groups, k).sum(1)

    return _in_blocks(norms, t * inputs * groups, x, g)


def _in_blocks(
    norms: Callable[[Tensor, Tensor], Tensor], each: int, a: Tensor, g: Tensor
) -> Float[Tensor, "N K"]:
    """`norms` of some samples at a time, which need `each` elements."""
    block = max(1, _BLOCK // max(1, each))
    if block >= len(g):
        return norms(a, g)
    pairs = zip(a.split(block), g.split(block), strict=True)
    return torch.cat([norms(*pair) for pair in pairs])
