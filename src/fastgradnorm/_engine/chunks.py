"""How many samples and cotangents are worked on at a time: planned, and halved when memory ends."""

import bisect
import gc
import warnings
from collections.abc import Callable
from typing import NamedTuple, TypeVar

import torch

from fastgradnorm._engine.plan import Plan
from fastgradnorm._errors import ArgumentError, SlowPathWarning
from fastgradnorm._model import Batch
from fastgradnorm._process import allowed_bytes, in_words, is_out_of_memory

R = TypeVar("R")

# Working memory of a chunk on the CPU in bytes. More than the first figure pays less and less: 256
# MiB made a ResNet-18 5 % and a ViT 5 to 15 % faster. Up to the second is taken while fewer than
# `_ENOUGH` cotangents are pulled back at once, for every pass has a fixed cost.
_PAYS, _MOST, _ENOUGH = 160 << 20, 240 << 20, 64
# But a pass calls Python for each operation, and lays each weight out anew: so many bytes an
# operation, and so many times those of weights, are worth that.
_AN_OPERATION, _WEIGHTS, _SHARE = 6 << 20, 3, 4
# On a GPU that cost is some tens of milliseconds in which the device must not run out of work: so
# many cotangents, or so many bytes of small ones, keep it busy. By counting, not measured. Half of
# what may be used is left to what estimates do not see: libraries, and holes between tensors.
_PAYS_GPU, _ENOUGH_GPU, _SHARE_GPU = 4 << 30, 1 << 13, 0.5
_NO_LIMIT = 1 << 40
# Samples gathered over the batches of a loader: a chunk of more than the first has hardly a fixed
# cost, and those of all shapes together may take the second, or this share of what is allowed.
_GATHERED, _HELD, _HELD_SHARE = 1 << 12, 256 << 20, 8


class Limits(NamedTuple):
    """What bounds a chunk; equal limits cut a batch alike.

    Attributes:
        bytes: Working memory of a chunk.
        cotangents: Most at a time.
    """

    bytes: int
    cotangents: int


