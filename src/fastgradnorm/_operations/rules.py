"""Rules: how squared norms of parameters' gradients follow from the gradient at an output."""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import fastgradnorm_kernels as kernels
import torch
from torch import Tensor

Saved = Sequence[Tensor]
SqNorms = Callable[[Saved, Tensor], Mapping[str, Tensor]]
Parts = Callable[[Saved, Tensor], tuple[Tensor, Tensor]]
Call = Mapping[str, Any]  # arguments by name


@dataclass(frozen=True)
class Shape:
    """Positions, inputs and outputs of one call: T, I, O."""

    positions: int
    inputs: int
    outputs: int

    def __iter__(self) -> Iterator[int]:
        """T, I, O."""
        yield from (self.positions, self.inputs, self.outputs)


@dataclass(frozen=True)
class Joint:
    """What a use adds to a parameter that is used several times.

    Attributes:
        kind: `"outer"`: the gradient is `Σ_t g_t a_tᵀ` per group, `parts` gives a `[G, T, I]` and g
            `[G, T, O]`. `"rows"`: it adds g_t to row id_t, `parts` gives ids `[T]` and g `[T, O]`.
        slot: The argument that is the parameter.
        parts: `(saved, gradient at the output) -> (a, g)`.
        padding_idx: The row that does not count.
        flipped: The parameter is `[I, O]`, not `[O, I]`; of rows, that they are its columns.
    """

    kind: Literal["outer", "rows"]
    slot: str
    parts: Parts
    padding_idx: int | None = None
    flipped: bool = False

    def of_transposed(self) -> "Joint":
        """What it adds to the parameter, where that was used transposed."""
        return replace(self, flipped=not self.flipped)


@dataclass(frozen=True)
class Rule:
    """How the squared norms of one call's parameters follow from the gradient at its output.

    Attributes:
        slots: Names of the arguments it accounts for.
        saved: Tensors of the call that the backward pass needs.
        sq_norms: `(saved, gradient at the output) -> {slot: squared norm}`, at least for those
            slots that are tracked parameters.
        shape: T, I and O of the weight.
        groups: Independent parts of the weight.
        joint: For parameters that may be used several times.
        shapes: Of each weight, by slot, where a call has several; `shape` is that of all together.
    """

    slots: tuple[str, ...]
    saved: tuple[Tensor, ...]
    sq_norms: SqNorms
    shape: Shape = field(default_factory=lambda: Shape(1, 1, 1))
    groups: int = 1
    joint: Joint | None = None
    shapes: Mapping[str, Shape] = field(default_factory=dict)

    def shape_of(self, slot: str) -> Shape:
        """T, I and O of one weight."""
        return self.shapes.get(slot, self.shape)


def outer_sq_norm(a: Tensor, g: Tensor) -> Tensor:
    """`‖Σ_t g_t a_tᵀ‖²` summed over groups, for a `[G, T, I]`, g `[G, T, O]`."""
    norms: Tensor = kernels.weight_sq_norm(a, g[:, None])
    return norms.sum() if len(norms) > 1 else norms.view(())


def outer_rule(
    saved: tuple[Tensor, ...],
    joint: Joint,
    shape: Shape,
    groups: int = 1,
    bias: str | None = None,
    rows: Callable[[Tensor], Tensor] | None = None,
) -> Rule:
    """The rule of a parameter whose gradient is a sum of outer products.

    `bias` is the argument added at every position, if that is tracked too; `rows` gives the output
    gradient as `[T, O]`.
    """

    def sq_norms(saved: Saved, g: Tensor) -> dict[str, Tensor]:
        a, own = joint.parts(saved, g)
        if bias is None or rows is None:
            return {joint.slot: outer_sq_norm(a, own)}
        of_bias = kernels.bias_sq_norm(rows(g))
        if a.shape[:2] == (1, 1) and not joint.flipped:  # `‖a‖² ‖g‖²`, of which that is a factor
            return {joint.slot: kernels.bias_sq_norm(a)[0] * of_bias, bias: of_bias}
        return {joint.slot: outer_sq_norm(a, own), bias: of_bias}

    slots = (joint.slot,) if bias is None else (joint.slot, bias)
    return Rule(slots, saved, sq_norms, shape, groups, joint)


