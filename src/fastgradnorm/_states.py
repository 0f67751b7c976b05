"""The caller's global state: kept from changing, and out of the way, while scores are computed."""

import contextlib
import random
from collections.abc import Iterator

import numpy as np
import torch


@contextlib.contextmanager
def autograd_ready() -> Iterator[None]:
    """Gradients work inside, whatever grad or inference mode the caller is in."""
    with torch.inference_mode(False), torch.enable_grad():
        yield


@contextlib.contextmanager
def same_random_state() -> Iterator[None]:
    """Puts the random state of Python, numpy and torch back, also after an exception."""
    python, legacy, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()
    device = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(legacy)
        torch.set_rng_state(cpu)
        if device:
            torch.cuda.set_rng_state_all(device)
