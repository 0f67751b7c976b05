"""Passes captured once as CUDA graphs, and replayed.

Python and functorch take tens of milliseconds a pass, in which a GPU does most of its work or waits
for more. A captured pass leaves none of it: its kernels run again, on other numbers at the same
addresses. What a model reads to take its branches is taken from an earlier pass, and compared
after each replay. A batch with fewer samples is filled up with copies of its first.
"""

import contextlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from fastgradnorm._model import Branches, DivergentControlFlowError, Foreseen
from fastgradnorm._process import is_out_of_memory

# A pass over samples: given how branches are settled and tensors `[N, ...]`, a tree of such.
Pass = Callable[..., Any]
_Args = Sequence[Tensor | None]
# Kinds of passes that are captured at most; later ones run as they are.
_MOST = 64
# A batch is filled up to at most so many times its size.
_FILLED = 4


_allowed = True


@contextlib.contextmanager
def as_they_are() -> Iterator[None]:
    """Inside, every pass runs as it is: for what is compared with captured ones."""
    global _allowed
    before, _allowed = _allowed, False
    try:
        yield
    finally:
        _allowed = before


class Captured:
    """One pass on the device, for tensors of the shapes that it was captured with.

    Args:
        run: The pass.
        branches: What an earlier run of it has read.
        args: What it is captured with; copied.
        pool: Memory that the captured passes of one engine share. They run one after another, and
            what one of them returns is copied before the next one runs.

    Raises:
        RuntimeError: Where something in it cannot be captured.
        DivergentControlFlowError: If these samples branch otherwise.
    """

    def __init__(self, run: Pass, branches: Branches, args: _Args, pool: Any) -> None:
        self._inputs = [None if arg is None else arg.clone() for arg in args]
        self._graph = torch.cuda.CUDAGraph()
        foreseen = Foreseen(branches)
        with torch.cuda.graph(self._graph, pool=pool):
            self._outputs = run(foreseen, *self._inputs)
            self._hold = foreseen.hold()

    def __call__(self, args: _Args) -> tuple[Any, Tensor | None]:
        """Outputs, to be copied before anything else runs, and whether branches were the same."""
        for ours, given in zip(self._inputs, args, strict=True):
            if ours is not None and given is not None:
                ours.copy_(given)
        self._graph.replay()
        return self._outputs, self._hold


@dataclass
class _Kind:
    """Passes of one kind and number of samples."""

    branches: Branches
    captured: Captured | None = None
    given_up: bool = False


class Replays:
    """Runs passes; of each kind the first as it is, the second captured, the others replayed.

    Args:
        device: Where. Only CUDA devices have graphs.

    Attributes:
        reason: Why a pass could not be captured, if one could not.
        replayed: How many passes were replayed.
    """

    def __init__(self, device: torch.device) -> None:
        self.reason: str | None = None
        self.replayed = 0
        self._device = device
        self._possible = device.type == "cuda" and torch.backends.cuda.is_built()
        self._pool: Any = None
        self._kinds: dict[Any, dict[int, _Kind]] = {}

    @property
    def on(self) -> bool:
        """Whether passes are captured at all."""
        return self._possible and _allowed

    def key(self, kind: Any, *what: Any) -> Any:
        """A key for passes that do the same; None where the model is given what may change unseen.

        Args:
            kind: How it is called, and what it is given beside tensors of samples. None if not all
                of that is plain.
            what: More that passes depend on.
        """
        if kind is not None:
            return (kind, *what)
        self.reason = "beside samples, `model` is given more than plain values"
        return None

    def run(self, key: Any, run: Pass, args: _Args) -> Any:
        """`run(branches, *args)`, for args `[N, ...]`.

        Args:
            key: What the pass depends on beside the values of `args`; equal for passes that do the
                same. None for one that is never to be captured.
            run: The pass.
            args: Tensors or None, the same of them in each pass of a key.
        """
        if not self.on or key is None:
            return run(Branches(), *args)
        shapes = tuple(None if a is None else (a.shape[1:], a.dtype, a.stride()[1:]) for a in args)
        kinds = self._kinds.setdefault((key, shapes), {})
        count = next(len(arg) for arg in args if arg is not None)
        size = self._fitting(kinds, count)
        if size is None:
            branches = Branches()
            outputs = run(branches, *args)
            if sum(map(len, self._kinds.values())) < _MOST:
                kinds[count] = _Kind(branches)
            return outputs
        kind = kinds[size]
        captured = self._capture(kind, run, args) if kind.captured is None else kind.captured
        if captured is None:
            return run(Branches(), *args)
        outputs, hold = captured([_filled(arg, size) for arg in args])
        outputs = pytree.tree_map(lambda t: t[:count].clone(), outputs)
        if hold is not None and not bool(hold):
            return run(Branches(), *args)
        self.replayed += 1
        return outputs

    def clear(self) -> None:
        """Lets go of all captured passes and of their memory."""
        self._kinds.clear()
        self._pool = None

    def _fitting(self, kinds: dict[int, _Kind], count: int) -> int | None:
        """The number of samples, of those known, that these are to be filled up to."""
        if count in kinds:
            return count
        ready = [size for size, kind in kinds.items() if kind.captured is not None]
        larger = [size for size in ready if count <= size <= _FILLED * count]
        return min(larger, default=None)

    def _capture(self, kind: _Kind, run: Pass, args: _Args) -> Captured | None:
        if kind.given_up:
            return None
        try:
            self._pool = torch.cuda.graph_pool_handle() if self._pool is None else self._pool
            with torch.cuda.device(self._device), warnings.catch_warnings():
                kind.captured = Captured(run, kind.branches, args, self._pool)
        except DivergentControlFlowError:
            return None  # these samples branch otherwise than the first; others may not
        except (RuntimeError, NotImplementedError) as error:
            kind.given_up = True  # what is at fault shows again where it runs as it is
            self.reason = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
            full = is_out_of_memory(error)
        else:
            return kind.captured
        if full:  # captured passes keep memory of their own, which these need
            self._possible = False
            self.clear()
        return None


def _filled(tensor: Tensor | None, size: int) -> Tensor | None:
    """`[N, ...]` with copies of its first row up to `size`."""
    if tensor is None or len(tensor) == size:
        return tensor
    return torch.cat([tensor, tensor[:1].expand(size - len(tensor), *tensor.shape[1:])])
