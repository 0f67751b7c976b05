"""Which of Triton and PyTorch computes an operation, and at which precision."""

import functools
import importlib.util
import os
from contextvars import ContextVar

import torch
from torch import Tensor

_HAS_TRITON = importlib.util.find_spec("triton") is not None
_BACKENDS = ("auto", "torch", "triton")
# What "auto" stands for within `computed_by`.
_ASKED: ContextVar[str] = ContextVar("backend", default="auto")
_KERNEL_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
# How norms multiply float32 where TF32 is not asked for, on GPUs of compute capability 9 and more:
# "ieee", by single multiplications, or "tf32x3" or "bf16x6", by the parts of each number on the
# matrix units, whose sums are added up in float32. Of squared norms over up to 12288 inputs these
# err 9e-7 and 2e-7, by emulation, and Grams may lose a factor of fifty of that. Whole passes on an
# H200 (`benchmarks/results/gpu_exact.txt`): ViT-B/16 1.42 and 1.37 times as fast as by "ieee",
# ResNet-18 1.07 and 1.14 times. Older GPUs have too few registers for either.
_EXACT, _EXACT_FROM = "bf16x6", (9, 0)
# Where matrix units multiply half precision, summed in float32, at over ten times the rate of
# float32 (A100, H100, B200, B300, by their data sheets), so that three products for one pay. On
# graphics cards and small servers' GPUs (8.6, 8.9, 12.0) it is two to four times.
_WIDE_UNITS = {(8, 0), (9, 0), (10, 0), (10, 3)}


def _interpreted() -> bool:
    return os.environ.get("TRITON_INTERPRET", "0") == "1"


def input_precision(dtype: torch.dtype) -> str:
    """`"tf32"` for float32 where the caller asked for it, else `"ieee"`.

    It is asked for by `torch.set_float32_matmul_precision`, by
    `torch.backends.cuda.matmul.allow_tf32` or by `fp32_precision`, and this reads what all of them
    came to: the getters of the older two raise where the third was used.
    """
    asked = dtype == torch.float32 and torch.backends.cuda.matmul.fp32_precision == "tf32"
    return "tf32" if asked else "ieee"


def norm_precision(dtype: torch.dtype, device: torch.device) -> str:
    """`input_precision` of norms, which have a wide sum for whatever is exact."""
    asked = input_precision(dtype)
    if asked != "ieee" or dtype != torch.float32 or device.type != "cuda" or _interpreted():
        return asked
    return _EXACT if _capability(device) >= _EXACT_FROM else asked


def is_exact_on_matrix_units(tensor: Tensor) -> bool:
    """Whether float32 products are made of half-precision ones: with Triton, without TF32."""
    if not tensor.is_cuda or _interpreted() or input_precision(tensor.dtype) != "ieee":
        return False
    return _capability(tensor.device) in _WIDE_UNITS and uses_triton("auto", tensor)


@functools.cache
def _capability(device: torch.device) -> tuple[int, int]:
    if torch.version.hip:  # (9, 4) of AMD's gfx942 is no NVIDIA GPU's, nor are its precisions
        return (0, 0)
    return torch.cuda.get_device_capability(device)


class computed_by:
    """Within it that `backend` computes what is not told otherwise, `backend="auto"` included.

    Example:
        >>> with computed_by("torch"):
        ...     resolve_backend("auto", torch.device("cuda"))
        'torch'
    """

    def __init__(self, backend: str) -> None:  # no generator: every norm of a pass enters one
        self._backend = backend

    def __enter__(self) -> None:
        self._before = _ASKED.set(self._backend)

    def __exit__(self, *_: object) -> None:
        _ASKED.reset(self._before)


def resolve_backend(
    backend: str,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
) -> str:
    """`"torch"` or `"triton"`: what computes on `device` when `backend` is asked for.

    `"auto"` is what the surrounding `computed_by` says. Where that says nothing it takes Triton on
    CUDA devices of compute capability 8 and more, for the dtypes that kernels read;
    PyTorch everywhere else.

    Raises:
        ValueError: If `backend` is none of `"auto"`, `"torch"`, `"triton"`.
        RuntimeError: If `"triton"` is asked for without a GPU, or is not installed.

    Example:
        >>> resolve_backend("auto", torch.device("cpu"))
        'torch'
    """
    if backend not in _BACKENDS:
        raise ValueError(f"`backend` must be 'auto', 'torch' or 'triton'. Got {backend!r}.")
    if backend == "auto":
        backend = _ASKED.get()
    if backend == "torch":
        return "torch"
    if backend == "triton":
        if not _HAS_TRITON:
            raise RuntimeError("`backend='triton'` needs Triton. Run `pip install triton`.")
        if device.type != "cuda" and not _interpreted():
            raise RuntimeError(
                f"`backend='triton'` must be given CUDA tensors. Got a tensor on {device}. Use "
                "backend='torch' or 'auto', or set TRITON_INTERPRET=1 to interpret the kernels."
            )
        return "triton"
    if device.type != "cuda" or dtype not in _KERNEL_DTYPES or not _HAS_TRITON:
        return "torch"
    if torch.cuda.get_device_capability(device) < (8, 0):
        return "torch"
    return "triton"


def uses_triton(backend: str, tensor: Tensor) -> bool:
    """Whether Triton computes an operation on `tensor`."""
    return resolve_backend(backend, tensor.device, tensor.dtype) == "triton"
