"""A TensorSketch of one parameter: buckets and signs of its elements, without a table of them.

The parameter is a matrix, its first dimension times all others. Rows and columns have a bucket
`h(i) < k` and a sign `s(i)` each, and element (o, i) has bucket `h(o) + h(i) mod k` and sign
`s(o) s(i)` (Pham and Pagh, 2013). So the sketch of `Σ_t g_t a_tᵀ` is the sum of circular
convolutions of the count sketches of g_t and a_t, a product of their Fourier transforms, which are
added up over positions, layers and parameters before one inverse transform. A gradient that is
formed is hashed the same way, to the same numbers.

Two rows that share a bucket do so with all their elements at once, which may add up to 2 / k to the
relative variance of `‖y‖²`, as may columns. So buckets are drawn without replacement: each k rows
in turn have all k buckets among them, and so have columns. The relative variance is then at most
about 2 / k for parameters of at most k rows and columns, whatever their gradient, and near it for
all others of many directions; for one of rank one it is less than 6 / k.

Buckets and signs come from a hash of (seed, parameter's name, row or column), by 64-bit mixing
(SplitMix64, Steele et al., 2014), the buckets from its order among k of them: equal on every device
and in every version of NumPy.
"""

import hashlib
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from fastgradnorm._operations.numbers import count, numbers
from fastgradnorm._operations.rules import Joint, Rule

# Of SplitMix64.
_STEP = np.uint64(0x9E3779B97F4A7C15)
_MIX = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))
# Nanoseconds, one core of an AMD EPYC (Zen 3), float32: of an element that is added to its bucket,
# of a bucket of a position (both transforms and their product), of an element of a gradient and a
# position in a matrix product. Only their ratios matter.
_ADDED, _TRANSFORMED, _MULTIPLIED = 1.2, 2.6, 0.025


class ParameterMap:
    """Buckets and signs of one parameter's rows and columns.

    Args:
        name: The parameter's.
        parameter: For its shape and device.
        dim: Number of buckets.
        seed: Of the hash.
    """

    def __init__(self, name: str, parameter: Tensor, dim: int, seed: int) -> None:
        self.name, self.dim, self.shape = name, dim, tuple(parameter.shape)
        rows, columns = matrix_shape(parameter)
        device = parameter.device
        self._rows, self._row_signs = _hashes(name, "rows", rows, dim, seed, device)
        self._columns, self._column_signs = _hashes(name, "columns", columns, dim, seed, device)

    def formed(self, gradient: Tensor) -> Tensor:
        """Sketch `[k]` of a gradient of the parameter's shape."""
        g = numbers(gradient).reshape(len(self._rows), len(self._columns))
        g = g * self._column_signs.to(g.dtype)
        buckets = self._columns
        if len(self._columns) > self.dim:  # first each row for itself: no index for each element
            g = g.new_zeros(len(g), self.dim).scatter_add(1, buckets.expand(len(g), -1), g)
            buckets = torch.arange(self.dim, device=g.device)
        index = (self._rows[:, None] + buckets) % self.dim
        g = g * self._row_signs.to(g.dtype)[:, None]
        return g.new_zeros(self.dim).scatter_add(0, index.flatten(), g.flatten())

    def rows(self, ids: Tensor, g: Tensor, padding: int | None) -> Tensor:
        """Sketch `[k]` of a gradient that is zero but for g `[T, O]`, added to rows `ids` `[T]`."""
        signs = self._row_signs.to(g.dtype)[ids]
        if padding is not None:
            g = torch.where((ids == padding)[:, None], 0.0, g)
        g = g * signs[:, None] * self._column_signs.to(g.dtype)
        index = (self._rows[ids][:, None] + self._columns) % self.dim
        return g.new_zeros(self.dim).scatter_add(0, index.flatten(), g.flatten())

    def outer(self, a: Tensor, g: Tensor, flipped: bool) -> Tensor:
        """Transform `[k // 2 + 1, 2]` of the sketch of `Σ_t g_t a_tᵀ`.

        For a `[G, T, I]` and g `[G, T, O]`; groups are blocks of rows. With `flipped` the parameter
        is `[I, O]`.
        """
        left, right = (a, g) if flipped else (g, a)
        groups, width = len(left), left.shape[-1]
        buckets = self._rows.reshape(groups, 1, width), self._columns
        left = left * self._row_signs.to(left.dtype).reshape(groups, 1, width)
        right = right * self._column_signs.to(right.dtype)
        product = self._transform(left, buckets[0]) * self._transform(right, buckets[1])
        return torch.view_as_real(product.sum((0, 1)))

    def _transform(self, x: Tensor, buckets: Tensor) -> Tensor:
        """Of the count sketches of signed vectors `[G, T, I]`."""
        zeros = x.new_zeros(*x.shape[:-1], self.dim)
        found: Tensor = torch.fft.rfft(zeros.scatter_add(-1, buckets.expand(x.shape), x))
        return found


