"""Where the time of a pass goes, by parameter."""

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import ParamSpec

import torch
from torch import Tensor

P = ParamSpec("P")


class Clock:
    """Adds up the seconds of functions run for parameters. It waits for the GPU each time."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)

    def timing(self, names: Sequence[str], function: Callable[P, Tensor]) -> Callable[P, Tensor]:
        """The function, with its time added to `names` in equal parts."""

        def timed(*args: P.args, **kwargs: P.kwargs) -> Tensor:
            start = now()
            result = function(*args, **kwargs)
            elapsed = now() - start
            for name in names:
                self.seconds[name] += elapsed / len(names)
            return result

        return timed


def now() -> float:
    """Seconds on a clock that waits for queued GPU work."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.perf_counter()