def joint_sq_norm(uses: Sequence[tuple[Joint, Sequence[Tensor], Tensor]]) -> Tensor:
    """Squared norm of a parameter's gradient over several uses: positions of all, joined.

    A use of the transposed parameter, whose gradient is `Σ_t a_t g_tᵀ`, has its factors exchanged.
    """
    parts: dict[str, list[tuple[Tensor, Tensor]]] = {"outer": [], "rows": []}
    flipped = all(joint.flipped for joint, *_ in uses)
    for joint, saved, g in uses:
        a, own = joint.parts(saved, g)
        if joint.padding_idx is not None:
            own = own.masked_fill((a == joint.padding_idx)[:, None], 0)
        exchanged = joint.kind == "outer" and joint.flipped != flipped
        parts[joint.kind].append((own, a) if exchanged else (a, own))
    wide = kernels.accumulation_dtype(uses[0][2].dtype)
    outer, rows = None, None
    if parts["outer"]:
        outer = _cat([a for a, _ in parts["outer"]]), _cat([g for _, g in parts["outer"]])
    if parts["rows"]:
        rows = torch.cat([a for a, _ in parts["rows"]]), torch.cat([g for _, g in parts["rows"]])
    if outer is not None and rows is not None:
        return _tied_sq_norm(outer, rows, wide)
    if rows is not None:
        squared: Tensor = kernels.embedding_sq_norm(rows[0][None], rows[1][None, None])[0, 0]
        return squared.to(wide)
    assert outer is not None
    return outer_sq_norm(*outer).to(wide)


def _tied_sq_norm(
    outer: tuple[Tensor, Tensor], rows: tuple[Tensor, Tensor], wide: torch.dtype
) -> Tensor:
    """Of an embedding that is tied to a head: `Σ_t g_t a_tᵀ`, and rows that are added to it.

    Row id_s meets position t through both factors, a term for each pair of these, unless the whole
    gradient has fewer numbers: then it is formed.
    """
    # Autocast narrows a product's operands, and leaves the gradients of a lookup wide.
    (a, g), (ids, row_grads) = (tuple(t.to(wide) for t in outer), (rows[0], rows[1].to(wide)))
    if forms_tied(a.shape[1], len(ids), a.shape[2], g.shape[2]):
        index = ids.long()[:, None].expand(row_grads.shape)
        return (g[0].mT @ a[0]).scatter_add(0, index, row_grads).square().sum()
    total = (
        outer_sq_norm(*outer) + kernels.embedding_sq_norm(ids[None], row_grads[None, None])[0, 0]
    )
    chosen = g[0].gather(1, ids.long()[None].expand(g.shape[1], -1))  # [T, S]
    return total + 2 * ((a[0] @ row_grads.mT) * chosen).sum()


def forms_tied(positions: int, lookups: int, inputs: int, outputs: int) -> bool:
    """Whether the gradient of a tied embedding is formed: the smaller of that and the pairs."""
    return inputs * outputs <= positions * lookups


def _cat(parts: Sequence[Tensor]) -> Tensor:
    """Positions of several uses, in the widest dtype: autocast narrows the one, not the other."""
    wide = functools.reduce(torch.promote_types, (part.dtype for part in parts))
    return torch.cat([part.to(wide) for part in parts], 1)


def can_join(rules: Sequence[Rule], slots: Sequence[str], transposed: Sequence[bool]) -> bool:
    """Whether uses of one parameter, each under a rule, can be joined.

    Args:
        rules: Of the uses.
        slots: Which of their arguments is the parameter.
        transposed: Whether it is used transposed.
    """
    known = [rule.joint for rule in rules if rule.joint is not None]
    if [joint.slot for joint in known] != [*slots]:
        return False
    known = [j.of_transposed() if t else j for j, t in zip(known, transposed, strict=True)]
    shapes = {
        (shape.inputs, shape.outputs) if joint.flipped else (shape.outputs, shape.inputs)
        for shape, joint in zip((rule.shape for rule in rules), known, strict=True)
        if joint.kind == "outer"
    }
    if any(j.flipped for j in known if j.kind == "rows"):
        return False
    return len({r.groups for r in rules}) == 1 and len(shapes) <= 1
