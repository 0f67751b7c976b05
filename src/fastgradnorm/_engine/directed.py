r"""Inner products of one sample's gradient with directions, by taps: one pull-back for all of them.

An operation whose gradient is `Σ_t g_t a_tᵀ` adds `Σ_t g_t · (V a_t)` to the product with V: either
so, or by forming that sum once for all directions, whichever is less work. A lookup adds
`Σ_t g_t · V[id_t]`. What has no such rule is tapped as a parameter: see `linear_taps`.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import cast

import torch
from fastgradnorm_kernels import accumulation_dtype
from torch import Tensor
from torch.func import vjp

from fastgradnorm._engine.linear_taps import LinearTaps, Read, Reader, largest_step
from fastgradnorm._engine.plan import Plan
from fastgradnorm._engine.taps import tap
from fastgradnorm._engine.vectors import Vectors
from fastgradnorm._model import Batch, Passage, Pieces, Subject, Watch
from fastgradnorm._operations import Joint, Rule, current_level, numbers

# Positions and directions of one product that cost as much as a gradient that is formed: writing it
# to memory and reading it again takes as long as so many products.
_FORMING = 16

Directions = Mapping[str, Vectors]  # by parameter
Cotangent = Callable[[Tensor], tuple[Tensor, Tensor]]
_Vjp = tuple[Tensor, Callable[..., tuple[Tensor]]]


def sample_dots(
    subject: Subject,
    batch: Batch,
    passage: Passage,
    leaves: Sequence[Tensor],
    directions: Directions,
    cotangent: Cotangent,
    scales: Mapping[str, Tensor] | None = None,
) -> Tensor:
    """Of one sample, inside `vmap`: `[Q]`, or with `scales` `[Q + 1]`, the squared norm last.

    With `scales` both are over what the cotangent was divided by: a cosine has no scale, and the
    square of a confident sample's is below the smallest number.

    Args:
        subject: The model.
        batch: How it is called.
        passage: How it is run.
        leaves: The sample.
        directions: Of the parameters that count; another one's product is zero.
        cotangent: From what is pulled back from to a cotangent, and what it was divided by.
        scales: Of the parameters in the squared norm `‖s ∘ g‖²`, which forms every gradient.
    """
    names = list(directions)
    values = subject.values(names)
    count = len(next(iter(directions.values())))

    def forward(extra: Tensor) -> Tensor:
        level = current_level()
        tapped = {
            name: tap(level, value, extra, _reader(directions[name], scales, name))
            for name, value in values.items()
        }
        view, stand_ins = subject.view(tapped)
        if scales is None:
            uses = _reader_of_uses(directions, extra)
            mode: Watch = LinearTaps(tapped, values, stand_ins, passage, leaves, uses)
        else:
            mode = Watch(Pieces({}), stand_ins, passage, leaves)
        with mode:
            return subject.tempered(view, batch, [leaf[None].clone() for leaf in leaves])

    wide = accumulation_dtype(subject.dtype)
    zero = torch.zeros(count + (scales is not None), dtype=wide, device=subject.device)
    scored, pull_back = cast(_Vjp, vjp(forward, zero))
    unit, scale = cotangent(scored.detach())
    with torch.no_grad(), subject.responsible():  # nobody wants the graph of the gradients
        (found,) = pull_back(unit.to(scored.dtype), retain_graph=False)
    return found * scale if scales is None else found


def _reader(
    directions: Vectors, scales: Mapping[str, Tensor] | None, name: str
) -> Callable[[Sequence[Tensor], Tensor], Tensor]:
    """From a parameter's gradient to its products."""

    def read(_: Sequence[Tensor], g: Tensor) -> Tensor:
        found = _formed(directions, g)
        if scales is None:
            return found
        scaled = numbers(g).to(directions.dtype) * scales[name].reshape(-1)
        return torch.cat([found, scaled.square().sum()[None]])

    return read


def _formed(directions: Vectors, g: Tensor) -> Tensor:
    return directions.of(numbers(g))


def _reader_of_uses(directions: Directions, extra: Tensor) -> Reader:
    """Of uses whose rule fits the directions."""

    def reader(name: str, rule: Rule, joint: Joint) -> tuple[Tensor, Read] | None:
        own = directions[name]
        positions = rule.shape_of(joint.slot).positions
        if not _fits(own.shape, rule, joint):
            return None

        def read(saved: Sequence[Tensor], g: Tensor) -> Tensor:
            a, rows = joint.parts(saved, g)
            if joint.kind == "rows":
                return _of_rows(own, a, rows, joint.padding_idx)
            return _of_outer(own, a, rows, joint.flipped, positions)

        return extra, read

    return reader


def form_of(shape: Sequence[int], count: int, rule: Rule, joint: Joint) -> str:
    """How a use is multiplied with `count` directions.

    By `"lookup"`; as a `"product"` with each; with its gradient `"formed"` once for all; or with
    the parameter's `"gradient"`, as autograd has formed it.
    """
    if not _fits(shape, rule, joint):
        return "gradient"
    if joint.kind == "rows":
        return "lookup"
    positions = rule.shape_of(joint.slot).positions
    return "formed" if _forms(count, positions) else "product"


def dots_elements(plan: Plan, subject: Subject, count: int, whole: bool) -> int:
    """The largest step of a pull-back for `count` directions; `whole`: every gradient is formed."""

    def elements(parameter: Tensor, rule: Rule, joint: Joint) -> int | None:
        form = "gradient" if whole else form_of(parameter.shape, count, rule, joint)
        shape = rule.shape_of(joint.slot)
        if form in ("lookup", "product"):  # and what of it is multiplied, one direction at a time
            return 2 * rule.groups * shape.positions * shape.outputs
        return None

    return largest_step(plan, subject, elements, 3)


def _forms(count: int, positions: int) -> bool:
    """Whether the gradient is formed once for all directions."""
    return count * positions > positions + count + _FORMING


def _fits(shape: Sequence[int], rule: Rule, joint: Joint) -> bool:
    """Whether a use's gradient stands as the parameter does, in blocks of rows, one a group."""
    if joint.kind == "rows":
        return len(shape) == 2
    sizes = rule.shape_of(joint.slot)
    if math.prod(shape) != rule.groups * sizes.inputs * sizes.outputs:
        return False
    # Transposed convolutions in groups are left to the parameter.
    return not joint.flipped or (rule.groups == 1 and len(shape) == 2)


def _of_rows(directions: Vectors, ids: Tensor, g: Tensor, padding: int | None) -> Tensor:
    ids, g = ids.reshape(-1), g.reshape(-1, g.shape[-1])
    if padding is not None:
        g = torch.where((ids.reshape(-1) == padding)[:, None], 0.0, g)
    return directions.of_rows(ids, g)


def _of_outer(directions: Vectors, a: Tensor, g: Tensor, flipped: bool, positions: int) -> Tensor:
    """For a `[G, T, I]` and g `[G, T, O]`."""
    if not _forms(len(directions), positions):
        return directions.of_outer(a, g, flipped)
    wide = directions.dtype
    left, right = (a, g) if flipped else (g, a)
    return directions.of((left.to(wide).mT @ right.to(wide)).reshape(-1))
