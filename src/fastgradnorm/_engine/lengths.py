"""Plans of a length from those of a shorter and a longer one: texts come in many lengths.

A plan costs a few forward passes. Which parameters a model uses where is the same for all lengths,
or it is seen: a pass that uses them otherwise than planned says so, and is planned anew. What is
kept for the backward pass grows with the length, and the faster the longer a text is, so that a
straight line between two lengths is above it.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import torch

from fastgradnorm._engine.plan import Plan
from fastgradnorm._engine.taps import PlannedTap
from fastgradnorm._model import Use

# Shape and dtype of each tensor of a sample.
Key = tuple[tuple[tuple[int, ...], torch.dtype], ...]


class _Place(NamedTuple):
    """Where a length lies: `at`, from `start` on and before `end`."""

    start: int
    end: int
    at: int

    def mixed(self, a: int, b: int) -> int:
        """What is `a` at the start and `b` at the end, rounded up."""
        return a - (a - b) * (self.at - self.start) // (self.end - self.start)


def between(plans: Mapping[Key, Plan], key: Key) -> Plan | None:
    """A plan for samples of a length between the nearest two that are known, if these agree.

    Args:
        plans: Made of samples, by their shapes.
        key: Shapes that differ from some of these in one number, the length.
    """
    known: dict[tuple[int, ...], dict[int, Plan]] = {}
    at = 0
    for other, plan in plans.items():
        found = _lengths(other, key)
        if found is not None:
            places, length, at = found
            known.setdefault(places, {})[length] = plan
    for by_length in known.values():
        shorter = max((n for n in by_length if n < at), default=None)
        longer = min((n for n in by_length if n > at), default=None)
        if shorter is not None and longer is not None:
            return _mixed(by_length[shorter], by_length[longer], _Place(shorter, longer, at))
    return None


def _lengths(other: Key, key: Key) -> tuple[tuple[int, ...], int, int] | None:
    """Where two keys differ, and by which number each; None if they differ in more than that."""
    if len(other) != len(key):
        return None
    theirs, ours = list[int](), list[int]()
    for (shape, dtype), (own, kind) in zip(other, key, strict=True):
        if dtype != kind or len(shape) != len(own):
            return None
        theirs += shape
        ours += own
    places = tuple(i for i, pair in enumerate(zip(theirs, ours, strict=True)) if pair[0] != pair[1])
    pairs = {(theirs[i], ours[i]) for i in places}
    return (places, *pairs.pop()) if len(pairs) == 1 else None


def _mixed(a: Plan, b: Plan, place: _Place) -> Plan | None:
    taps = [_tap(*pair, place) for pair in zip(a.coverage.taps, b.coverage.taps, strict=False)]
    kept = [tap for tap in taps if tap is not None]
    if len(kept) < max(len(a.coverage.taps), len(b.coverage.taps)):
        return None
    if replace(a.coverage, taps=()) != replace(b.coverage, taps=()) or _facts(a) != _facts(b):
        return None
    return replace(
        b,
        coverage=replace(a.coverage, taps=tuple(kept)),
        uses=tuple(_use(*pair, place) for pair in zip(a.uses, b.uses, strict=True)),
        activation_bytes=place.mixed(a.activation_bytes, b.activation_bytes),
        transient_bytes=place.mixed(a.transient_bytes, b.transient_bytes),
        # Long texts have other forms of norms than short ones: the larger, where it may be either.
        scratch_bytes=max(a.scratch_bytes, b.scratch_bytes),
        gradient_bytes=max(a.gradient_bytes, b.gradient_bytes),
    )


def _facts(plan: Plan) -> tuple[Any, ...]:
    """What two plans must have in common; their sums follow from their columns."""
    uses = [(use.key, use.layer, use.others, use.rule is None) for use in plan.uses]
    return plan.harmless, plan.logits_shape, plan.exact_head, plan.hooked, plan.item_bytes, uses


def _tap(a: PlannedTap, b: PlannedTap, place: _Place) -> PlannedTap | None:
    shape = tuple(
        m if m == n else place.at
        for m, n in zip(a.output_shape, b.output_shape, strict=False)
        if m == n or (m, n) == (place.start, place.end)
    )
    alike = replace(a, output_shape=b.output_shape) == b
    if not alike or not len(shape) == len(a.output_shape) == len(b.output_shape):
        return None
    return replace(b, output_shape=shape)


def _use(a: Use, b: Use, place: _Place) -> Use:
    if a.rule is None or b.rule is None:
        return b
    positions = place.mixed(a.rule.shape.positions, b.rule.shape.positions)
    return replace(b, rule=replace(b.rule, shape=replace(b.rule.shape, positions=positions)))
