"""One plain pass over one sample: which parameters are used where, and how each is counted."""

import contextlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from fastgradnorm_kernels.switches import marked
from torch import Tensor, nn

from fastgradnorm._engine.coverage import Coverage, Edges, check_reached, cover
from fastgradnorm._engine.cures import cure
from fastgradnorm._engine.footprint import (
    SavedBytes,
    gradient_elements,
    scratch_elements,
    transient_elements,
)
from fastgradnorm._engine.proportion import has_own, in_proportion
from fastgradnorm._errors import (
    ArgumentError,
    CoverageError,
    NoSingleHeadError,
    UnsupportedModelError,
)
from fastgradnorm._model import (
    Batch,
    Origins,
    Passage,
    Pieces,
    Recorder,
    Settings,
    Subject,
    Use,
    behind,
    check_repeatable,
    check_unmixed,
    extract,
    loss_failed,
    own_states,
)
from fastgradnorm._process import is_out_of_memory
from fastgradnorm._validate import type_name

# Estimates of memory are of tensors; allocators and libraries add about so much.
_MARGIN = 1.25
# Per-sample gradients are formed for as many samples at a time as make up so many bytes.
_BLOCK_BYTES = 1 << 24
# A plain pass of one sample.
_PLAIN = Settings(channels_last=False)
# What autograd keeps, in outputs of operations with parameters, where it cannot be seen.
_KEPT = 4


@dataclass(frozen=True)
class Plan:
    """How a forward pass of this shape is scored.

    Attributes:
        coverage: How each parameter is counted.
        harmless: (parameter, function) pairs that read a parameter without a gradient.
        uses: Every use of a chosen parameter, in order.
        logits_shape: `[*positions, C]`.
        exact_head: The last layer's output *is* the logits, at one position.
        hooked: Whether the model puts hooks on gradients.
        activation_bytes: What one sample keeps for its backward pass.
        transient_bytes: What one sample and cotangent need at a time.
        scratch_bytes: What one sample needs at a time for all its cotangents.
        gradient_bytes: The largest weight gradient that a rule forms.
        item_bytes: Of one number.
        sums: Where a parameter has several columns, the place of each column's parameter in
            `names`; None where each has its own.
    """

    coverage: Coverage
    harmless: frozenset[tuple[str, str]]
    uses: tuple[Use, ...]
    logits_shape: tuple[int, ...]
    exact_head: bool
    hooked: bool
    activation_bytes: int
    transient_bytes: int
    scratch_bytes: int
    gradient_bytes: int
    item_bytes: int
    sums: Tensor | None

    @property
    def names(self) -> tuple[str, ...]:
        """Parameters that are counted, in the order of their squared norms."""
        return tuple(dict.fromkeys(self.coverage.columns))

    @property
    def tracked(self) -> tuple[str, ...]:
        """All chosen parameters: another pass may use one that this one did not."""
        return (*self.names, *self.coverage.unused)

    @property
    def fixed(self) -> tuple[int, int]:
        """What a pass costs whatever its samples: tapped operations, and bytes of weights."""
        shapes = [use.rule.shape for use in self.uses if use.rule is not None]
        groups = [use.rule.groups for use in self.uses if use.rule is not None]
        sizes = [s.inputs * s.outputs * n for s, n in zip(shapes, groups, strict=True)]
        return len(self.coverage.taps), self.item_bytes * sum(sizes)

    def bytes(self, samples: int, cotangents: int, count: int) -> int:
        """Estimate of the peak beside model and inputs, for a chunk of so many at a time.

        Args:
            samples: Of one chunk.
            cotangents: Pulled back at a time; 0 for a forward pass alone.
            count: Of all cotangents of a sample, which are there from the start.
        """
        logits = math.prod(self.logits_shape)
        each = self.activation_bytes + self.scratch_bytes + cotangents * self.transient_bytes
        each += 3 * count * logits * self.item_bytes
        formed = cotangents * self.gradient_bytes
        block = max(formed, min(_BLOCK_BYTES, samples * formed))
        return int(_MARGIN * (samples * each + block))


