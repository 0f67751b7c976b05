r"""The squared norm of a convolution's weight gradient, by the kernels of linear layers.

The positions are the output's, `t = 1..T`, the inputs of one group are `i = (kernel position,
channel)`, and `a[t, i]` is read from a channels-last, padded copy of `x` where the convolution
would read it: nothing is unfolded, see `windows`. Groups have no cross terms, so that their parts
add up. One and two dimensions are three with sizes of one.
"""

from collections.abc import Sequence

from torch import Tensor

from fastgradnorm_kernels import checked_norm, direct_norm, ghost_norm, gradients, windows
from fastgradnorm_kernels._validate import check_conv, check_precision
from fastgradnorm_kernels.gradients import Gradients
from fastgradnorm_kernels.reference import GhostNorm
from fastgradnorm_kernels.shapes import Bool, Float
from fastgradnorm_kernels.tiles import Tile
from fastgradnorm_kernels.windows import Windows

# Channels of an image, below which PyTorch lays it out rather than a kernel of its own.
_FEW = 16


def _prepare(
    x: Tensor,
    grad_outputs: Tensor,
    options: Sequence[Sequence[int]],
    groups: int,
    sixteens: bool,
) -> tuple[Windows, Gradients]:
    check_conv(x, grad_outputs, options, groups)
    given = gradients.of(grad_outputs.flatten(3).mT, groups)
    if not given.positions_last and x.shape[1] < _FEW:
        x = _as_others(x)
    return windows.of_convolution(x, grad_outputs.shape[3:], options, groups, sixteens), given


def _as_others(x: Tensor) -> Tensor:
    """A first layer's image with its channels last, as the inputs of all others then are."""
    if x.shape[1] == 1:
        return x.squeeze(1).unsqueeze(-1).movedim(-1, 1)  # a view that says so
    return x.movedim(1, -1).contiguous().movedim(-1, 1)


def conv_direct_sq_norm(
    x: Float[Tensor, "N C *space"],
    grad_outputs: Float[Tensor, "N K O *out"],
    options: Sequence[Sequence[int]],
    groups: int,
    needed: Bool[Tensor, "N K"] | None = None,
    *,
    input_precision: str = "ieee",
    tile: Tile | None = None,
) -> Float[Tensor, "N K"]:
    """`direct_sq_norm` of a convolution with kernel size, stride, padding, dilation: `options`."""
    check_precision(input_precision)
    prepared = _prepare(x, grad_outputs, options, groups, False)
    return direct_norm.launch(*prepared, needed, input_precision, tile)


def conv_ghost_sq_norm(
    x: Float[Tensor, "N C *space"],
    grad_outputs: Float[Tensor, "N K O *out"],
    options: Sequence[Sequence[int]],
    groups: int,
    *,
    input_precision: str = "ieee",
    tile: Tile | None = None,
) -> GhostNorm:
    """`ghost_sq_norm` of a convolution with kernel size, stride, padding, dilation: `options`."""
    check_precision(input_precision)
    prepared = _prepare(x, grad_outputs, options, groups, True)
    return ghost_norm.launch(*prepared, input_precision, tile)


def conv_checked_ghost_sq_norm(
    x: Float[Tensor, "N C *space"],
    grad_outputs: Float[Tensor, "N K O *out"],
    options: Sequence[Sequence[int]],
    groups: int,
    cancelled: float,
    *,
    input_precision: str = "ieee",
) -> Float[Tensor, "N K"]:
    """Ghost norms; direct ones where the terms cancel below the share `cancelled` of their sum."""
    check_precision(input_precision)
    prepared = _prepare(x, grad_outputs, options, groups, True)
    return checked_norm.launch(*prepared, cancelled, input_precision)
