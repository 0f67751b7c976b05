"""Max pooling on processors where no derivative is taken: one dimension of space after the other.

PyTorch's kernel takes up to ten times as long for tensors that are not channels-last. Derivatives
are left to it: to find the indices of the maxima, and scatter to them, costs what is gained.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from fastgradnorm._single_level import is_differentiated


class _Windows(NamedTuple):
    """Sizes in each dimension of space."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]

    def are_valid(self, space: Sequence[int]) -> bool:
        """Whether windows are larger than a pixel, and each has one; PyTorch sees to the rest."""
        return math.prod(self.kernel) > 1 and all(
            s > 0 and p >= 0 and d > 0 and k >= max(1, 2 * p) and size + 2 * p > d * (k - 1)
            for size, k, s, p, d in zip(space, *self, strict=True)
        )

    def views(self, x: Tensor, i: int) -> Iterator[Tensor]:
        """Of all windows along dimension `i` of space, the first values, the second, and so on."""
        k, s, p, d = (sizes[i] for sizes in self)
        dim = x.dim() - len(self.kernel) + i
        if p:
            x = F.pad(x, (0, 0) * (x.dim() - 1 - dim) + (p, p), value=-math.inf)
        reach = x.shape[dim] - d * (k - 1)
        for start in range(0, d * k, d):
            yield x[(slice(None),) * dim + (slice(start, start + reach, s),)]


def max_pool(
    function: Callable[..., Tensor],
    dims: int,
    input: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Tensor:
    """`function`, one of PyTorch's max pools over `dims` dimensions, which returns no indices."""
    assert not return_indices  # PyTorch has other functions for that
    options = (kernel_size, () if stride is None else stride, padding, dilation)
    plain = input.device.type == "cpu" and input.is_floating_point() and not ceil_mode
    if plain and dims < input.dim() <= dims + 2 and is_differentiated(input) is False:
        windows = _windows(dims, *options)
        if windows is not None and windows.are_valid(input.shape[-dims:]):
            return _pooled(input, windows)
    return function(input, *options, ceil_mode)


def _windows(dims: int, *options: Any) -> _Windows | None:
    sizes = [tuple(o) if isinstance(o, (tuple, list)) else (o,) for o in options]
    kernel, stride, padding, dilation = (o * dims if len(o) == 1 else o for o in sizes)
    stride = stride or kernel
    fit = {len(kernel), len(stride), len(padding), len(dilation)} == {dims}
    return _Windows(kernel, stride, padding, dilation) if fit else None


def _pooled(x: Tensor, windows: _Windows) -> Tensor:
    # The last dimension last: its views are strided, and there is less of them by then.
    for i in range(len(windows.kernel)):
        x, *others = windows.views(x, i)
        for values in others:
            x = torch.maximum(x, values)
    return x
