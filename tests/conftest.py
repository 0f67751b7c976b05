"""Common ground of all tests: threads, seeds, and a guard against what leaks between tests."""

import importlib
import random

import numpy as np
import pytest
import torch

from tests.support.process_state import changed, process_state

torch.set_num_threads(1)  # small tensors: more threads only wait for each other
if not torch.cuda.is_available():
    # Whether Triton's own functions are interpreted, as tests/kernels needs them, is decided when
    # they are imported; and Lightning and small-text do so.
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("TRITON_INTERPRET", "1")
        importlib.import_module("triton.language")


@pytest.fixture(autouse=True)
def seeded():
    """Every test starts from the same random numbers, in whatever order tests run."""
    torch.manual_seed(0)
    np.random.seed(0)
    random.seed(0)


@pytest.fixture(autouse=True)
def nothing_leaks():
    """Modes, defaults and transforms are after a test what they were before it."""
    before = process_state()
    yield
    leaked = changed(before)
    assert not leaked, f"a test left global state behind (before, after): {leaked}"
