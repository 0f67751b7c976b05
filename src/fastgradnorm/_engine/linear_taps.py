"""Taps for whatever is linear in the gradient: products with directions, sketches.

Uses of a shared parameter simply add up, so that each is read where it happens if it has a reader,
and all others together where autograd has added up their gradient: at the parameter.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fastgradnorm._engine.plan import Plan
from fastgradnorm._engine.taps import tap
from fastgradnorm._model import Followed, Passage, Pieces, StandIns, Subject
from fastgradnorm._operations import Joint, Rule, count, current_level, table

# From tensors that were saved and the gradient at an output.
Read = Callable[[Sequence[Tensor], Tensor], Tensor]
# (parameter's name, rule of a use) -> the extra input to read into, and how; None: as a parameter.
Reader = Callable[[str, Rule, Joint], tuple[Tensor, Read] | None]


class LinearTaps(Followed):
    """Puts a tap behind operations that have a reader, and there leaves the parameter's tap out.

    The operation itself is given the parameter without its tap, so that no use counts twice.

    Args:
        tapped: Parameters with their taps, by name.
        values: The same without.
        stand_ins: As in `Watch`.
        passage: As in `Watch`.
        leaves: As in `Watch`.
        reader: Of uses under a rule.
    """

    def __init__(
        self,
        tapped: Mapping[str, Tensor],
        values: Mapping[str, Tensor],
        stand_ins: StandIns,
        passage: Passage,
        leaves: Sequence[Tensor],
        reader: Reader,
    ) -> None:
        super().__init__(Pieces(dict(tapped)), stand_ins, passage, leaves)
        self._names = {id(tensor): name for name, tensor in tapped.items()}
        self._values, self._reader, self._level = values, reader, current_level()

    def ruled(
        self,
        func: Callable[..., Any],
        call: Mapping[str, Any],
        slots: Sequence[str],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
    ) -> Any:
        # What a derivative or vmap of the model's own makes of an operation uses its parameter too,
        # out of sight: there the parameter keeps its tap.
        seen = torch.is_grad_enabled() and current_level() == self._level
        rule = table.make_rule(func, call, slots) if seen else None
        joint = None if rule is None else rule.joint
        name = None if joint is None else self._names.get(id(call[joint.slot]))
        if rule is None or joint is None or name is None:
            return self.run(func, args, kwargs)
        found = self._reader(name, rule, joint)
        if found is None:
            return self.run(func, args, kwargs)
        plain = {joint.slot: self._values[name]}
        output = self.run(func, *table.replaced(func, args, kwargs, **plain))
        return tap(self._level, output, *found, *rule.saved)


def largest_step(
    plan: Plan,
    subject: Subject,
    elements: Callable[[Tensor, Rule, Joint], int | None],
    each: int,
) -> int:
    """Elements of the largest step of a pull-back.

    Args:
        plan: With the uses.
        subject: The model.
        elements: That the use of a parameter needs at a time; None where its gradient is formed.
        each: Times the elements of a gradient that is formed.
    """
    formed, spared, largest = set[str](), set[str](), 0
    for use in plan.uses:
        rule, slots = use.rule, use.slots
        for slot, piece in [*slots.items(), *(("", piece) for piece in use.others)]:
            joint, needed = None if rule is None else rule.joint, None
            if rule is not None and joint is not None and joint.slot == slot and not piece.path:
                needed = elements(subject.parameters[piece.name], rule, joint)
                largest = max(largest, needed or 0)
            (formed if needed is None else spared).add(piece.name)
    formed |= {*plan.tracked} - spared
    return max([largest, *(each * count(subject.parameters[name]) for name in formed)])
