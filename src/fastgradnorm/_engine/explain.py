"""How a model is scored, parameter by parameter: which rule, what it costs, what to do about it."""

import textwrap
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import fastgradnorm_kernels as kernels

from fastgradnorm._engine.engine import Engine
from fastgradnorm._engine.plan import Plan
from fastgradnorm._engine.timing import now
from fastgradnorm._model import Batch, Subject, Use

_WIDTH = 100
_MANY = 1 << 40  # samples to come: as many as repay anything


@dataclass(frozen=True)
class Row:
    """One parameter.

    Attributes:
        parameter: Its name.
        shape: Its shape.
        operation: What uses it; `xn` for n uses.
        layer: Path of the module of its first use.
        rule: `"closed form"`, `"ghost"`, `"direct"`, `"leftover"` or `"loop"`. Of products and
            sketches, see `explain_gradients`.
        positions: T, over all uses.
        inputs: I.
        outputs: O.
        flops: Floating-point operations of its norm, one sample, all cotangents.
        peak_bytes: The largest tensor that its norm needs beside the gradients, one sample.
        share: Its part of the time of scoring, if that was measured.
    """

    parameter: str
    shape: tuple[int, ...]
    operation: str
    layer: str
    rule: str
    positions: int
    inputs: int
    outputs: int
    flops: int
    peak_bytes: int
    share: float | None = None


@dataclass(frozen=True)
class Explanation:
    """The table of `GradNormScorer.explain`.

    Attributes:
        rows: One a parameter.
        cotangents: Pull-backs a sample needs; with `rtol`, at most.
        unused: Parameters that the logits do not depend on; they count zero.
        advice: What slows scoring down, and what to do about it.
        seconds: Of scoring the batch, if measured.
        replays: How passes like this one are replayed, and what tracing takes, if measured.
    """

    rows: tuple[Row, ...]
    cotangents: int
    unused: tuple[str, ...]
    advice: tuple[str, ...]
    seconds: float | None = None
    totals: dict[str, Any] = field(default_factory=dict)
    replays: dict[str, Any] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain lists, dicts and numbers."""
        return asdict(self)

    def __str__(self) -> str:
        header = ("parameter", "shape", "operation", "rule", "T", "I", "O", "FLOPs", "peak")
        measured = any(row.share is not None for row in self.rows)
        cells = [(*header, "time")[: 10 if measured else 9]]
        for row in self.rows:
            line = (
                row.parameter,
                "x".join(map(str, row.shape)) or "1",
                row.operation,
                row.rule,
                *map(str, (row.positions, row.inputs, row.outputs)),
                _short(row.flops),
                _short(row.peak_bytes) + "B",
            )
            cells.append((*line, f"{100 * (row.share or 0):.1f}%") if measured else line)
        widths = [max(len(line[i]) for line in cells) for i in range(len(cells[0]))]
        widths[0] = max(9, min(widths[0], _WIDTH - sum(widths[1:]) - 2 * len(widths) + 2))
        names = [line[0] for line in cells]
        cells = [(_shortened(line[0], names, widths[0]), *line[1:]) for line in cells]
        lines = [
            "  ".join(
                _fit(text, width) if i < 4 else text.rjust(width)
                for i, (text, width) in enumerate(zip(line, widths, strict=True))
            ).rstrip()
            for line in cells
        ]
        lines.insert(1, "-" * min(_WIDTH, sum(widths) + 2 * len(widths) - 2))
        total = self.totals
        notes = [
            f"{total['parameters']:,} elements of {len(self.rows)} parameters; {self.cotangents} "
            f"pull-backs a sample; {total.get('what', 'norms')} {_short(total['flops'])} FLOPs a "
            f"sample, {100 * total['leftover_share']:.2g} % of them in leftovers"
        ]
        if self.unused:
            notes.append(f"unused, counting zero: {', '.join(self.unused)}")
        if self.replays is not None:
            notes.append(_in_words(self.replays))
        notes += [f"- {text}" for text in self.advice]
        for note in notes:
            lines += textwrap.wrap(note, _WIDTH, subsequent_indent="  ")
        return "\n".join(lines)

    __repr__ = __str__


def explain(
    subject: Subject,
    plan: Plan,
    cotangents: int,
    loop_reason: str | None,
    launched_reason: str | None,
    shares: dict[str, float] | None = None,
    seconds: float | None = None,
    replays: dict[str, Any] | None = None,
) -> Explanation:
    """Builds the table from a plan.

    Args:
        subject: The model.
        plan: Of one batch of it.
        cotangents: How many a sample has.
        loop_reason: Why it cannot run under vmap, if it cannot.
        launched_reason: Why its passes cannot be captured on a GPU, if they cannot.
        shares: Each parameter's part of the time.
        seconds: Of all of it.
        replays: What `tried` told.
    """
    rows = tuple(
        _row(subject, plan, name, cotangents, loop_reason is not None, (shares or {}).get(name, 0.0)
             if shares is not None else None)
        for name in plan.names
    )  # fmt: skip
    flops = sum(row.flops for row in rows)
    direct = sum(row.flops for row in rows if row.rule in ("leftover", "loop"))
    totals = {
        "parameters": sum(subject.parameters[name].numel() for name in plan.names),
        "flops": flops,
        "leftover_share": direct / max(1, flops),
        "peak_bytes": max(row.peak_bytes for row in rows),
        "activation_bytes": plan.activation_bytes,
    }
    advice = _advice(rows, cotangents, loop_reason, launched_reason, flops)
    return Explanation(rows, cotangents, plan.coverage.unused, advice, seconds, totals, replays)


def tried(engine: Engine, batch: Batch) -> dict[str, Any]:
    """How passes over a batch are replayed where many are to come: tried, with what it takes."""
    engine.expect(_MANY)
    seconds = 0.0
    for _ in range(3):
        start = now()
        engine.score(batch)
        seconds = now() - start
    return {**engine.told(), "seconds_a_batch": seconds}


def _in_words(replays: dict[str, Any]) -> str:
    kind, reason = replays["from"], replays["reason"]
    if not replays["replayed"]:
        return f"passes like this one are run as they are: {reason}"
    cost = f" tracing took {replays['seconds']:.2g} s," if kind == "traced" else ""
    said = f"passes like this one are {kind} and replayed where a pool is long enough to repay it:"
    return f"{said}{cost} a batch {1e3 * replays['seconds_a_batch']:.3g} ms then" + (
        "" if reason is None else f"; some are not: {reason}"
    )


def _row(subject: Subject, plan: Plan, name: str, k: int, loop: bool, share: float | None) -> Row:
    shape = tuple(subject.parameters[name].shape)
    uses = [u for u in plan.uses if name in u.names]
    operation = operation_of(uses)
    leftover = name in plan.coverage.leftovers
    rule, t, i, o, flops, peak = _cost(name, uses, leftover, k, subject.parameters[name].numel())
    layer = uses[0].layer if uses else ""
    rule = "loop" if loop else rule
    return Row(name, shape, operation, layer, rule, t, i, o, flops, peak, share)


def operation_of(uses: Sequence[Use]) -> str:
    """What uses a parameter, and how often."""
    operation = uses[0].operation if uses else "hidden"
    return operation if len(uses) < 2 else f"{operation} x{len(uses)}"


def _cost(
    name: str, uses: Sequence[Use], leftover: bool, k: int, numel: int
) -> tuple[str, int, int, int, int, int]:
    """Rule, T, I, O, FLOPs and bytes of one parameter's norm."""
    slots = [next((s for s, p in u.slots.items() if p.name == name), "") for u in uses]
    rules = [u.rule for u in uses if u.rule is not None]
    outputs = sum(u.output.numel() for u in uses if u.output is not None)
    if leftover or not rules or len(rules) < len(uses):
        products = sum(
            2 * r.groups * r.shape.positions * r.shape.inputs * r.shape.outputs
            for r, slot in zip(rules, slots, strict=False)
            if r.joint is not None and slot == r.joint.slot and r.joint.kind == "outer"
        )
        flops = k * (products + 2 * numel + (0 if products else outputs))
        return "leftover", 1, 1, numel, flops, 4 * k * numel
    t = sum(r.shape.positions for r in rules)
    shape, groups = rules[0].shape_of(slots[0]), rules[0].groups
    weights = rules[0].shapes or (rules[0].joint.slot if rules[0].joint else "weight",)
    outer = slots[0] in weights
    rows = rules[0].joint is not None and rules[0].joint.kind == "rows"
    if not outer or rows or shape.inputs == 1:  # biases, norm layers, embeddings: sums over T
        width = shape.outputs * groups
        return "direct", t, 1, width, (4 if outer else 2) * k * t * width, 4 * k * width
    form = kernels.choose_form(t, shape.inputs, shape.outputs, k)
    flops = groups * kernels.form_flops(form, t, shape.inputs, shape.outputs, k)
    peak = {
        "closed form": k,
        "ghost": t * t + k * t * shape.outputs,
        "direct": k * shape.inputs * shape.outputs,
    }[form]
    return form, t, shape.inputs, shape.outputs, flops, 4 * groups * peak


