"""Which float32 products are made exactly on a GPU's matrix units, and the parts of their weights.

Those of float32 tensors on CUDA where nobody asked for TF32, in channels that are whole vectors.
The parts of weights, twice their size, are made once for all batches where somebody keeps them.
"""

import math
from collections.abc import Iterable, Sequence
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor

from fastgradnorm_kernels import _backends
from fastgradnorm_kernels._errors import telling
from fastgradnorm_kernels._launch import on
from fastgradnorm_kernels.geometry import Geometry
from fastgradnorm_kernels.switches import marked


class Kept:
    """The parts of weights, by how they are ordered and where the weights lie.

    Args:
        own: Tensors whose parts are kept: weights that are there for many passes. Those that a
            model makes anew in each are not.
    """

    def __init__(self, own: Iterable[Tensor] = ()) -> None:
        self.found: dict[Any, _Parts] = {}
        plain = [
            tensor for tensor in own if type(tensor) is Tensor and tensor.layout is torch.strided
        ]
        self._own = {tensor.data_ptr(): tensor for tensor in plain}  # where they lie stays theirs

    def weights(self, plan: Any, geometry: Geometry, weight: Tensor) -> Any:
        """What `plan.weights` makes of a weight; anew, in its place, where that has changed."""
        weight = weight.detach()
        if weight.data_ptr() not in self._own:
            return plan.weights(weight)
        key = plan.pulled, geometry, weight.data_ptr(), weight.shape, weight.stride()
        if key in self.found:
            self.found[key].renew()
        else:
            self.found[key] = _Parts(plan, weight)
        return self.found[key].made

    def renew(self) -> None:
        """Before a captured pass, which reads parts where they were and looks at no weight."""
        for parts in self.found.values():
            parts.renew()


class _Parts:
    """The parts of one weight."""

    def __init__(self, plan: Any, weight: Tensor) -> None:
        self._make, self._weight = plan.weights, weight
        self._is_changed, self.made = marked(weight), self._make(weight)

    def renew(self) -> None:
        if self._is_changed():
            self._is_changed = marked(self._weight)
            for before, now in zip(self.made, self._make(self._weight), strict=True):
                before.copy_(now)


_KEPT: ContextVar[Kept | None] = ContextVar("kept", default=None)
_POINT = Geometry((), (), (), ())
_MOST_NUMBERS = 2**31  # of weights, that 32 bits number
_MOST_OF_A_ROW = 2**30  # likewise, of either side, with what padding adds


class keeping:
    """Within it the parts of weights are kept, and found, in what it is given.

    Not in the backward passes of a GPU, which have a thread of their own: what differentiates
    takes `kept()` along.
    """

    def __init__(self, parts: Kept) -> None:
        self._parts = parts

    def __enter__(self) -> None:
        self._before = _KEPT.set(self._parts)

    def __exit__(self, *_: object) -> None:
        _KEPT.reset(self._before)


def kept() -> Kept:
    """That of the surrounding `keeping`; without one, what keeps nothing."""
    return _KEPT.get() or Kept()


def convolves(x: Tensor, weight: Tensor) -> bool:
    """Whether `convolution` takes x `[R, I, *space]`, or `linear` x `[..., I]`."""
    return _fits(weight, weight.shape[1], weight.shape[0]) and _is_exact(x, weight)


def pulls(g: Tensor, weight: Tensor) -> bool:
    """Whether `convolution_pulled` takes g `[R, O, *out]`, or `linear_pulled` g `[..., O]`."""
    return _fits(weight, weight.shape[0], weight.shape[1]) and _is_exact(g, weight)


def precedes(x: Tensor, weight: Tensor) -> bool:
    """Whether exact products take what a convolution of x by this weight makes."""
    return weight.shape[0] % 16 == 0 and _is_exact(x, weight)


def _fits(weight: Tensor, inputs: int, outputs: int) -> bool:
    """Whether the channels are whole steps of the matrix units, and whole vectors."""
    return inputs % 16 == 0 == outputs % 8 and 0 < weight.numel() < _MOST_NUMBERS


def _is_exact(x: Tensor, weight: Tensor) -> bool:
    if x.dtype != torch.float32 or weight.dtype != torch.float32:
        return False
    few, many = sorted(weight.shape[:2])
    if math.prod(x.shape[1:]) // few * many >= _MOST_OF_A_ROW:
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
    from fastgradnorm_kernels import exact_plans

    with on(x):
        plan = exact_plans.forward_plan(geometry, tuple(x.shape[2:]), x.device)
        return _convolve(x, plan, kept().weights(plan, geometry, weight), bias)


@telling("exact_convolution_pulled")
def convolution_pulled(
    g: Tensor,  # [R, O, *out]
    weight: Tensor,  # [O, I, *kernel]
    geometry: Geometry,
    space: Sequence[int],
    parts: Kept,
) -> Tensor:
    """The pull-back of `convolution` to an input `[R, I, *space]`; its channels are last."""
    from fastgradnorm_kernels import exact_plans

    with on(g):
        plan = exact_plans.pull_plan(geometry, tuple(space), g.device)
        return _convolve(g, plan, parts.weights(plan, geometry, weight), None)


def _convolve(x: Tensor, plan: Any, weights: Any, bias: Tensor | None) -> Tensor:
    from fastgradnorm_kernels import exact_convolution

    return exact_convolution.convolve(x.movedim(1, -1), plan, weights, bias).movedim(-1, 1)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`x weightᵀ + bias` for x `[..., I]`."""
    output = convolution(x.reshape(-1, x.shape[-1]), weight, bias, _POINT)
    return output.view(*x.shape[:-1], output.shape[-1])


def linear_pulled(g: Tensor, weight: Tensor, parts: Kept) -> Tensor:
    """`g weight`, the pull-back of `linear`, for g `[..., O]`."""
    pulled = convolution_pulled(g.reshape(-1, g.shape[-1]), weight, _POINT, (), parts)
    return pulled.view(*g.shape[:-1], pulled.shape[-1])
