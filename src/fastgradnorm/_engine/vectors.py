"""Directions in the space of one parameter, read where they lie.

Sixteen directions of 110 million parameters are 7 GB, which the caller holds. On the CPU they are
neither copied nor stacked as a whole: a product takes them block by block, as much of all of them
as a cache holds, and is as fast.
"""

from collections.abc import Callable, Iterator, Mapping

import torch
from fastgradnorm_kernels.levels import bare, outside, wrapped
from torch import Tensor

# Numbers of all directions at a time. Up to so many samples, products with one direction after the
# other take less than putting some of them together; of parameters of few numbers they do not. And
# numbers of all samples' gradients at a time, then. By measuring: 2.4 million numbers, 16
# directions, one core of an AMD EPYC (Zen 3).
_BLOCK, _FEW_SAMPLES, _SMALL, _ROWS = 1 << 18, 4, 1 << 14, 1 << 18


class Vectors:
    """Q directions of one parameter.

    Args:
        parts: Of the parameter's shape, by their place among the Q; the others are zero.
        count: Q.
        shape: Of the parameter; of complex ones with a last dimension of two.
        scale: Of the parameter's shape, or a number: what gradients are multiplied by.
        dtype: Of products; that of the first part if not given.
    """

    def __init__(
        self,
        parts: Mapping[int, Tensor],
        count: int,
        shape: tuple[int, ...],
        scale: Tensor | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        self._parts, self._count, self.shape, self._scale = dict(parts), count, shape, scale
        given = next(iter(self._parts.values()), None)
        self.dtype = dtype or (torch.float32 if given is None else given.dtype)
        self._whole: Tensor | None = None
        self._flat = [value.reshape(-1) for value in self._parts.values()]
        self._order: Tensor | None = None  # of all Q among the parts and, last, zero
        if 0 < len(self._parts) < count:
            order = [list(self._parts).index(q) if q in self._parts else -1 for q in range(count)]
            self._order = torch.tensor(order, device="cpu") % (len(self._parts) + 1)

    def __len__(self) -> int:
        return self._count

    def to(
        self, device: torch.device, dtype: torch.dtype, scale: Tensor | None = None
    ) -> "Vectors":
        """On a device, for products in `dtype` with gradients times `scale`."""
        parts = {place: value.to(device) for place, value in self._parts.items()}
        scale = None if scale is None else scale.to(device, dtype)
        if device.type == "cpu" or not parts:
            return Vectors(parts, self._count, self.shape, scale, dtype)
        whole = torch.zeros(self._count, *self.shape, dtype=dtype, device=device)
        for place, value in parts.items():
            whole[place] = value
        found = Vectors(dict(enumerate(whole)), self._count, self.shape, scale, dtype)
        found._whole = whole.reshape(self._count, -1)  # nothing is put together in a pass
        return found

    def of(self, gradient: Tensor) -> Tensor:
        """Products `[Q]` with a gradient, flat."""
        g = gradient.to(self.dtype)
        if self._scale is not None:
            g = g * self._scale.reshape(-1)
        if self._whole is not None:
            return g @ self._whole.T
        if not self._flat:
            return g.new_zeros(self._count)
        inside = bare(g)
        if inside is None or len(inside.places) != 1:
            return self._placed(self._products(g[None])[0])
        with outside():  # so that the directions are read once for all samples
            found = self._products(inside.fronted())
            if self._order is not None:
                found = torch.stack([self._placed(row) for row in found])
        return wrapped(found, [*inside.places])

    def _products(self, g: Tensor) -> Tensor:
        """`[N, parts]`, for gradients `[N, P]`."""
        samples, size = g.shape
        parts = self._flat
        alone = samples <= _FEW_SAMPLES and size > _SMALL
        step = max(1, _ROWS // samples if alone else _BLOCK // len(parts))
        total: Tensor | None = None
        for start in range(0, size, step):
            rows = g[:, start : start + step]
            some = [value[start : start + step].to(self.dtype) for value in parts]
            if alone:
                found = torch.stack([rows @ value for value in some], 1)
            else:
                found = rows @ (some[0][None] if len(some) == 1 else torch.stack(some)).T
            total = found if total is None else total + found
        return g.new_zeros(samples, len(parts)) if total is None else total

    def of_rows(self, ids: Tensor, g: Tensor) -> Tensor:
        """Products `[Q]` with a gradient that is zero but for g `[T, O]`, added to rows `ids`."""
        g = g.to(self.dtype)
        if self._scale is not None:
            g = g * self._scale.expand(self.shape)[ids]
        return self._each(lambda v: (v[ids].to(self.dtype) * g).sum(), g)

    def of_outer(self, a: Tensor, g: Tensor, flipped: bool) -> Tensor:
        """Products `[Q]` with `Σ_t g_t a_tᵀ`, for a `[G, T, I]` and g `[G, T, O]`.

        The gradient of each of G groups is a block of the parameter's rows; with `flipped` the
        parameter is `[I, O]`, and there is one group.
        """
        a, g = a.to(self.dtype), g.to(self.dtype)

        def product(v: Tensor) -> Tensor:
            v = v.to(self.dtype)
            v = v if self._scale is None else v * self._scale
            if flipped:
                return ((a @ v) * g).sum()
            if len(a) == 1:
                return ((a @ v.reshape(g.shape[-1], -1).mT) * g).sum()
            return ((a @ v.reshape(len(a), g.shape[-1], -1).mT) * g).sum()

        return self._each(product, g)

    def one(self, place: int) -> Tensor:
        """A direction, of the parameter's shape, as products see it."""
        value = self._parts.get(place)
        if value is None:
            return torch.zeros(self.shape, dtype=self.dtype, device="cpu")
        value = value.to(self.dtype)
        return value if self._scale is None else value * self._scale

    def sq_sizes(self) -> Tensor:
        """Squared norms `[Q]`, as products see them; in float64: small ones have no square else."""
        wide = torch.float64
        sizes = [
            torch.linalg.vector_norm(self.one(place), dtype=wide).square() for place in self._parts
        ]
        if not sizes:
            return torch.zeros(self._count, dtype=wide, device="cpu")
        return self._placed(torch.stack(sizes))

    def tensors(self) -> Iterator[Tensor]:
        """All that products depend on."""
        yield torch.tensor([self._count, *self._parts], device="cpu")
        yield from self._parts.values()
        if self._scale is not None:
            yield self._scale

    def _each(self, product: Callable[[Tensor], Tensor], like: Tensor) -> Tensor:
        found = [product(value) for value in self._parts.values()]
        return self._placed(torch.stack(found)) if found else like.new_zeros(self._count)

    def _placed(self, found: Tensor) -> Tensor:
        """Numbers of the directions that there are among all Q."""
        if self._order is None:
            return found
        return torch.cat([found, torch.zeros_like(found[:1])])[self._order]
