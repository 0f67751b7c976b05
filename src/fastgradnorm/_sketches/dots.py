r"""Inner products of sketches, plain and whitened, and how far they may be off.

Plain products of gradients weigh directions by how steep the loss is along them, which says little
of what training changes. Influence functions (Koh and Liang, 2017) put the inverse of the curvature
between; TRAK (Park et al., 2023) and LoGra (Choe et al., 2024) that of the projected gradients'
second moments.
"""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from fastgradnorm._sketches.store import SketchStore
from fastgradnorm._validate import check_number, fail, fail_type

AnySketches = Tensor | Mapping[str, Tensor] | SketchStore

_BLOCK = 1 << 22  # elements of a block in float64


def sketch_dots(
    sketches: AnySketches, queries: AnySketches | None = None, *, whiten: float | None = None
) -> Tensor:
    r"""Inner products of sketches: of the gradients, up to `sketch_errors`; whitened, influence.

    With sketches :math:`y_i` and queries :math:`q_j`, :math:`y_i \cdot q_j`; with `whiten`
    :math:`y_i^T (S^T S / N + \lambda)^{-1} q_j`, S being all sketches (TRAK, Park et al., 2023,
    https://arxiv.org/abs/2303.14186), where :math:`\lambda` is `whiten` times the mean of the
    eigenvalues of :math:`S^T S / N`. Sketches of groups are whitened each by itself, and added up.

    Args:
        sketches: `[N, dim]` as of `gradient_sketch`, a dict of them by group, or a `SketchStore`,
            which is read in blocks.
        queries: The same of Q other samples, such as a validation set, of the same `dim`, groups,
            `seed` and model. None: each sketch with itself.
        whiten: Above 0, such as 0.1; small values trust directions in which few gradients lie.
            None: plain products.

    Returns:
        `[N, Q]`, in float32 (float64 for float64 sketches), on the CPU; `[N]` without queries.

    Raises:
        TypeError: If sketches are of another kind.
        ValueError: If they do not fit each other, or hold NaN or infinite numbers; or if `whiten`
            is so small that nothing can be inverted.

    Example:
        >>> rows = torch.tensor([[1.0, 0.0], [1.0, 2.0]])
        >>> sketch_dots(rows, rows[:1])
        tensor([[1.],
                [1.]])
        >>> sketch_dots(rows)
        tensor([1., 5.])
    """
    given = _Rows("sketches", sketches)
    asked = None if queries is None else _fitting(given, queries)
    inverses: Tensor | None = None
    if whiten is not None:
        check_number("whiten", whiten, above=0)
        inverses = _inverses(given, whiten)
        asked = None if asked is None else torch.einsum("qgk,gkl->qgl", asked, inverses)
    found = []
    for block in given.blocks():
        if asked is not None:
            found.append(block.flatten(1) @ asked.flatten(1).T)
        else:
            other = block if inverses is None else torch.einsum("ngk,gkl->ngl", block, inverses)
            found.append((block * other).sum((1, 2)))
    return torch.cat(found).to(given.dtype)


def sketch_errors(sketches: AnySketches, queries: AnySketches | None = None) -> Tensor:
    r"""Standard errors of `sketch_dots`, over the seeds: how far products of gradients may be.

    :math:`\sqrt{(\|y\|^2 \|q\|^2 + (y \cdot q)^2) / \mathrm{dim}}`, from the sketches themselves,
    which holds, or is more than there is, where layers are no wider than `dim` or many layers or
    positions add to the gradients. Where one wider layer at one position makes nearly all of them
    the error is up to :math:`\sqrt 3` times as large.

    Args:
        sketches: As in `sketch_dots`.
        queries: As in `sketch_dots`; None: of squared norms.

    Returns:
        `[N, Q]`, or `[N]` without queries.

    Raises:
        TypeError: As `sketch_dots`.
        ValueError: As `sketch_dots`.

    Example:
        >>> sketch_errors(torch.tensor([[1.0, 0.0], [1.0, 2.0]]))
        tensor([1., 5.])
    """
    given = _Rows("sketches", sketches)
    asked = None if queries is None else _fitting(given, queries)
    found = []
    for block in given.blocks():
        squares = block.square().sum(2)  # [n, G]
        if asked is None:
            variance = 2 * squares.square()
        else:
            products = torch.einsum("ngk,qgk->nqg", block, asked)
            variance = squares[:, None] * asked.square().sum(2) + products.square()
        found.append((variance.sum(-1) / given.dim).sqrt())
    return torch.cat(found).to(given.dtype)


