"""The caller's `.grad`, kept from what is pulled back."""

import contextlib
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor


@dataclass
class _Aside:
    """What a tensor had before the first block that it is in, and how many it is in."""

    tensor: Tensor
    gradient: Tensor | None
    blocks: int = 0


_aside: dict[int, _Aside] = {}  # by `id`; of all threads, for tensors are the process's
_lock = threading.Lock()


@contextlib.contextmanager
def gradients_aside(tensors: Sequence[Tensor]) -> Iterator[None]:
    """Leaves have no `.grad` inside, and afterwards the same object as before, with its values.

    To ask for gradients of some tensors leaves those of others alone, but a custom function, a hook
    or a forward pass may call `backward()` itself, which adds to `.grad` wherever it comes by. What
    is put aside is not added to, so that no copy of it is needed.
    """
    with _lock:
        for tensor in tensors:
            known = _aside.get(id(tensor))
            if known is None:
                known = _aside[id(tensor)] = _Aside(tensor, tensor.grad)
            known.blocks += 1
            if known.gradient is not None:
                tensor.grad = None
    try:
        yield
    finally:
        with _lock:
            for tensor in tensors:
                known = _aside[id(tensor)]
                known.blocks -= 1
                if known.blocks == 0:
                    del _aside[id(tensor)]
                    if tensor.grad is not known.gradient:
                        tensor.grad = known.gradient
