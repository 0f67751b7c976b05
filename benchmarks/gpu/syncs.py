"""Where a pass waits for the device, by PyTorch's own watch over synchronising calls."""

import sys
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch

_WAITS = "called a synchronizing"
_OURS = ("fastgradnorm", "fastgradnorm_kernels")


def _place(frame: FrameType | None) -> str:
    """The innermost lines of ours that are at work, and where they called to."""
    stack = traceback.extract_stack(frame)
    ours = [f for f in stack if any(f"/{name}/" in f.filename for name in _OURS)]
    chosen = [*ours[-2:], *([stack[-1]] if stack and (not ours or stack[-1] != ours[-1]) else [])]
    return " < ".join(
        f"{'/'.join(f.filename.split('/')[-2:])}:{f.lineno} {f.name}" for f in reversed(chosen)
    )


@contextmanager
def _watched(cuda: bool) -> Iterator[None]:
    if not cuda:
        yield
        return
    torch.cuda.set_sync_debug_mode("warn")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def places(run: Callable[[], Any], cuda: bool) -> dict[str, int]:
    """How often `run` waits for the device, by place; most often first."""
    found: Counter[str] = Counter()

    def show(message: Warning | str, category: type[Warning], *rest: Any, **more: Any) -> None:
        if _WAITS not in str(message):
            return  # PyTorch has more to say
        # The caller's frame is `warnings` itself, and above it whoever waited.
        found[f"{str(message)[:60]}: {_place(sys._getframe(2))}"] += 1

    if cuda:
        torch.cuda.synchronize()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = show
        with _watched(cuda):
            run()
    return dict(found.most_common(30))
