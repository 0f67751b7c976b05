"""A last layer by one plain forward pass over a whole batch, as the model's owner runs it.

No transform, no derivative: the pass costs what a forward pass costs. That samples do not mix in it
is not seen here. Who allows it has compared such a call with samples alone; and where the model
reads a value, which may be of several samples, it is left. Its operations are watched once; those
of which nothing had to be done but to call them are only called from then on.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from fastgradnorm._engine.head_input import HeadInput
from fastgradnorm._errors import NOT_THE_MODELS
from fastgradnorm._model import (
    READING,
    Batch,
    Passage,
    Pieces,
    PlanChangedError,
    StandIns,
    Subject,
    check_copies,
    check_memory,
    is_only_called,
    may_be_in_place,
)
from fastgradnorm._operations import COPIED, table, tensors_in
from fastgradnorm._process import is_out_of_memory

# Operations of a model, beyond which they are taken for ones that it makes itself.
_MOST = 1 << 10
# Calls of which the host learns something of all samples: values, or how many there are of some.
_TOLD = READING | {"__array__", "argwhere", "masked_select", "nonzero", "numpy", "unique"}
_TOLD |= {"unique_consecutive"}
_CONVOLUTIONS = frozenset({F.conv2d, F.conv_transpose2d})
# Of which PyTorch's own call is the fastest for many samples.
_LAYERS = _CONVOLUTIONS | {
    *(F.conv1d, F.conv3d, F.conv_transpose1d, F.conv_transpose3d, F.linear, F.batch_norm),
    *(F.group_norm, F.instance_norm, F.layer_norm, F.rms_norm, torch.rms_norm, torch.cat),
}

# Which are written out for samples by themselves.
_WHOLE = frozenset({torch.gru_cell, torch.lstm_cell, torch.rnn_relu_cell, torch.rnn_tanh_cell})
_WHOLE |= {torch.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d, torch.prelu}


class Head(NamedTuple):
    """What a last layer was given and what came of it.

    Attributes:
        logits: `[N, C]`.
        features: `[N, D]`.
    """

    logits: Tensor
    features: Tensor


class _ApartError(Exception):
    """The samples have to be run each by itself."""


@dataclass
class Seen:
    """What the passes of a model have shown of its operations.

    Attributes:
        harmless: (parameter, function) pairs that read a parameter without a gradient.
        plain: Those that are only called, unless it is with a parameter of the last layer.
        watched: Those that are watched each time, as what they did was more than that.
        channels_last: Whether images may have the channels last in memory.
        settled: Whether nothing is noted any more: a model may make functions anew each time.
        compared: Of how many samples a pass was at most of which some were compared with samples
            alone, for each way in which the model was called.
    """

    harmless: frozenset[tuple[str, str]] = frozenset()
    plain: set[Callable[..., Any]] = field(default_factory=set)
    watched: set[Callable[..., Any]] = field(default_factory=set)
    channels_last: bool = True
    settled: bool = False
    compared: dict[Any, int] = field(default_factory=dict)

    @property
    def has_layout(self) -> bool:
        """Whether there are convolutions, which are faster so."""
        return self.channels_last and not _CONVOLUTIONS.isdisjoint(self.plain)

    def add(self, found: Mapping[Callable[..., Any], bool]) -> None:
        """Notes which operations of one pass were plain, at each of their calls."""
        self.settled = len(self.plain | self.watched) > _MOST
        self.watched.update(func for func, plain in found.items() if not plain)
        self.plain.update(found)
        self.plain -= self.watched


class _Rows(HeadInput):
    """As that, of a plain pass of many samples.

    Args:
        tracked: Parameters of the last layer.
        stand_ins: As of any watch.
        passage: Likewise.
        seen: What is known of the model's operations.
        laid_out: Whether images have the channels last in memory.

    Attributes:
        found: Operations that were not known, and whether they were plain.
    """

    def __init__(
        self,
        tracked: Mapping[str, Tensor],
        stand_ins: StandIns,
        passage: Passage,
        seen: Seen,
        laid_out: bool,
    ) -> None:
        super().__init__(Pieces(tracked), stand_ins, passage, (), seen.harmless)
        self._laid_out = laid_out
        self._own, self._seen = set(map(id, tracked.values())), seen
        self._calls: list[_Call] = []
        self.found: dict[Callable[..., Any], bool] = {}

    @property
    def linked(self) -> bool:
        """Without gradients it is not seen what the model itself keeps out of its graph."""
        return True

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        name, kwargs = getattr(func, "__name__", ""), kwargs or {}
        ids = [*_ids((*args, *kwargs.values()))]
        others = self._own.isdisjoint(ids)
        alone = others and not self.stand_ins.swaps(ids)
        plain = func in self._seen.plain or func in _WHOLE
        plain = plain or (name == "__getitem__" and _is_view(args[1]))
        if plain and alone and not self._may_harm(name, args, kwargs):
            return func(*args, **kwargs)
        if name in _TOLD or (name == "where" and len(args) == 1 and not kwargs):
            raise _ApartError
        call = _Call(func, args)
        self._calls.append(call)
        try:
            output = super().__torch_function__(func, types, args, kwargs)
        finally:
            self._calls.pop()
        if others and func not in self._seen.watched:
            plain = call.plain and is_only_called(name)
            if not plain or func not in self._seen.plain:
                self.found[func] = self.found.get(func, True) and plain
        return output

    def _may_harm(self, name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
        """Whether it may change what is the caller's, or a copy that would have been a view."""
        if torch.is_inference_mode_enabled() or kwargs.get("out") is not None:
            return True
        if not args or not may_be_in_place(name, args, kwargs):
            return False
        return hasattr(args[0], COPIED) or self.stand_ins.stands_in(args[0])

    def plain(
        self,
        func: Callable[..., Any],
        tensors: Sequence[Tensor],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
    ) -> Any:
        """Calls a layer as it is: its form is for samples by themselves."""
        if self.pieces.among(tensors):
            made = super().plain(func, tensors, args, kwargs)
            self._own.update(map(id, tensors_in([made], {})))
            return made
        operation, call = table.known(func), self._calls[-1]
        formed = operation.form is not None and not operation.several and func not in _LAYERS
        if formed or operation.opened is not None:  # which may do more another time
            return self.run(func, args, kwargs)
        call.plain = call.func is func and call.args is args
        if not self._laid_out:
            return func(*args, **kwargs)
        name = getattr(func, "__name__", "")
        check_copies(name, args, kwargs)
        output = func(*args, **kwargs)
        check_memory(name, args, kwargs, output)
        return output


