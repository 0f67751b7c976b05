"""Which passes are traced, and when: where a pool is long enough to repay it."""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from fastgradnorm_kernels.deferred import deferred
from torch import Tensor
from torch.utils import _pytree as pytree

from fastgradnorm._engine.traced import NotTraceableError, Traced, is_safe_here
from fastgradnorm._errors import NOT_THE_MODELS
from fastgradnorm._model import (
    Branches,
    DivergentControlFlowError,
    Foreseen,
    PlanChangedError,
    same,
)
from fastgradnorm._process import is_out_of_memory

# Given how branches are settled and tensors, a tree of tensors.
_Pass = Callable[..., Any]
# Seconds of a pass above which what Python takes is a small part of it: of those of 0.1 to 0.6 s
# (EfficientNet, ResNet-50, ConvNeXt-T, a few images each) 12 to 32 %, of 1.2 s (BERT-base) 5 %. To
# trace one takes as much memory again: where that is bounded, passes of so many seconds only.
_LONGEST, _LONGEST_BOUNDED = 1.5, 0.1
# Tracing takes as long as some 100 passes of little work (MLPs, small CNNs, small transformers,
# recurrent layers), or 20 longer ones; a replay saves half of short ones and a tenth of others. So
# many passes that are to come repay it, or where their number is not known so many that there have
# been; and as many more as often as a pass takes so many seconds.
_COMING, _LONG = 250, 1.0
_BEEN, _SHORT = 24, 0.05
# Kinds of passes that are known at most; each has as many as there are batch sizes.
_MOST = 256
# Replays that were run again as they are, of which a kind is given up, and their share of all.
_MISSED, _SHARE = 8, 0.25
# How it is told, where it is told on purpose, that a pass cannot be traced.
_UNTRACEABLE = (
    NotTraceableError,
    NotImplementedError,
    RuntimeError,
    DivergentControlFlowError,
    PlanChangedError,
)
# Replays of which one must take less than every pass before.
_TRIES = 5
# PyTorch replaces methods of all modules while it traces, and puts back what it found. Of threads
# that do so at once one fails, or leaves the other's behind. Nobody waits: a later pass is traced.
_tracing = threading.Lock()


@dataclass
class _Kind:
    """Passes of one kind and number of samples.

    Attributes:
        seconds: Of the fastest so far.
        own: The same of this thread alone, to which it is nothing how busy the machine is.
        runs: So far, as they are.
        replays: So far.
        missed: Replays that did not hold.
        traced: The pass, if it was traced.
        given_up: Whether it is run as it is for good.
        tries: Times it was traced with samples that are special.
        earlier: What the last run was given, if that was one sample.
    """

    seconds: float = float("inf")
    own: float = float("inf")
    runs: int = 0
    replays: int = 0
    missed: int = 0
    traced: Traced | None = None
    given_up: bool = False
    tries: int = 0
    earlier: Sequence[Tensor | None] = ()