def inverse(spectrum: Tensor, dim: int) -> Tensor:
    """Sketches `[..., k]` from their transforms `[..., k // 2 + 1, 2]`."""
    found: Tensor = torch.fft.irfft(torch.view_as_complex(spectrum.contiguous()), n=dim)
    return found


def matrix_shape(parameter: Tensor) -> tuple[int, int]:
    """Rows and columns of a parameter as a matrix of real numbers."""
    rows = parameter.shape[0] if parameter.dim() else 1
    return rows, count(parameter) // max(1, rows)


Form = Literal["rows", "outer", "formed"]


def choose_form(rule: Rule | None, joint: Joint | None, parameter: Tensor, dim: int) -> Form:
    """How a use is sketched: by the rows it adds to, by TensorSketch, or by its gradient, formed.

    The cheaper of the last two; the same numbers.
    """
    if rule is None or joint is None or parameter.is_complex():
        return "formed"
    if joint.kind == "rows":
        return "rows" if parameter.dim() == 2 else "formed"
    positions, inputs, outputs = _sizes(rule, joint)
    width, rest = (inputs, outputs) if joint.flipped else (outputs, inputs)
    if joint.flipped and (rule.groups > 1 or parameter.dim() != 2):
        return "formed"
    if matrix_shape(parameter) != (rule.groups * width, rest):
        return "formed"
    sketched = positions * (_ADDED * (inputs + outputs) + _TRANSFORMED * dim)
    formed = inputs * outputs * (_MULTIPLIED * positions + 2 * _ADDED)
    return "outer" if sketched < formed else "formed"


def scratch(rule: Rule, joint: Joint, form: Form, dim: int) -> int:
    """Elements that a use needs at a time, beside a gradient that is formed."""
    positions, inputs, outputs = _sizes(rule, joint)
    if form == "rows":
        return positions * 4 * outputs  # an index is twice as wide as a number
    if form == "formed":
        return 0
    return rule.groups * positions * (2 * (inputs + outputs) + 6 * dim)


def _sizes(rule: Rule, joint: Joint) -> tuple[int, int, int]:
    shape = rule.shapes.get(joint.slot, rule.shape)
    return shape.positions, shape.inputs, shape.outputs


def _hashes(
    name: str, side: str, size: int, dim: int, seed: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Buckets and signs `[size]`; of each `dim` in turn all buckets differ."""
    label = repr((seed, name, side)).encode()
    first, second = np.frombuffer(hashlib.blake2b(label, digest_size=16).digest(), "<u8")
    index = np.arange(1, -(-size // dim) * dim + 1, dtype=np.uint64)
    mixed = _mix(_mix(index * _STEP + first) ^ second)
    order = (mixed >> np.uint64(1)).reshape(-1, dim).argsort(1, kind="stable")
    buckets = order.argsort(1, kind="stable").reshape(-1)[:size]
    signs = 1 - 2 * (mixed[:size] & np.uint64(1)).astype(np.int8)
    found: Sequence[Tensor] = [torch.from_numpy(each).to(device) for each in (buckets, signs)]
    return found[0], found[1]


def _mix(x: "np.typing.NDArray[np.uint64]") -> "np.typing.NDArray[np.uint64]":
    x = (x ^ (x >> np.uint64(30))) * _MIX[0]
    x = (x ^ (x >> np.uint64(27))) * _MIX[1]
    return x ^ (x >> np.uint64(31))
