"""Convolutions in float32 that are float32, while exact scores are made.

PyTorch multiplies float32 matrices as they are unless TF32 is asked for, but lets cuDNN round what
convolutions multiply to TF32, out of the box: 10 bits of 23, and scores that are off by 1e-4. So
there is one switch for both here, that of the matrix products: where TF32 is not asked for by it,
cuDNN does without, and is told again afterwards what it was told before.
"""

import contextlib
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch

_running = 0  # blocks that want it; the switches are the process's
_put_back: Callable[[], None] | None = None
_lock = threading.Lock()


class float32_as_asked(AbstractContextManager[None]):
    """No TF32 within, in any thread, unless the caller asked for it in matrix products."""

    def __enter__(self) -> None:
        global _running, _put_back
        with _lock:
            _running += 1
            if _running == 1:
                _put_back = _without_tf32()

    def __exit__(self, *_: object) -> None:
        global _running, _put_back
        with _lock:
            _running -= 1
            if _running == 0 and _put_back is not None:
                _put_back()
                _put_back = None


def _without_tf32() -> Callable[[], None] | None:
    """Switches cuDNN's off, and returns what puts it back; None where there is nothing to do."""
    if torch.backends.cuda.matmul.fp32_precision == "tf32":
        return None
    cudnn: Any = torch.backends.cudnn
    asked = [part for part in (cudnn.conv, cudnn.rnn) if part.fp32_precision == "tf32"]
    if not asked:
        return None
    # By the older switch where that is enough: once the newer ones differ from it, reading it
    # raises, and a model may read it. It raises here where the caller has used both.
    with contextlib.suppress(RuntimeError):
        if cudnn.allow_tf32:
            cudnn.allow_tf32 = False
            if all(part.fp32_precision != "tf32" for part in asked):
                return lambda: setattr(cudnn, "allow_tf32", True)
            cudnn.allow_tf32 = True
    for part in asked:
        part.fp32_precision = "ieee"

    def put_back() -> None:
        for part in asked:
            part.fp32_precision = "tf32"

    return put_back