def _advice(
    rows: Sequence[Row],
    cotangents: int,
    loop_reason: str | None,
    launched_reason: str | None,
    flops: int,
) -> tuple[str, ...]:
    found = []
    if loop_reason is not None:
        found.append(
            f"The model cannot run under vmap, so that samples are scored one by one: {loop_reason}"
        )
    elif launched_reason is not None:
        found.append(
            "The kernels of each pass are launched one by one, which is slow for small batches: "
            f"{launched_reason}"
        )
    heavy = [r for r in rows if r.rule == "leftover" and r.flops > 0.1 * flops]
    found += [
        f"`{row.parameter}` ({row.operation}) has no rule, so that its per-sample gradients are "
        "formed. `register_rule` teaches one."
        for row in heavy
    ]
    if cotangents > 32:
        found.append(
            f"{cotangents} pull-backs a sample. rtol=0.02 needs a fraction of them, "
            "scheme='entropy' one, params='last_layer' none."
        )
    return tuple(found)


def _short(number: float) -> str:
    for unit in ("", "K", "M", "G"):
        if abs(number) < 1000:
            return f"{number:.3g}{unit}"
        number /= 1000
    return f"{number:.3g}T"


def _fit(text: str, width: int) -> str:
    return text.ljust(width) if len(text) <= width else "…" + text[1 - width :]


def _shortened(name: str, names: Sequence[str], width: int) -> str:
    """The end of a name that is too long, after the parts in which others of that end differ."""
    if len(name) <= width:
        return name
    like = [other for other in names if other[1 - width :] == name[1 - width :]]
    columns = zip(*(other.split(".") for other in like), strict=False)
    told = ".".join(column[like.index(name)] for column in columns if len({*column}) > 1)
    room = width - len(told) - 1
    return f"…{told}{_fit(name, room)}" if told and room > 1 else _fit(name, width)
