"""One plain pass over one sample: which parameters are used where, and how each is counted."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fastgradnorm._batches import Batch
from fastgradnorm._coverage import Coverage, Edges, check_reached, cover
from fastgradnorm._errors import CoverageError, UnsupportedModelError
from fastgradnorm._pieces import Pieces
from fastgradnorm._record import Recorder, Use
from fastgradnorm._subject import Subject
from fastgradnorm._validate import type_name

# Working memory of one chunk of samples and cotangents, in bytes. On two cores 128 to 256 MiB were
# fastest for convolutional networks, 256 and more for transformers; less and much more were slower.
_CHUNK_BYTES = {"cpu": 1 << 28}
_CHUNK_BYTES_GPU = 1 << 30


@dataclass(frozen=True)
class Plan:
    """How a forward pass of this shape is scored.

    Attributes:
        coverage: How each parameter is counted.
        harmless: (parameter, function) pairs that read a parameter without a gradient.
        uses: Every use of a chosen parameter, in order.
        logits_shape: `[*positions, C]`.
        exact_head: The last layer's output *is* the logits, at one position.
        activation_bytes: What one sample keeps for its backward pass.
        transient_bytes: What one sample and cotangent need at a time.
        chunk_bytes: What a chunk of them may need.
    """

    coverage: Coverage
    harmless: frozenset[tuple[str, str]]
    uses: tuple[Use, ...]
    logits_shape: tuple[int, ...]
    exact_head: bool
    activation_bytes: int
    transient_bytes: int
    chunk_bytes: int

    @property
    def names(self) -> tuple[str, ...]:
        """Parameters that are counted, in the order of their squared norms."""
        return tuple(dict.fromkeys(self.coverage.columns))

    @property
    def tracked(self) -> tuple[str, ...]:
        """All chosen parameters: another pass may use one that this one did not."""
        return (*self.names, *self.coverage.unused)

    def chunks(self, samples: int, cotangents: int) -> tuple[int, int]:
        """Samples and cotangents to work on at a time."""
        per_pair = max(1, self.transient_bytes)
        cotangents = max(1, min(cotangents, self.chunk_bytes // per_pair))
        per_sample = self.activation_bytes + per_pair * cotangents
        return max(1, min(samples, self.chunk_bytes // max(1, per_sample))), cotangents


def make_plan(subject: Subject, batch: Batch) -> Plan:
    """Plans from the first sample of `batch`.

    Raises:
        ValueError: If the model cannot run on that sample.
        UnsupportedModelError: If a layer has no exact per-sample gradient.
        CoverageError: If a chosen parameter's use cannot be accounted for.
    """
    run = _record(subject, batch)
    edges = Edges(run.logits, subject.parameters)
    leaves, exact_head = run.leaves, False
    if subject.options.params == "last_layer":
        head, exact_head = _last_layer(run)
        chosen = {piece.name for piece in head.slots.values()}
        leaves = {name: leaf for name, leaf in leaves.items() if name in chosen}
        exact_head = exact_head and run.logits.dim() == 1
    coverage = cover(run.recorder, edges, leaves)
    check_reached(any(edges.into(leaf) for leaf in leaves.values()), list(leaves))
    pieces = [{p.name for p in (*u.slots.values(), *u.others)} for u in run.recorder.uses]
    uses = tuple(u for u, names in zip(run.recorder.uses, pieces, strict=True) if names & {*leaves})
    lone = len(coverage.taps) == 1 and not coverage.joints and not coverage.leftovers
    return Plan(
        coverage=coverage,
        harmless=frozenset(run.recorder.harmless),
        uses=uses,
        logits_shape=tuple(run.logits.shape),
        exact_head=exact_head and lone,
        activation_bytes=run.saved_bytes,
        transient_bytes=_transient_bytes(uses, subject, coverage.leftovers),
        chunk_bytes=_CHUNK_BYTES.get(subject.device.type, _CHUNK_BYTES_GPU),
    )


@dataclass
class _Run:
    recorder: Recorder
    leaves: dict[str, Tensor]
    logits: Tensor
    saved_bytes: int


def _record(subject: Subject, batch: Batch) -> _Run:
    values = subject.values(list(subject.chosen))
    leaves = {name: v.detach().requires_grad_() for name, v in values.items()}
    versions = {name: v._version for name, v in leaves.items()}
    view, swaps = subject.view(leaves)
    recorder = Recorder(Pieces(leaves, indexed=True), swaps, subject.options.backend)
    _track_layers(view, recorder)
    saved = _SavedBytes(leaves.values())
    inputs = [leaf[:1].clone() for leaf in batch.leaves]
    try:
        with torch.autograd.graph.saved_tensors_hooks(saved.note, lambda tensor: tensor), recorder:
            logits = subject.run(view, batch, inputs)
    except UnsupportedModelError as error:
        raise UnsupportedModelError(f"{_layer(view, recorder)}: {error}") from error
    except CoverageError:
        raise
    except Exception as error:
        given = ", ".join(type_name(x) for x in inputs)
        raise ValueError(
            f"`model` must run on one sample of the loader. It failed in {_layer(view, recorder)} "
            f"on {given}: {type(error).__name__}: {error}"
        ) from error
    for name, leaf in leaves.items():
        if leaf._version != versions[name]:
            raise UnsupportedModelError(
                f"the forward pass changes the parameter `{name}` in place."
            )
    subject.note_changes()
    return _Run(recorder, leaves, logits, saved.total)


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


class _SavedBytes:
    """Adds up what autograd keeps for one sample, parameters apart."""

    def __init__(self, parameters: Iterable[Tensor]) -> None:
        self.seen = {p.untyped_storage().data_ptr() for p in parameters}
        self.total = 0

    def note(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self.seen:
            self.seen.add(storage.data_ptr())
            self.total += storage.nbytes()
        return tensor


def _last_layer(run: _Run) -> tuple[Use, bool]:
    use, exact = run.recorder.source(run.logits)
    if use is None or use.rule is None or not use.slots:
        made = f"`{use.operation}` in `model.{use.layer}`" if use else "several operations"
        raise ValueError(
            "`params` must not be 'last_layer' where no single layer produced the logits. They "
            f"come from {made}. Select them by a function: `params=lambda name, parameter: ...`."
        )
    whole = use.rule.shape.positions == 1 and "weight" in use.slots and not use.others
    return use, exact and whole and use.operation == "linear"


def _transient_bytes(uses: Sequence[Use], subject: Subject, leftovers: Sequence[str]) -> int:
    """The largest step of a pull-back: a gradient, what its rule makes of it, and copies."""
    width = 8 if subject.dtype == torch.float64 else 4
    outputs = max([use.output.numel() for use in uses if use.output is not None], default=1)
    largest = max([subject.parameters[name].numel() for name in leftovers], default=0)
    return width * (4 * outputs + 2 * largest)
