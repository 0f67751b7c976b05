"""Common ground of all tests: threads, seeds, and a guard against what leaks between tests."""

import importlib
import random

import numpy as np
import pytest
import torch
from fastgradnorm_kernels import functorch

torch.set_num_threads(1)  # small tensors: more threads only wait for each other
if not torch.cuda.is_available():
    # Whether Triton's own functions are interpreted, as tests/kernels needs them, is decided when
    # they are imported; and Lightning and small-text do so.
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("TRITON_INTERPRET", "1")
        importlib.import_module("triton.language")


def _global_state():
    return {
        "grad mode": torch.is_grad_enabled(),
        "inference mode": torch.is_inference_mode_enabled(),
        "default dtype": torch.get_default_dtype(),
        "default device": torch.get_default_device(),
        "threads": torch.get_num_threads(),
        "deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
        "deterministic warning": torch.is_deterministic_algorithms_warn_only_enabled(),
        "autocast": torch.is_autocast_enabled("cpu"),
        "matmul precision": torch.get_float32_matmul_precision(),
        "torch function modes": torch._C._len_torch_function_stack(),
        "torch dispatch modes": torch._C._len_torch_dispatch_stack(),
        "functorch level": functorch.current_level(),
    }


@pytest.fixture(autouse=True)
def seeded():
    """Every test starts from the same random numbers, in whatever order tests run."""
    torch.manual_seed(0)
    np.random.seed(0)
    random.seed(0)


@pytest.fixture(autouse=True)
def nothing_leaks():
    """Modes, defaults and transforms are after a test what they were before it."""
    before = _global_state()
    yield
    after = _global_state()
    leaked = {name: (before[name], after[name]) for name in before if before[name] != after[name]}
    assert not leaked, f"a test left global state behind (before, after): {leaked}"
