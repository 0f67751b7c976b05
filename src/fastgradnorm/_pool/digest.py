"""What a tensor holds, in a few bytes."""

import hashlib
from collections.abc import Iterable

import torch
from torch import Tensor


def digest(tensors: Iterable[Tensor]) -> str:
    """SHA-256 of dtypes, shapes and values, wherever and however these lie in memory."""
    found = hashlib.sha256()
    for tensor in tensors:
        found.update(f"{tensor.dtype} {list(tensor.shape)}".encode())
        flat = tensor.detach().cpu().reshape(-1).contiguous()
        found.update(flat.view(torch.uint8).numpy().data)
    return found.hexdigest()
