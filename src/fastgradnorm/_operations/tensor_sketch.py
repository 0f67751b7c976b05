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
from typing import Literal

import fastgradnorm_kernels as kernels
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
        self._device = parameter.device
        on_host = [
            _hashes(name, side, size, dim, seed)
            for side, size in (("rows", rows), ("columns", columns))
        ]
        self._on_host = on_host
        self._rows, self._row_signs = (each.to(self._device) for each in on_host[0])
        self._columns, self._column_signs = (each.to(self._device) for each in on_host[1])
        self._made: dict[tuple[bool, int], tuple[Tensor, Tensor]] = {}

    def formed(self, gradient: Tensor) -> Tensor:
        """Sketch `[k]` of a gradient of the parameter's shape."""
        shape = len(self._rows), len(self._columns)
        if _is_gathered(gradient):
            g = gradient.reshape(shape)
            # The longer side is gathered: a row that is shorter than the sketch leaves it empty.
            return self._gathered(g.mT if shape[0] > shape[1] else g, shape[0] > shape[1])
        g = numbers(gradient).reshape(shape)
        g = g * self._column_signs.to(g.dtype)
        buckets = self._columns
        if len(self._columns) > self.dim:  # first each row for itself: no index for each element
            g = g.new_zeros(len(g), self.dim).scatter_add(1, buckets.expand(len(g), -1), g)
            buckets = torch.arange(self.dim, device=g.device)
        index = (self._rows[:, None] + buckets) % self.dim
        g = g * self._row_signs.to(g.dtype)[:, None]
        return g.new_zeros(self.dim).scatter_add(0, index.flatten(), g.flatten())

    def rows(self, ids: Tensor, g: Tensor, padding: int | None, wide: torch.dtype) -> Tensor:
        """Sketch `[k]` of a gradient that is zero but for g `[T, O]`, added to rows `ids` `[T]`.

        In the dtype `wide`.
        """
        if _is_gathered(g):
            codes = self._table(True, 1)[1][0, ids]
            codes = codes if padding is None else torch.where(ids == padding, 0, codes)
            return self._gathered(g, False, codes).to(wide)
        g = g.to(wide)
        signs = self._row_signs.to(g.dtype)[ids]
        if padding is not None:
            g = torch.where((ids == padding)[:, None], 0.0, g)
        g = g * signs[:, None] * self._column_signs.to(g.dtype)
        index = (self._rows[ids][:, None] + self._columns) % self.dim
        return g.new_zeros(self.dim).scatter_add(0, index.flatten(), g.flatten())

    def outer(self, a: Tensor, g: Tensor, flipped: bool, wide: torch.dtype) -> Tensor:
        """Transform `[k // 2 + 1, 2]` of the sketch of `Σ_t g_t a_tᵀ`, in the dtype `wide`.

        For a `[G, T, I]` and g `[G, T, O]`; groups are blocks of rows. With `flipped` the parameter
        is `[I, O]`.
        """
        left, right = (a, g) if flipped else (g, a)
        product = self._transform(left, True, wide) * self._transform(right, False, wide)
        return torch.view_as_real(product.sum((0, 1)))

    def _transform(self, x: Tensor, rows: bool, wide: torch.dtype) -> Tensor:
        """Of the count sketches of vectors `[G, T, I]` of rows or of columns."""
        groups, _, width = x.shape
        if _is_gathered(x):
            table = self._table(rows, groups if rows else 1)[0]
            summed: Tensor = torch.fft.rfft(kernels.hashed_sums(x[None], table)[0].to(wide))
            return summed
        x = x.to(wide)
        signs, buckets = self._column_signs.to(x.dtype), self._columns
        if rows:
            signs = self._row_signs.to(x.dtype).reshape(groups, 1, width)
            buckets = self._rows.reshape(groups, 1, width)
        x, zeros = x * signs, x.new_zeros(*x.shape[:-1], self.dim)
        found: Tensor = torch.fft.rfft(zeros.scatter_add(-1, buckets.expand(x.shape), x))
        return found

    def _gathered(self, g: Tensor, flipped: bool, codes: Tensor | None = None) -> Tensor:
        """Sketch `[k]` of a matrix, whose rows are the parameter's columns if `flipped`."""
        table = self._table(flipped, 1)[0]
        codes = self._table(not flipped, 1)[1] if codes is None else codes[None]
        return kernels.hashed_sums(g[None, None], table, codes)[0, 0]

    def _table(self, rows: bool, groups: int) -> tuple[Tensor, Tensor]:
        """Which rows, or columns, each bucket has, and what codes they have themselves."""
        if (rows, groups) not in self._made:
            buckets, signs = self._on_host[0 if rows else 1]
            each = buckets.view(groups, -1), signs.view(groups, -1)
            table, codes = kernels.hash_table(*each, self.dim), kernels.hash_codes(*each)
            self._made[rows, groups] = table.to(self._device), codes.to(self._device)
        return self._made[rows, groups]


def _is_gathered(x: Tensor) -> bool:
    """Whether a kernel gathers what each bucket has; else numbers are added one by one."""
    real = not x.is_complex()
    return real and kernels.resolve_backend("auto", x.device, x.dtype) == "triton"


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
    positions, inputs, outputs = rule.shape_of(joint.slot)
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
    positions, inputs, outputs = rule.shape_of(joint.slot)
    if form == "rows":
        return positions * 4 * outputs  # an index is twice as wide as a number
    if form == "formed":
        return 0
    return rule.groups * positions * (2 * (inputs + outputs) + 6 * dim)


def _hashes(name: str, side: str, size: int, dim: int, seed: int) -> tuple[Tensor, Tensor]:
    """Buckets and signs `[size]`, on the CPU; of each `dim` in turn all buckets differ."""
    label = repr((seed, name, side)).encode()
    first, second = np.frombuffer(hashlib.blake2b(label, digest_size=16).digest(), "<u8")
    index = np.arange(1, -(-size // dim) * dim + 1, dtype=np.uint64)
    mixed = _mix(_mix(index * _STEP + first) ^ second)
    order = (mixed >> np.uint64(1)).reshape(-1, dim).argsort(1, kind="stable")
    buckets = order.argsort(1, kind="stable").reshape(-1)[:size]
    signs = 1 - 2 * (mixed[:size] & np.uint64(1)).astype(np.int8)
    return torch.from_numpy(buckets), torch.from_numpy(signs)


def _mix(x: "np.typing.NDArray[np.uint64]") -> "np.typing.NDArray[np.uint64]":
    x = (x ^ (x >> np.uint64(30))) * _MIX[0]
    x = (x ^ (x >> np.uint64(27))) * _MIX[1]
    return x ^ (x >> np.uint64(31))
