"""Where random numbers come from: a seed, and what they are for."""

import contextlib
import random
from collections.abc import Iterator

import numpy as np
import torch


class Purpose:
    """What the random numbers of a run are for. Strategies share all of them."""

    START, SUBSET, MODEL, TRAIN, SELECT = range(5)


def generator(seed: int, *purpose: int) -> np.random.Generator:
    """Random numbers of a seed, a purpose and a cycle."""
    return np.random.default_rng([seed, *purpose])


def draw_seed(seed: int, *purpose: int) -> int:
    """A seed for code that takes one number."""
    return int(generator(seed, *purpose).integers(2**31))


def seed_all(seed: int) -> None:
    """Seeds Python, numpy and torch."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


@contextlib.contextmanager
def own_random_state() -> Iterator[None]:
    """What the block draws leaves the caller's random states as they were."""
    python, numpy = random.getstate(), np.random.get_state(legacy=False)  # of any kind
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with torch.random.fork_rng(devices):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