class Traces:
    """Runs passes; those of a kind of little work that comes often from their traces.

    Args:
        blamed: Whether what was raised last came from the caller's model, which may not be
            traceable; errors of the engine's own surface.

    Attributes:
        coming: Samples that are still to come, as far as that is known.
        bounded: Whether the caller bounds the memory.
        passes: How many passes there were.
        replayed: How many of them were replayed.
        traced: How many kinds of passes were traced.
        seconds: What that took, attempts included.
        reason: Why a pass could not be traced, if one could not.
    """

    def __init__(self, blamed: Callable[[], bool]) -> None:
        self.blamed = blamed
        self.coming: int | None = None
        self.bounded = False
        self.passes = self.replayed = self.traced = 0
        self.seconds = 0.0
        self.reason: str | None = None
        self._kinds: dict[Any, _Kind] = {}

    def run(self, key: Any, run: _Pass, args: Sequence[Tensor | None]) -> Any:
        """`run(branches, *args)`, for args `[N, ...]`; as in `Replays.run`."""
        self.passes += 1
        shapes = tuple(None if a is None else (a.shape, a.dtype, a.stride()) for a in args)
        cast = torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")
        kind = self._kinds.get((key, shapes, cast))
        if kind is None:
            kind = _Kind()
            if len(self._kinds) < _MOST:
                self._kinds[key, shapes, cast] = kind
        if kind.traced is not None:
            found = _replayed(kind, args)
            if found is not None:
                self.replayed += 1
                return found[0]
            if kind.given_up:
                self.reason = "too many batches branch otherwise, or have norms that cancel"
        if kind.given_up:
            return run(Branches(), *args)
        branches, start, own = Branches(), time.perf_counter(), time.thread_time()
        outputs = run(branches, *args)
        kind.own = min(kind.own, time.thread_time() - own)
        kind.seconds = min(kind.seconds, time.perf_counter() - start)
        kind.runs += 1
        repays = outputs is not None and self._repays(kind, args)
        if repays and not is_safe_here():
            repays, self.reason = (
                False,
                "this PyTorch, without a GPU, traces in the main thread alone",
            )
        if repays and _tracing.acquire(blocking=False):
            start = time.perf_counter()
            try:
                self._trace(kind, run, branches, args, outputs)
            finally:
                _tracing.release()
            self.seconds += time.perf_counter() - start
        if kind.traced is None and not kind.given_up and _count(args) == 1:
            kind.earlier = args
        return outputs

    def told(self) -> dict[str, Any]:
        """How many passes were replayed, what tracing took, and why what was not traced was not."""
        known = "passes", "replayed", "traced", "seconds"
        return {name: getattr(self, name) for name in known} | {"reason": self._why_not()}

    def _why_not(self) -> str | None:
        if self.reason is not None or self.traced or not self._kinds:
            return self.reason
        least = min(kind.seconds for kind in self._kinds.values())
        if least > self._longest:
            why = "replays save a small part of it"
            if least <= _LONGEST:
                why = "tracing takes memory, which `max_memory` bounds"
            return f"a pass takes {least:.2g} s, and beyond {self._longest} s {why}"
        if self.coming is None:
            return f"too few passes of one kind ran to repay it: {_BEEN} or more do"
        return f"too few passes are to come to repay it: {_COMING} or more do"

    def clear(self) -> None:
        """Lets go of all traced passes."""
        self._kinds.clear()

    @property
    def _longest(self) -> float:
        return min(_LONGEST, _LONGEST_BOUNDED) if self.bounded else _LONGEST

    def _repays(self, kind: _Kind, args: Sequence[Tensor | None]) -> bool:
        if kind.runs < 2 or kind.seconds > self._longest:
            return False
        if self.coming is None:
            return kind.runs >= _BEEN * (1 + kind.seconds / _SHORT)
        return self.coming >= _COMING * (1 + kind.seconds / _LONG) * _count(args)

    def _trace(
        self,
        kind: _Kind,
        run: _Pass,
        branches: Branches,
        args: Sequence[Tensor | None],
        outputs: Any,
    ) -> None:
        given = [arg for arg in args if arg is not None]
        others = kind.earlier if _count(args) == 1 else [_turned(arg) for arg in args]
        other = [arg for arg in others if arg is not None]
        if len(other) < len(given) or all(map(same, given, other)):
            kind.runs = 0  # to wait for samples that tell whether anything was taken as given
            return

        def passed(*tensors: Tensor) -> tuple[Any, Tensor | None]:
            left, foreseen = iter(tensors), Foreseen(branches)
            with deferred() as asked:
                made = run(foreseen, *(None if arg is None else next(left) for arg in args))
            holds = [foreseen.hold(), *(~each for each in asked)]
            known = [each for each in holds if each is not None]
            return made, torch.stack(known).all() if known else None

        kind.given_up = True
        try:
            traced = Traced(passed, given)
            found, holds = traced(given)
            anew, apply = traced(other)
            follows = _alike(anew, run(Branches(), *others))
        except Exception as error:  # the pass itself has just been run
            theirs = isinstance(error, _UNTRACEABLE) or self.blamed()
            if not theirs or isinstance(error, NOT_THE_MODELS) or is_out_of_memory(error):
                raise
            first = str(error).strip().partition("\n")[0]
            self.reason = f"{type(error).__name__}: {first}"
            return
        if any(known is not None and not bool(known) for known in (holds, apply)):
            kind.tries += 1
            # These samples are special. Others need not be; but of long passes one try is enough.
            kind.given_up = kind.tries > _MISSED or kind.seconds > _LONGEST_BOUNDED
            if kind.given_up:
                self.reason = "norms cancel, or batches branch otherwise"
            kind.runs = 0
        elif not _alike(found, outputs):
            self.reason = "the traced pass gives other numbers"
        elif not follows:  # what PyTorch does not show was taken as it was
            self.reason = "the traced pass gives other numbers for other samples"
        elif any(_seconds(traced, given) < kind.own for _ in range(_TRIES)):
            kind.traced, kind.given_up = traced, False
            self.traced += 1
        else:
            self.reason = "a replay takes as long as the pass itself"


def _replayed(kind: _Kind, args: Sequence[Tensor | None]) -> tuple[Any] | None:
    """What the traced pass makes of these; None if it is to be run as it is."""
    assert kind.traced is not None
    kind.replays += 1
    try:
        outputs, holds = kind.traced([arg for arg in args if arg is not None])
    except (RuntimeError, IndexError) as error:
        if isinstance(error, NOT_THE_MODELS) or is_out_of_memory(error):
            raise
        # As for a label or an id that is out of range: the pass itself says of what.
    else:
        if holds is None or bool(holds):
            return (outputs,)
    kind.missed += 1
    if kind.missed > max(_MISSED, _SHARE * kind.replays):
        kind.traced, kind.given_up = None, True
    return None


def _count(args: Sequence[Tensor | None]) -> int:
    """How many samples there are."""
    return next(len(arg) for arg in args if arg is not None)


def _turned(arg: Tensor | None) -> Tensor | None:
    """The samples in the opposite order, lying in memory as they do."""
    if arg is None or arg.is_contiguous():
        return None if arg is None else arg.flip(0)
    if 0 in arg.stride():
        return arg  # one for all, perhaps
    return torch.empty_strided(arg.shape, arg.stride(), dtype=arg.dtype, device=arg.device).copy_(
        arg.flip(0)
    )


def _seconds(traced: Traced, args: Sequence[Tensor]) -> float:
    start = time.thread_time()
    traced(args)
    return time.thread_time() - start


def _alike(a: Any, b: Any) -> bool:
    """Whether two trees hold the same bits."""
    (ours, spec), (theirs, other) = pytree.tree_flatten(a), pytree.tree_flatten(b)
    return spec == other and all(map(same, ours, theirs))
