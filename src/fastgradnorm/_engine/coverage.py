"""Proof that each parameter is counted exactly once, from autograd's own graph of a plain pass."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fastgradnorm._engine.taps import PlannedTap
from fastgradnorm._errors import CoverageError
from fastgradnorm._model import Piece, PlanChangedError, Recorder, Use
from fastgradnorm._operations import can_join


class Edges:
    """How often the graph of `logits` reads each tensor: its uses as autograd counts them.

    Raises:
        CoverageError: If the graph reaches one of the caller's own `parameters`, past the model.
    """

    def __init__(self, logits: Tensor, parameters: Mapping[str, nn.Parameter]) -> None:
        originals = {id(p): name for name, p in parameters.items()}
        self._count: Counter[Any] = Counter()
        self._nodes = {logits.grad_fn}  # kept, so that no `id` is used again
        stack = [logits.grad_fn]
        while stack:
            node = stack.pop()
            for parent, output in node.next_functions if node is not None else ():
                leaf = getattr(parent, "variable", None)
                if leaf is not None and id(leaf) in originals:
                    raise CoverageError(
                        "`model` must reach its parameters by its modules. Got "
                        f"`{originals[id(leaf)]}`, reached past them: through a tensor that an "
                        "earlier call left on the model, or by a function that PyTorch does not "
                        "let others see. Delete that tensor, or call the parameter's module."
                    )
                self._count[id(leaf) if leaf is not None else (parent, output)] += 1
                if parent is not None and parent not in self._nodes:
                    self._nodes.add(parent)
                    stack.append(parent)

    def into(self, tensor: Tensor) -> int:
        """The number of operations that read `tensor`."""
        if tensor.grad_fn is None:
            return self._count[id(tensor)]
        return self._count[(tensor.grad_fn, tensor.output_nr)]


@dataclass(frozen=True)
class Coverage:
    """Each parameter's way of being counted.

    Attributes:
        taps: Operations to tap, in order.
        joints: Indices of the taps that share a joint parameter, one tuple each.
        leftovers: Parameters that are tapped themselves.
        unused: Parameters that the logits do not depend on.
        columns: Parameter of each squared norm: of single slots, then joints, then leftovers.
        reached: Numbers of the taps, and names of the leftovers, that the logits depend on.
    """

    taps: tuple[PlannedTap, ...]
    joints: tuple[tuple[int, ...], ...]
    leftovers: tuple[str, ...]
    unused: tuple[str, ...]
    columns: tuple[str, ...]
    reached: frozenset[int | str]

    def check_pulled(self, found: Set[int | str]) -> None:
        """Raises `PlanChangedError` if a pull-back left out what would then count as zero."""
        if not found >= self.reached:
            raise PlanChangedError

    @property
    def joint_names(self) -> tuple[str, ...]:
        """The parameter of each group of `joints`."""
        first = sum(len(tap.single) for tap in self.taps)
        return self.columns[first : first + len(self.joints)]


def cover(recorder: Recorder, edges: Edges, leaves: Mapping[str, Tensor]) -> Coverage:
    """Decides for the parameters `leaves`: taps where every use has a rule, else leftovers."""
    groups = _groups(recorder, edges, leaves)
    single: dict[int, list[tuple[str, str]]] = defaultdict(list)
    joint: dict[int, tuple[str, str, bool]] = {}
    members: list[tuple[int, ...]] = []
    for name, by_piece in groups.items():
        for uses in by_piece.values():
            if len(uses) == 1:
                single[uses[0].place].append((uses[0].slot, name))
            else:
                members.append(tuple(use.place for use in uses))
                joint.update({use.place: (use.slot, name, use.transposed) for use in uses})
    order = sorted({*single, *joint})
    place = {use: i for i, use in enumerate(order)}
    taps = tuple(
        PlannedTap(
            _planned_key(recorder.uses[i], groups),
            tuple(slot for slot, _ in single[i]),
            joint[i][0] if i in joint else None,
            *_output(recorder.uses[i]),
            i in joint and joint[i][2],
        )
        for i in order
    )
    # A use that the logits do not depend on here may count for another sample: a leftover then.
    seen = {p.name for use in recorder.uses for p in (*use.slots.values(), *use.others)}
    seen |= recorder.nested
    used = [name for name, leaf in leaves.items() if name in seen or edges.into(leaf) > 0]
    leftovers = tuple(name for name in used if name not in groups)
    columns = [name for i in order for _, name in single[i]]
    columns += [joint[uses[0]][1] for uses in members]
    return Coverage(
        taps,
        tuple(tuple(place[i] for i in uses) for uses in members),
        leftovers,
        tuple(name for name in leaves if name not in used),
        (*columns, *leftovers),
        # What a rule accounts for is reached, or its parameter would be spoilt.
        frozenset(range(len(taps))) | {name for name in leftovers if edges.into(leaves[name]) > 0},
    )


class _Use(NamedTuple):
    """Of one piece of a parameter.

    Attributes:
        place: Of the use among all.
        slot: The argument.
        transposed: Whether that is the piece transposed.
    """

    place: int
    slot: str
    transposed: bool = False


def _groups(
    recorder: Recorder, edges: Edges, leaves: Mapping[str, Tensor]
) -> dict[str, dict[Piece, list[_Use]]]:
    """Uses by piece of each parameter that rules account for in full."""
    found: dict[str, dict[Piece, list[_Use]]] = {name: defaultdict(list) for name in leaves}
    spoilt = {piece.name for use in recorder.uses for piece in use.others}
    for i, use in enumerate(recorder.uses):
        for slot, piece in use.slots.items():
            if piece.name in found:
                found[piece.name][piece].append(_Use(i, slot))
    for tensor, piece in recorder.pieces.tensors():
        if edges.into(tensor) != recorder.reads[id(tensor)]:
            spoilt.add(piece.name)
    merged = {
        name: _merged(recorder, by_piece, leaves[name])
        for name, by_piece in found.items()
        if by_piece and name not in spoilt
    }
    return {
        name: by_piece
        for name, by_piece in merged.items()
        if _disjoint(recorder, by_piece)
        and all(_joinable(recorder, uses) for uses in by_piece.values())
    }


def _merged(
    recorder: Recorder, by_piece: Mapping[Piece, list[_Use]], leaf: Tensor
) -> dict[Piece, list[_Use]]:
    """Uses of views that hold the same elements, as they are or transposed, as of one of them."""
    if len(by_piece) == 1:
        return dict(by_piece)
    found: dict[Piece, list[_Use]] = {}
    tables: dict[Piece, Tensor] = {}
    for piece, uses in by_piece.items():
        table = recorder.pieces.elements(piece)
        if table is None:
            table = torch.arange(leaf.numel(), device=leaf.device).view(leaf.shape)
        same = next((known for known, own in tables.items() if torch.equal(table, own)), None)
        turned = table.mT if table.dim() == 2 else None
        back = next(
            (p for p, t in tables.items() if turned is not None and torch.equal(turned, t)), None
        )
        if same is not None:
            found[same] += uses
        elif back is not None:
            found[back] += [use._replace(transposed=True) for use in uses]
        else:
            found[piece], tables[piece] = [*uses], table
    return {piece: _by_rows(recorder, uses) for piece, uses in found.items()}


def _by_rows(recorder: Recorder, uses: list[_Use]) -> list[_Use]:
    """The same, seen from a lookup of rows if there is one: what is transposed depends on that."""
    rules = [recorder.uses[use.place].rule for use in uses]
    lookups = [
        use.transposed
        for use, rule in zip(uses, rules, strict=True)
        if rule is not None and rule.joint is not None and rule.joint.kind == "rows"
    ]
    if not any(lookups):
        return uses
    return [use._replace(transposed=not use.transposed) for use in uses]


def _disjoint(recorder: Recorder, by_piece: Mapping[Piece, list[_Use]]) -> bool:
    """Whether no element of a parameter stands in two places: an index may pick one twice."""
    parts = [recorder.pieces.elements(piece) for piece in by_piece]
    if any(part is None for part in parts):
        return len(parts) == 1  # the parameter itself
    elements = torch.cat([part.flatten() for part in parts if part is not None])
    return len(elements) == len(elements.unique())


def _joinable(recorder: Recorder, uses: list[_Use]) -> bool:
    if len(uses) == 1:
        return True
    rules = [recorder.uses[use.place].rule for use in uses]
    if len({use.place for use in uses}) < len(uses) or any(rule is None for rule in rules):
        return False
    known = [rule for rule in rules if rule]
    return can_join(known, [use.slot for use in uses], [use.transposed for use in uses])


def _planned_key(use: Use, groups: Mapping[str, Any]) -> tuple[Any, ...]:
    """The key of a use as seen where only planned parameters are tracked."""
    return use.operation, *sorted((s, p) for s, p in use.slots.items() if p.name in groups)


def _output(use: Use) -> tuple[tuple[int, ...], torch.dtype]:
    assert use.output is not None
    return tuple(use.output.shape), use.output.dtype


def check_reached(reached: bool, names: Sequence[str]) -> None:
    """Raises `CoverageError` if the logits depend on none of the parameters."""
    if not reached:
        raise CoverageError(
            "`params` must select parameters that the logits depend on. Got "
            f"{', '.join(names[:5])}{', ...' if len(names) > 5 else ''}: none takes part. Run no "
            "part of the forward pass under `torch.no_grad()`, and detach nothing."
        )