class Chunks:
    """Cuts batches into chunks that fit into memory.

    Args:
        max_memory: Bytes, or the share of what is free; None leaves some of the free.
        device: Where the chunks are worked on.

    Attributes:
        limits: What bounds a chunk now. Running out of memory lowers them for good.
        halved: Whether it has.
    """

    def __init__(self, max_memory: int | float | None, device: torch.device) -> None:
        allowed = allowed_bytes(max_memory, device)
        self._on_cpu = device.type == "cpu"
        if max_memory is None and not self._on_cpu:
            allowed = max(1, int(allowed * _SHARE_GPU))
        self.limits = Limits(allowed, _NO_LIMIT)
        self._asked, self._exact = max_memory is not None, isinstance(max_memory, int)
        self._device = device
        self._pays, self._enough = (_PAYS, _ENOUGH) if self._on_cpu else (_PAYS_GPU, _ENOUGH_GPU)
        self._warned = False
        self.halved = False

    @property
    def _most(self) -> int:
        """Working memory of a chunk, of samples and cotangents that there are already."""
        return _MOST if self._on_cpu else self.limits.bytes

    def _worth(self, plan: Plan) -> int:
        """Working memory of a chunk beside whose work what each pass costs is little."""
        if not self._on_cpu:
            return self._pays
        operations, weights = plan.fixed
        fixed = operations * _AN_OPERATION + _WEIGHTS * weights
        return max(self._pays, min(fixed, self.limits.bytes // _SHARE))

    def resume(self, limits: Limits) -> None:
        """Cuts as a run before did, as far as `max_memory` bytes allow."""
        most = min(limits.bytes, self.limits.bytes) if self._exact else limits.bytes
        self.limits = Limits(most, limits.cotangents)

    def cotangents(self, plan: Plan, count: int) -> int:
        """Of `count` cotangents, those of one chunk."""
        fitting = _most(count, self.limits.bytes, lambda k: plan.bytes(1, k, count))
        most = self._most // max(1, plan.transient_bytes)
        return max(1, min(fitting, most, self.limits.cotangents))

    def sizes(self, plan: Plan, samples: int, count: int) -> tuple[int, int]:
        """Samples and cotangents of one chunk. A `count` of 0: a forward pass alone.

        Raises:
            ValueError: If `max_memory` is less than a single sample and cotangent need.
        """
        cotangents = self.cotangents(plan, count) if count else 0
        least = plan.bytes(1, min(1, cotangents), count)
        if self._asked and least > self.limits.bytes:
            raise ArgumentError(
                f"`max_memory` must be at least {in_words(least)} ({least} bytes) for one sample "
                f"of this model. Got {in_words(self.limits.bytes)} ({self.limits.bytes} bytes). "
                "Raise it, shorten the inputs, use `autocast` or a model of a smaller dtype, or "
                "count fewer parameters with `params`.",
                "max_memory",
            )
        size = _most(samples, self.limits.bytes, lambda n: plan.bytes(n, cotangents, count))
        if count:
            each = max(1, plan.activation_bytes + cotangents * plan.transient_bytes)
            enough = min(-(-self._enough // cotangents), self._most // each)
            size = min(size, max(enough, self._worth(plan) // each))
        return max(1, size), cotangents

    def gathered(
        self, plan: Plan, count: int, each: int, held: int | None = None
    ) -> tuple[int, int]:
        """Samples of one chunk, of as many as there may be, and the bytes of all that may wait.

        Args:
            plan: Of the chunk.
            count: Of cotangents of a sample.
            each: Bytes of a sample itself.
            held: What may wait, if that is known.
        """
        cotangents = self.cotangents(plan, count) if count else 0
        limit = self.limits.bytes
        share = max(1, min(_HELD, limit // _HELD_SHARE)) if held is None else held

        def needed(samples: int) -> int:
            waiting = samples * each if held is None else held
            return plan.bytes(samples, cotangents, count) + waiting

        size = max(1, _most(max(1, min(_GATHERED, share // each)), limit, needed))
        size = min(size, self.sizes(plan, size, count)[0])
        if not count:
            size = min(size, max(1, self._pays // max(1, plan.activation_bytes)))
        left = limit - plan.bytes(size, cotangents, count)
        return size, max(size * each, min(share, left))

    def run(self, score: Callable[[Batch], R], batch: Batch, plan: Plan, count: int) -> list[R]:
        """`score` of all samples, chunk by chunk in order; a chunk too large is tried in halves.

        Raises:
            MemoryError: If one sample and one cotangent are too much.
        """
        parts: list[R] = []
        start, shrunk = 0, False
        while start < len(batch):
            left = len(batch) - start
            samples, cotangents = self.sizes(plan, left, count)
            samples = -(-left // -(-left // samples))  # as many chunks, equally large
            chunk = batch
            if samples < len(batch):
                chunk = batch.take(slice(start, start + samples))
            try:
                parts.append(score(chunk))
                start += samples
                continue
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                reason = str(error).strip().partition("\n")[0]
            # Out here the error's traceback, and all the tensors it held, are gone.
            del chunk
            self.halved = True
            self._shrink(plan, samples, cotangents, count, reason)
            shrunk = True
        if shrunk and not self._warned:
            self._warned = True
            samples, cotangents = self.sizes(plan, len(batch), count)
            at_a_time = f"{samples} samples" + (f" and {cotangents} cotangents" if count else "")
            warnings.warn(
                f"Memory ran out on {self._device}. Nothing is lost: scoring goes on with "
                f"{at_a_time} at a time. `max_memory` keeps it smaller from the start.",
                SlowPathWarning,
                stacklevel=2,
            )
        return parts

    def _shrink(self, plan: Plan, samples: int, cotangents: int, count: int, reason: str) -> None:
        if self._device.type == "cuda":
            gc.collect()  # circles of the caller's, too
            torch.cuda.empty_cache()
        if samples > 1:
            half = plan.bytes(samples // 2, cotangents, count)
            self.limits = self.limits._replace(bytes=min(half, self.limits.bytes))
            self._asked = False  # this bound is the device's
        elif cotangents > 1:
            self.limits = self.limits._replace(cotangents=cotangents // 2)
        else:
            needed = plan.bytes(1, cotangents, count)
            raise MemoryError(
                f"One sample needs about {in_words(needed)} ({needed} bytes) beside the model, and "
                f"{self._device} has no room for it. Free memory, choose another `device`, shorten "
                "the inputs, use `autocast` or a model of a smaller dtype, or count fewer "
                f"parameters with `params`. What ran out: {reason}"
            )


def _most(count: int, limit: int, cost: Callable[[int], int]) -> int:
    """The largest number up to `count` whose cost, which grows with it, is within the limit."""
    if cost(count) <= limit:
        return count
    return bisect.bisect_right(range(1, count + 1), limit, key=cost)
