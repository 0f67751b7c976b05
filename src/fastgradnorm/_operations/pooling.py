"""Pooling: on processors, max pools of samples and cotangents in one call, in the layout they have.

PyTorch's kernel takes up to ten times as long for tensors that do not have the channels last.
Where no derivative is taken of such, one dimension of space is pooled after the other instead. With
one it is left to the kernel: to find the indices of the maxima, and scatter to them, costs what is
gained. The pull-back copies the indices for each cotangent, but not what was pooled.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from fastgradnorm_kernels import operators
from fastgradnorm_kernels.geometry import Geometry, sizes
from fastgradnorm_kernels.levels import aligned, outside, wrapped
from torch import Tensor
from torch.nn import functional as F

from fastgradnorm._operations.operation import Operation
from fastgradnorm._operations.rows import Rows, layout
from fastgradnorm._operations.single_level import SingleLevel, is_differentiated, unwrap, wrap

_WITH_INDICES = (2, 3)  # dimensions for which PyTorch has such a kernel


class _Windows(Geometry):
    """Those of a pool."""

    __slots__ = ()

    def are_valid(self, space: Sequence[int]) -> bool:
        """Whether windows are larger than a pixel, and each has one; PyTorch sees to the rest."""
        usual = all(
            s > 0 and p >= 0 and d > 0 and k >= max(1, 2 * p)
            for k, s, p, d in zip(*self, strict=True)
        )
        return usual and math.prod(self.kernel_size) > 1 and min(self.out(space)) > 0

    def views(self, x: Tensor, i: int) -> Iterator[Tensor]:
        """Of all windows along dimension `i` of space, the first values, the second, and so on."""
        k, s, p, d = (sizes[i] for sizes in self)
        dim = x.dim() - len(self.kernel_size) + i
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
    plain = plain and dims < input.dim() <= dims + 2
    differentiated = is_differentiated(input) if plain else None
    windows = None if differentiated is None else _windows(dims, *options)
    if windows is None or not windows.are_valid(input.shape[-dims:]):
        return function(input, *options, ceil_mode)
    if not differentiated and layout(Rows.of(input).tensor) == torch.contiguous_format:
        return _pooled(input, windows)
    light = dims in _WITH_INDICES and input.dim() == dims + 2
    if differentiated and light and operators.has_max_pool():
        output: Tensor = _MaxPool.within(input, windows)
        return output
    return function(input, *options)


def _windows(dims: int, *options: Any) -> _Windows | None:
    kernel, stride, padding, dilation = (sizes(option, dims) for option in options)
    windows = _Windows(kernel, stride or kernel, padding, dilation)
    return windows if {*map(len, windows)} == {dims} else None


def _pooled(x: Tensor, windows: _Windows) -> Tensor:
    # The last dimension last: its views are strided, and there is less of them by then.
    for i in range(len(windows.kernel_size)):
        x, *others = windows.views(x, i)
        for values in others:
            x = torch.maximum(x, values)
    return x


class _MaxPool(SingleLevel):
    @staticmethod
    def forward(ctx: Any, x: Tensor, windows: _Windows) -> Tensor:
        rows = Rows.of(unwrap(x))
        found = []

        def run(rows: Tensor) -> Tensor:
            output, indices = operators.max_pool(rows, *windows)
            found.append(indices)
            return output

        output = rows.apply(run)
        ctx.save_for_backward(rows.apply(lambda _: found[0]))
        ctx.windows, ctx.shape, ctx.layout = windows, x.shape, layout(rows.tensor)
        return wrap(output)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        found = aligned(g, *ctx.saved_tensors)
        assert found is not None
        count = len(found.levels)
        with outside():
            g, indices = (_copy(t, count, ctx.layout) for t in found.tensors if t is not None)
            # Its shape alone is read.
            x = torch.empty(
                len(g), *ctx.shape[1:], dtype=g.dtype, memory_format=ctx.layout, device=g.device
            )
            pulled = operators.max_pool_pulled(g, x, indices, *ctx.windows)
            pulled = pulled.unflatten(0, (*found.sizes, -1))
        return wrapped(pulled, found.levels), None


def _copy(tensor: Tensor, count: int, layout: torch.memory_format) -> Tensor:
    """Rows of an expanded tensor, in that layout."""
    if all(tensor.stride()[:count]) or 0 in tensor.shape:
        return tensor.flatten(0, count).contiguous(memory_format=layout)
    sizes = (math.prod(tensor.shape[: count + 1]), *tensor.shape[count + 1 :])
    copy = torch.empty(sizes, dtype=tensor.dtype, memory_format=layout, device=tensor.device)
    copy.unflatten(0, tensor.shape[: count + 1]).copy_(tensor)
    return copy


def average_pool(input: Tensor, output_size: Any, *, dims: int) -> Tensor | None:
    """`F.adaptive_avg_pool` to one value a channel; None for other sizes.

    With the channels last in memory its backward pass has no vmap rule.
    """
    sizes = output_size if isinstance(output_size, (tuple, list)) else [output_size]
    if any(size != 1 for size in sizes):
        return None
    return input.mean(tuple(range(-dims, 0)), keepdim=True)


def mean(
    function: Callable[..., Tensor],
    input: Tensor,
    dim: Any = None,
    keepdim: bool = False,
    *args: Any,
    **named: Any,
) -> Tensor:
    """`function`, `torch.mean` or the method, as a sum that is divided.

    In the backward pass PyTorch divides what it has spread over all positions, in a layout of its
    own, and what follows is slow where the input has another. A sum's gradient is spread alone.
    """
    dims = dim if isinstance(dim, (tuple, list)) else (dim,)
    plain = input.device.type == "cpu" and input.dtype in (torch.float32, torch.float64)
    if not plain or args or named or not dims or not all(type(d) is int for d in dims):
        return function(input, *(() if dim is None else (dim, keepdim)), *args, **named)
    count = math.prod(input.shape[d] for d in dims)
    return input.sum(dim, keepdim) / count


OPERATIONS: dict[Callable[..., Any], Operation] = {
    torch.mean: Operation(form=partial(mean, torch.mean)),
    torch.Tensor.mean: Operation(form=partial(mean, torch.Tensor.mean)),
    torch.adaptive_avg_pool1d: Operation(opened=partial(average_pool, dims=1)),
    F.adaptive_avg_pool2d: Operation(opened=partial(average_pool, dims=2)),
    F.adaptive_avg_pool3d: Operation(opened=partial(average_pool, dims=3)),
}
for _dims in (1, 2, 3):
    for _module in (F, torch):  # the one calls the other, but not where a mode looks on
        _pool = getattr(_module, f"max_pool{_dims}d")
        OPERATIONS[_pool] = Operation(form=partial(max_pool, _pool, _dims))