class _Rows:
    """Sketches of any kind as blocks `[n, G, dim]`, in float64 on the CPU.

    Args:
        name: Of the argument.
        given: The sketches.
    """

    def __init__(self, name: str, given: AnySketches) -> None:
        self.name, self.given, self.groups = name, given, tuple[str, ...]()
        if isinstance(given, SketchStore):
            count, *_, self.dim = given.shape
            self.groups, self.dtype = given.groups, given[:0].dtype
        elif isinstance(given, Mapping) and given:
            self.groups, first = tuple(given), next(iter(given.values()))
            for key, each in given.items():
                _check(f"{name}[{key!r}]", each)
                if each.shape != first.shape:
                    wanted = f"of the shape {list(first.shape)} for every group"
                    raise fail(f"{name}[{key!r}]", wanted, each)
            (count, self.dim), self.dtype = first.shape, first.dtype
        else:
            _check(name, given)
            assert isinstance(given, Tensor)
            (count, self.dim), self.dtype = given.shape, given.dtype
        if not count:
            raise fail(name, "of at least one sample", given)
        if self.dtype != torch.float64:
            self.dtype = torch.float32
        self.count, self.width = count, max(1, len(self.groups)) * self.dim

    def blocks(self) -> Iterator[Tensor]:
        """All of them, in order; raises for what is no number."""
        size = max(1, _BLOCK // self.width)
        for start in range(0, self.count, size):
            rows = slice(start, start + size)
            if isinstance(self.given, SketchStore):
                block = self.given[rows]
            elif isinstance(self.given, Mapping):
                block = torch.stack([each[rows].cpu() for each in self.given.values()], 1)
            else:
                block = self.given[rows]
            block = (
                block.detach()
                .to("cpu", torch.float64)
                .reshape(-1, self.width // self.dim, self.dim)
            )
            bad = (~block.isfinite().flatten(1).all(1)).nonzero()
            if len(bad):
                wanted = "of finite numbers"
                place = f"NaN or infinite ones in row {start + int(bad[0])}"
                raise fail(self.name, wanted, place, "Leave that sample out.")
            yield block


def _check(name: str, given: object) -> None:
    wanted = "a tensor [N, dim] of sketches, a dict of them by group, or a SketchStore"
    if not isinstance(given, Tensor):
        raise fail_type(name, wanted, given)
    if given.dim() != 2 or not given.is_floating_point():
        raise fail(name, wanted, given)


def _fitting(given: _Rows, queries: AnySketches) -> Tensor:
    """Queries `[Q, G, dim]` of the same groups."""
    asked = _Rows("queries", queries)
    for what, here, there in (
        ("groups", asked.groups, given.groups),
        ("numbers a sketch", asked.dim, given.dim),
    ):
        if here != there:
            raise fail("queries", f"of the same {what} as `sketches`, {there}", here)
    return torch.cat(list(asked.blocks()))


def _inverses(given: _Rows, whiten: float) -> Tensor:
    """`(SᵀS / N + λ)⁻¹` `[G, dim, dim]`; zero of groups that have no gradient."""
    total = torch.zeros(
        given.width // given.dim, given.dim, given.dim, dtype=torch.float64, device="cpu"
    )
    for block in given.blocks():
        rows = block.transpose(0, 1)
        total += rows.mT @ rows
    total /= given.count
    scale = total.diagonal(dim1=1, dim2=2).mean(1)
    unit = total / torch.where(scale > 0, scale, 1.0)[:, None, None]
    unit.diagonal(dim1=1, dim2=2).add_(whiten)
    factor, info = torch.linalg.cholesky_ex(unit)
    if bool(info.any()):
        raise fail("whiten", "large enough to invert the sketches' second moments", whiten)
    inverse = torch.cholesky_inverse(factor) / torch.where(scale > 0, scale, 1.0)[:, None, None]
    return torch.where(scale[:, None, None] > 0, inverse, 0.0)