def _is_view(index: Any) -> bool:
    """Whether an index is of numbers alone, as of a step in a loop over them."""
    for part in index if type(index) is tuple else (index,):
        bounds = (part.start, part.stop, part.step) if type(part) is slice else (part,)
        if not all(each is None or each is ... or type(each) is int for each in bounds):
            return False
    return True


def _ids(values: Iterable[Any]) -> Iterator[int]:
    """Of arguments, and of those in a list."""
    for value in values:
        yield id(value)
        if type(value) in (list, tuple):
            yield from map(id, value)


@dataclass
class _Call:
    """One that is watched: whether nothing came of that but the call itself."""

    func: Callable[..., Any]
    args: Sequence[Any]
    plain: bool = False


def head_together(
    subject: Subject,
    batch: Batch,
    leaves: Sequence[Tensor],
    names: Sequence[str],
    width: tuple[int, int],
    passage: Passage,
    seen: Seen,
) -> Head | None:
    """Runs the model once on all samples; once more where its operations were not known before.

    So a pass does the same, to the bit, whichever came before it.

    Args:
        subject: The model.
        batch: How it is called.
        leaves: The samples.
        names: Parameters of its last layer.
        width: Inputs and outputs of that.
        passage: How the model is run.
        seen: What earlier passes have shown of it; what this one shows is added.

    Returns:
        None where that does not tell each sample's features and logits.
    """
    tracked = {name: value.detach() for name, value in subject.values(names).items()}
    while True:
        laid_out = passage.settings.channels_last and seen.has_layout
        view, stand_ins = subject.view(tracked)
        mode = _Rows(tracked, stand_ins, passage, seen, laid_out)
        try:
            with torch.no_grad():
                given = [_laid_out(leaf, laid_out) for leaf in leaves]
                logits = subject.rows(view, batch, given, mode)
            same = logits is not None and mode.is_output(logits)
        except (_ApartError, PlanChangedError):
            return None
        except Exception as error:
            if is_out_of_memory(error) or isinstance(error, NOT_THE_MODELS):
                raise
            subject.blamed = False
            if not laid_out:
                return None  # what a model raises for a batch it may not raise for one sample
            seen.channels_last = False
            continue
        if not mode.found or seen.settled:
            break
        seen.add(mode.found)
    return _read(mode, logits, same, len(leaves[0]), width)


def _laid_out(leaf: Tensor, channels_last: bool) -> Tensor:
    """A copy, of images with the channels last where convolutions are to see them so."""
    if channels_last and leaf.dim() == 4 and leaf.is_floating_point():
        return leaf.clone(memory_format=torch.channels_last)
    return leaf.clone()


def _read(
    mode: _Rows, logits: Tensor | None, same: bool, count: int, width: tuple[int, int]
) -> Head | None:
    """What a pass tells of `count` samples, by a layer of so many inputs and outputs."""
    inputs, outputs = width
    given, made = mode.given, mode.output
    if given is None or made is None or logits is None or logits.shape != (count, outputs):
        return None
    if given.numel() != count * inputs or made.numel() != count * outputs:
        return None
    made = made.reshape(logits.shape).to(logits.dtype)
    if not same and not torch.allclose(logits, made, equal_nan=True):
        return None  # more than this layer made them, or its rows are in another order
    return Head(logits, given.reshape(count, inputs))
