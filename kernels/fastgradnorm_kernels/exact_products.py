"""Which float32 products are made exactly on a GPU's matrix units, and the plans for them.

Those of float32 tensors on CUDA where nobody asked for TF32, in channels that are whole vectors.
The parts of weights are made once for all batches, where somebody keeps them: see `keeping`.
"""

from collections.abc import Callable, Sequence
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor

from fastgradnorm_kernels import _backends
from fastgradnorm_kernels._errors import telling
from fastgradnorm_kernels._launch import on
from fastgradnorm_kernels.geometry import Geometry
from fastgradnorm_kernels.switches import marked

# Plans by what they are made of and where that lies; each with its weights, so that nothing else
# comes to lie there, and with whether these have changed since.
Kept = dict[Any, tuple[Tensor, Callable[[], bool], Any]]

_KEPT: ContextVar[Kept | None] = ContextVar("plans", default=None)
_POINT = Geometry((), (), (), ())
_MOST_NUMBERS = 2**31  # of weights, that 32 bits number


class keeping:
    """Within it plans are kept in a dictionary of the caller's, and found there.

    Not in the backward passes of a GPU, which have a thread of their own: what differentiates
    takes `kept()` along.
    """

    def __init__(self, plans: Kept) -> None:
        self._plans = plans

    def __enter__(self) -> None:
        self._before = _KEPT.set(self._plans)

    def __exit__(self, *_: object) -> None:
        _KEPT.reset(self._before)


def kept() -> Kept:
    """The plans of the surrounding `keeping`; without one, a dictionary that nobody keeps."""
    plans = _KEPT.get()
    return {} if plans is None else plans


def convolves(x: Tensor, weight: Tensor) -> bool:
    """Whether `convolution` takes x `[R, I, *space]`, or `linear` x `[..., I]`."""
    return _fits(weight, weight.shape[1], weight.shape[0]) and _is_exact(x, weight)


def pulls(g: Tensor, weight: Tensor) -> bool:
    """Whether `convolution_pulled` takes g `[R, O, *out]`, or `linear_pulled` g `[..., O]`."""
    return _fits(weight, weight.shape[0], weight.shape[1]) and _is_exact(g, weight)


def _fits(weight: Tensor, inputs: int, outputs: int) -> bool:
    """Whether the channels are whole steps of the matrix units, and whole vectors."""
    return inputs % 16 == 0 == outputs % 8 and 0 < weight.numel() < _MOST_NUMBERS


def _is_exact(x: Tensor, weight: Tensor) -> bool:
    if x.dtype != torch.float32 or weight.dtype != torch.float32:
        return False
    return _backends.is_exact_on_matrix_units(x)


@telling("exact_convolution")
def convolution(
    x: Tensor,  # [R, I, *space]
    weight: Tensor,  # [O, I, *kernel]
    bias: Tensor | None,
    geometry: Geometry,
) -> Tensor:
    """A convolution of one group; what comes out has its channels last in memory."""
    from fastgradnorm_kernels import exact_convolution, exact_plans

    with on(x):
        plan = _plan(kept(), exact_plans.forward_plan, weight, geometry, x.shape[2:])
        return exact_convolution.convolve(x.movedim(1, -1), plan, bias).movedim(-1, 1)


@telling("exact_convolution_pulled")
def convolution_pulled(
    g: Tensor,  # [R, O, *out]
    weight: Tensor,  # [O, I, *kernel]
    geometry: Geometry,
    space: Sequence[int],
    plans: Kept,
) -> Tensor:
    """The pull-back of `convolution` to an input `[R, I, *space]`; its channels are last."""
    from fastgradnorm_kernels import exact_convolution, exact_plans

    with on(g):
        plan = _plan(plans, exact_plans.pull_plan, weight, geometry, space)
        return exact_convolution.convolve(g.movedim(1, -1), plan).movedim(-1, 1)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`x weightᵀ + bias` for x `[..., I]`."""
    output = convolution(x.reshape(-1, x.shape[-1]), weight, bias, _POINT)
    return output.view(*x.shape[:-1], output.shape[-1])


def linear_pulled(g: Tensor, weight: Tensor, plans: Kept) -> Tensor:
    """`g weight`, the pull-back of `linear`, for g `[..., O]`."""
    pulled = convolution_pulled(g.reshape(-1, g.shape[-1]), weight, _POINT, (), plans)
    return pulled.view(*g.shape[:-1], pulled.shape[-1])


def _plan(
    plans: Kept,
    make: Callable[[Tensor, Geometry, Sequence[int]], Any],
    weight: Tensor,
    geometry: Geometry,
    space: Sequence[int],
) -> Any:
    where = weight.data_ptr(), weight.shape, weight.stride()
    key = make.__name__, geometry, tuple(space), where
    if key not in plans or plans[key][1]():
        weight = weight.detach()
        plans[key] = weight, marked(weight), make(weight, geometry, space)
    return plans[key][2]
