"""What every launch asks of Triton's compiler, whatever that does by itself, and where it runs."""

import contextlib
from typing import Any

import torch
from torch import Tensor

# Multiplications and additions become one instruction. It is the default until Triton 3.9, which
# warns at the first launch of a process that in 3.10 it will not be.
LAUNCH: dict[str, Any] = {"enable_fp_fusion": True}


def on(tensor: Tensor) -> contextlib.AbstractContextManager[Any]:
    """The tensor's own GPU made the current one, on which Triton launches."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else contextlib.nullcontext()
