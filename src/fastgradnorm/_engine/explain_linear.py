"""How sketches and products with directions are made, parameter by parameter, and at what cost."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

from fastgradnorm._engine.directed import form_of
from fastgradnorm._engine.explain import Explanation, Row, operation_of
from fastgradnorm._engine.plan import Plan
from fastgradnorm._model import Subject, Use
from fastgradnorm._operations import Joint, Rule, choose_form, scratch

# Of a position that is sketched: additions of an element, of its buckets' transforms.
_ADDITIONS, _TRANSFORMS = 2, 5


class _Cost(NamedTuple):
    """Of one use: how it is read, floating-point operations and elements at a time."""

    rule: str
    flops: int
    elements: int


_Read = Callable[[str, Rule, Joint], _Cost]


def explain_sketches(subject: Subject, plan: Plan, dim: int, slow: str | None) -> Explanation:
    """Of sketches of `dim` numbers."""

    def read(name: str, rule: Rule, joint: Joint) -> _Cost:
        form = choose_form(rule, joint, subject.parameters[name], dim)
        t, i, o = rule.shape_of(joint.slot)
        if form == "rows":
            return _Cost("lookup", _ADDITIONS * t * o, scratch(rule, joint, form, dim))
        if form == "formed":
            return _Cost(form, rule.groups * (2 * t + _ADDITIONS) * i * o, rule.groups * i * o)
        each = _ADDITIONS * (i + o) + round(_TRANSFORMS * dim * math.log2(max(2, dim)))
        return _Cost("TensorSketch", rule.groups * t * each, scratch(rule, joint, form, dim))

    return _explained(subject, plan, "sketches", read, _ADDITIONS, slow)


def explain_dots(
    subject: Subject, plan: Plan, count: int, cosine: bool, taps: str | None, slow: str | None
) -> Explanation:
    """Of products with `count` directions; `taps`: why by those, None where by forward mode."""

    def read(name: str, rule: Rule, joint: Joint) -> _Cost:
        t, i, o = rule.shape_of(joint.slot)
        if taps is None:  # the direction through the layer, and what comes to it
            return _Cost("forward mode", 4 * rule.groups * t * i * o, 2 * t * o)
        parameter = subject.parameters[name]
        formed = cosine or parameter.is_complex()
        form = "gradient" if formed else form_of(parameter.shape, count, rule, joint)
        if form == "lookup":
            return _Cost(form, 2 * count * t * o, count * t * o)
        if form == "product":
            return _Cost(
                form, 2 * rule.groups * count * t * o * (i + 1), rule.groups * count * t * o
            )
        return _Cost(form, 2 * rule.groups * (t + count) * i * o, rule.groups * i * o)

    more = count + cosine  # the norm is one more
    found = _explained(subject, plan, "products", read, 2 * more, slow)
    if slow is not None or (taps is not None and count > 1):
        return found
    if taps is not None:
        return replace(found, advice=(f"By taps, without forward mode: {taps}.",))
    rows = tuple(replace(row, rule="forward mode") for row in found.rows)
    return replace(found, rows=rows, totals={**found.totals, "leftover_share": 0.0})


def _explained(
    subject: Subject, plan: Plan, what: str, read: _Read, each: int, slow: str | None
) -> Explanation:
    """With so many operations an element of a gradient that autograd has formed."""
    rows = []
    for name in plan.tracked:
        if name in plan.coverage.unused:
            continue
        numel = subject.parameters[name].numel()
        uses = [use for use in plan.uses if name in use.names]
        costs = [_cost(name, use, read) for use in uses]
        known = [cost for cost in costs if cost is not None]
        if len(known) < len(costs) or not costs:
            known.append(_Cost("gradient", each * numel, numel))
        rules = dict.fromkeys(cost.rule for cost in known)
        found = [use.rule for use, cost in zip(uses, costs, strict=True) if cost is not None]
        shapes = [rule.shape_of(rule.joint.slot) for rule in found if rule and rule.joint]
        t, i, o = shapes[0] if shapes else (1, 1, numel)
        t = sum(shape.positions for shape in shapes) or t
        rows.append(
            Row(
                name,
                tuple(subject.parameters[name].shape),
                operation_of(uses),
                uses[0].layer if uses else "",
                "loop" if slow else " + ".join(rules),
                *(t, i, o),
                sum(cost.flops for cost in known),
                plan.item_bytes * max(cost.elements for cost in known),
            )
        )
    flops = sum(row.flops for row in rows)
    formed = sum(row.flops for row in rows if "gradient" in row.rule)
    totals = {
        "what": what,
        "parameters": sum(subject.parameters[row.parameter].numel() for row in rows),
        "flops": flops,
        "leftover_share": formed / max(1, flops),
        "peak_bytes": max((row.peak_bytes for row in rows), default=0),
        "activation_bytes": plan.activation_bytes,
    }
    advice = () if slow is None else (f"The model cannot run under vmap: {slow}",)
    return Explanation(tuple(rows), 1, plan.coverage.unused, advice, None, totals)


def _cost(name: str, use: Use, read: _Read) -> _Cost | None:
    """None where the parameter is read as autograd has formed its gradient."""
    joint = None if use.rule is None else use.rule.joint
    if use.rule is None or joint is None:
        return None
    piece = use.slots.get(joint.slot)
    alone = piece is not None and piece.name == name and not piece.path
    others = [*use.others, *(p for slot, p in use.slots.items() if slot != joint.slot)]
    if not alone or name in {other.name for other in others}:
        return None
    found = read(name, use.rule, joint)
    return None if found.rule == "gradient" else found