def make_plan(subject: Subject, batch: Batch) -> Plan:
    """Plans from the first sample of `batch`.

    Raises:
        ValueError: If the model cannot run on that sample.
        UnsupportedModelError: If a layer has no exact per-sample gradient.
        CoverageError: If a chosen parameter's use cannot be accounted for.
    """
    before = own_states(subject)
    run = _record(subject, batch)
    sample = batch.take(slice(0, 1))
    check_repeatable(subject, sample, run.logits, before)
    if run.recorder.statistics:
        check_unmixed(subject, sample, run.recorder.statistics)
    edges = Edges(run.logits, subject.parameters)
    for name, parameter in run.late.items():
        # One in place of the caller's own is none of the caller's, which then has no gradient.
        if name not in subject.parameters and edges.into(parameter) > 0:
            raise UnsupportedModelError(
                f"`model` must have its parameters before it is scored. Got `{name}`, which it "
                "makes while it runs. Call it once on a batch first."
            )
    leaves, exact_head = run.leaves, False
    if subject.options.params == "last_layer":
        head, exact_head = _last_layer(run)
        chosen = {piece.name for piece in (*head.slots.values(), *head.added)}
        chosen |= {name for made in head.made for name in behind(made, run.leaves)}
        leaves = {name: leaf for name, leaf in leaves.items() if name in chosen}
        exact_head = exact_head and run.logits.dim() == 1 and not subject.options.by_output
        exact_head = exact_head and not run.recorder.passage.hooked  # the logits, perhaps
    coverage = cover(run.recorder, edges, leaves)
    check_reached(any(edges.into(leaf) for leaf in leaves.values()), list(leaves))
    pieces = [{p.name for p in (*u.slots.values(), *u.others)} for u in run.recorder.uses]
    uses = tuple(u for u, names in zip(run.recorder.uses, pieces, strict=True) if names & {*leaves})
    lone = len(coverage.taps) == 1 and not coverage.joints and not coverage.leftovers
    width = 8 if subject.dtype == torch.float64 else 4
    ruled = [u for u in uses if u.rule is not None and u.rule.joint is not None]
    return Plan(
        coverage=coverage,
        harmless=frozenset(run.recorder.harmless),
        uses=tuple(_lean(use) for use in uses),
        logits_shape=tuple(run.logits.shape),
        exact_head=exact_head and lone,
        hooked=run.recorder.passage.hooked,
        activation_bytes=run.saved_bytes,
        transient_bytes=width * transient_elements(uses, subject, coverage),
        scratch_bytes=width * max(map(scratch_elements, ruled), default=0),
        gradient_bytes=width * max(map(gradient_elements, ruled), default=0),
        item_bytes=width,
        sums=_sums(coverage.columns, subject.device),
    )


def _sums(columns: Sequence[str], device: torch.device) -> Tensor | None:
    place = {name: i for i, name in enumerate(dict.fromkeys(columns))}
    if len(place) == len(columns):
        return None
    return torch.tensor([place[name] for name in columns], device=device)


@dataclass
class _Run:
    recorder: Recorder
    leaves: dict[str, Tensor]
    logits: Tensor
    head: Tensor  # what came out of the last layer: not the loss
    late: dict[str, nn.Parameter]  # parameters that the model has made
    saved_bytes: int


