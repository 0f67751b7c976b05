"""Kernels are interpreted where there is no GPU; outputs start poisoned, on either."""

import os

import pytest
import torch

from tests.support.kernel_support import leave_room

INTERPRETED = not torch.cuda.is_available()

# What a kernel is, interpreted or compiled, is decided when it is imported. The variable is then
# put back, so that tests elsewhere see the machine as it is.
_before = os.environ.get("TRITON_INTERPRET")
if INTERPRETED:
    os.environ["TRITON_INTERPRET"] = "1"
else:
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
from fastgradnorm_kernels import (  # noqa: E402
    affine_norm,  # noqa: F401
    bucket_sums,  # noqa: F401
    conv_norm,  # noqa: F401
    direct_norm,  # noqa: F401
    embedding_norm,  # noqa: F401
    exact_convolution,  # noqa: F401
    ghost_norm,  # noqa: F401
    linear_head,  # noqa: F401
    logit_head,  # noqa: F401
    scaled,  # noqa: F401
    tiles,
)

if INTERPRETED:
    if _before is None:
        del os.environ["TRITON_INTERPRET"]
    else:
        os.environ["TRITON_INTERPRET"] = _before


def pytest_collection_modifyitems(items):
    """NumPy, under the interpreter, warns of the NaN and infinities that some tests feed in."""
    for item in items:
        if "tests/kernels" in item.path.as_posix():
            for text in ("invalid value", "All-NaN slice"):
                item.add_marker(pytest.mark.filterwarnings(f"ignore:{text}:RuntimeWarning"))


@pytest.fixture(autouse=True)
def interpreter(monkeypatch):
    """`backend="triton"` accepts CPU tensors, where there is nothing else."""
    if INTERPRETED:
        monkeypatch.setenv("TRITON_INTERPRET", "1")


@pytest.fixture(autouse=True)
def split_products_as_on_hopper(request, monkeypatch):
    """Where interpreted: elsewhere nobody asks for them."""
    mode = request.node.callspec.params.get("mode") if hasattr(request.node, "callspec") else None
    if INTERPRETED and getattr(mode, "precision", "") == "tf32x3":
        monkeypatch.setattr(tiles, "gpu", lambda device: ("", (9, 0)))


@pytest.fixture(autouse=True)
def poisoned_outputs():
    """`torch.empty` is filled with NaN: an element that no kernel wrote shows."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(autouse=True)
def room_on_the_gpu():
    """Tests of tensors that are far apart in memory take turns, and leave none behind."""
    yield
    leave_room()


@pytest.fixture(autouse=True)
def a_lost_gpu_ends_the_worker():
    """After an illegal access nothing works any more: xdist starts another worker for the rest."""
    yield
    if not INTERPRETED and "PYTEST_XDIST_WORKER" in os.environ:
        try:
            torch.cuda.synchronize()
        except RuntimeError:
            os._exit(3)
