"""Common ground of all tests: threads, seeds, and a guard against what leaks between tests."""

import gc
import importlib
import random
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tests.support.process_state import changed, process_state

gc.set_threshold(100_000, 50, 1000)  # imports make objects that stay: a third of their time, else
torch.set_num_threads(1)  # small tensors: more threads only wait for each other
# A worker that loads samples, and has failed, is waited for so long when its loader is collected.
torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL = 0.1
if not torch.cuda.is_available():
    # `torch.manual_seed` writes the stack down, once for each kind of device that may come.
    for devices in (torch.cuda, torch.xpu, torch.mtia):
        devices.traceback = SimpleNamespace(format_stack=list)
    # Whether Triton's own functions are interpreted, as tests/kernels needs them, is decided when
    # they are imported; and Lightning and small-text do so.
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("TRITON_INTERPRET", "1")
        importlib.import_module("tests.support.interpreter").search_once_a_launch()


@pytest.fixture(autouse=True)
def seeded():
    """Every test starts from the same random numbers, in whatever order tests run."""
    torch.default_generator.manual_seed(0)
    if torch.cuda.is_available():
        torch.cuda.manual_seed_all(0)
    np.random.seed(0)
    random.seed(0)


@pytest.fixture(autouse=True)
def nothing_leaks():
    """Modes, defaults and transforms are after a test what they were before it."""
    before = process_state()
    yield
    leaked = changed(before)
    assert not leaked, f"a test left global state behind (before, after): {leaked}"


# Files whose tests take longest; a worker that begins one last keeps the others waiting.
_FIRST = (
    "cuda/test_emulated_device.py", "distributed/test_ray_data.py", "test_gpu_command.py",
    "any_model/test_module_db.py", "kernels/test_proof.py", "engine/test_traced_contract.py",
    "test_scoring.py", "any_model/test_transformers.py", "kernels/test_large_products.py",
    "test_benchmarks.py", "distributed/test_torchrun.py", "any_model/test_random_models.py",
    "kernels/test_conv_norm.py", "engine/test_last_layers_in_a_row.py",
    "label_efficiency/test_tasks.py", "pool/test_order_told.py", "kernels/test_ghost_norm.py",
    "witness/test_inputs.py", "pool/test_any_batch_size.py", "label_efficiency/test_runner.py",
    "cli/test_cli_demo.py", "any_model/test_wider_models.py", "kernels/test_engine.py",
    "distributed/test_accelerate.py", "test_planted_faults.py", "test_docs.py", "test_complex.py",
)  # fmt: skip


def pytest_configure(config):
    if hasattr(config.option, "loadscopereorder"):
        config.option.loadscopereorder = False  # pytest-xdist: by the number of tests, else


def pytest_collection_finish():
    """No collection of garbage looks through what all tests share: a million objects, each time.

    Nor does one come after every seven hundred objects, for tests make small models of thousands.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)


def pytest_collection_modifyitems(items):
    """The longest files first, wherever tests are shared out by file."""
    folder = Path(__file__).parent

    def place(item):
        name = item.path.relative_to(folder).as_posix() if folder in item.path.parents else ""
        return _FIRST.index(name) if name in _FIRST else len(_FIRST)

    items.sort(key=place)