def _record(subject: Subject, batch: Batch, measured: bool = True) -> _Run:
    values = subject.values(list(subject.chosen))
    leaves = {name: v.detach().requires_grad_() for name, v in values.items()}
    changed = {name: marked(v) for name, v in leaves.items()}
    view, stand_ins = subject.view(leaves)
    inputs = [leaf[:1].clone() for leaf in batch.leaves]
    origins = (
        Origins(inputs, stand_ins.stands_in) if subject.options.params == "last_layer" else None
    )
    recorder = Recorder(Pieces(leaves, indexed=True), stand_ins, Passage(_PLAIN), origins)
    recorder.given = inputs
    _track_layers(view, recorder)
    saved = SavedBytes(leaves.values(), subject.options.autocast)
    try:
        with saved.noted() if measured else contextlib.nullcontext(), recorder:
            logits, output = subject.run_both(view, batch, inputs)
    except UnsupportedModelError as error:
        who = "`loss`" if subject.in_loss else _layer(view, recorder)
        raise UnsupportedModelError(f"{who}: {error}") from error
    except (CoverageError, ArgumentError):
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise
        if measured and isinstance(error, RuntimeError):
            # `torch.func` forbids hooks: a model that takes derivatives by it runs without. Plain
            # autograd wants all parameters to have gradients, as they have from now on.
            return _record(subject, batch, measured=False)
        if subject.in_loss:
            raise loss_failed(subject.options, error) from error
        given, failed = ", ".join(map(type_name, inputs)), view.get_submodule(recorder.layer)
        told = (
            f"`model` must run on one sample of the loader. It failed in {_layer(view, recorder)} "
            f"on {given}: {type(error).__name__}: {error} {batch.withheld}".rstrip()
        )
        found = cure(subject, batch, failed, lambda others: subject.run_both(view, batch, others))
        raise ArgumentError(f"{told.rstrip('.')}.{found}" if found else told, "model") from error
    for name in leaves:
        if changed[name]():
            raise UnsupportedModelError(
                "`model` must leave its parameters as they are while it runs. Got "
                f"`{name}`, changed in place. Change a copy of it."
            )
    subject.check_kept()
    subject.hooks = subject.hooks or recorder.passage.hooked or has_own(logits)
    subject.clips |= subject.hooks and not in_proportion(logits, [*leaves.values()])
    saved.tensors.clear()
    by_output = subject.options.by_output and subject.options.params == "last_layer"
    head = extract(output) if by_output else logits
    late = {k: p for k, p in view.named_parameters() if not stand_ins.stands_in(p)}
    if measured and not subject.differentiates:
        return _Run(recorder, leaves, logits, head, late, saved.total)
    outputs = sum(use.output.numel() for use in recorder.uses if use.output is not None)
    recorder.uses = [_without_rule(use) for use in recorder.uses]
    return _Run(recorder, leaves, logits, head, late, _KEPT * logits.element_size() * outputs)


def _without_rule(use: Use) -> Use:
    """In a model that takes derivatives: what it does with them uses the parameters once more."""
    return replace(use, slots={}, others=(*use.slots.values(), *use.others), rule=None)


def _track_layers(view: nn.Module, recorder: Recorder) -> None:
    for path, module in view.named_modules():

        def enter(*_: Any, path: str = path) -> None:
            recorder.layers.append(path)

        def leave(*_: Any) -> None:
            recorder.layers.pop()

        module.register_forward_pre_hook(enter)
        module.register_forward_hook(leave)


def _layer(view: nn.Module, recorder: Recorder) -> str:
    path = recorder.layer
    kind = type(view.get_submodule(path)).__name__ if path else type(view).__name__
    return f"`model.{path}` ({kind})" if path else f"`model` ({kind})"


def _last_layer(run: _Run) -> tuple[Use, bool]:
    use, exact = run.recorder.source(run.head)
    if use is None or not (use.made if use.rule is None else use.slots):
        place = "" if use is None else f"model.{use.layer}".rstrip(".")
        made = f"`{use.operation}` in `{place}`" if use else "several operations"
        raise NoSingleHeadError(
            "`params` must not be 'last_layer' where no single layer produced the logits. They "
            f"come from {made}. Select them by a function: `params=lambda name, parameter: ...`."
        )
    alone = use.rule is not None and use.rule.shape.positions == 1 and "weight" in use.slots
    whole = alone and not (use.others or use.made)
    return use, exact and whole and use.operation == "linear"


def _lean(use: Use) -> Use:
    """The use without its tensors: a plan is kept as long as the engine, and a graph is large."""
    output = use.output
    if output is not None:  # of a nested one the shape is no other tensor's
        output = None if output.is_nested else torch.empty(output.shape, device="meta")
    rule = None if use.rule is None else replace(use.rule, saved=(), sq_norms=_forgotten)
    return replace(use, output=output, rule=rule, made=())


def _forgotten(saved: Sequence[Tensor], g: Tensor) -> dict[str, Tensor]:
    raise AssertionError("a plan tells of rules; it does not run them")
