"""What must be alike on every rank, in a few bytes: a model's tensors, and a sample of the pool."""

import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree


def tensor_sums(model: nn.Module) -> tuple[dict[str, int], dict[str, int]]:
    """Checksums of parameters and of buffers, by name."""
    parameters = {name: _checksum(p) for name, p in model.named_parameters()}
    return parameters, {name: _checksum(b) for name, b in model.named_buffers()}


def likeness(sample: Any) -> list[str]:
    """One line for each thing in what a loader yields: shape and checksum, or its plain value."""
    if isinstance(sample, Mapping):
        sample = dict(sample)
    return [_told(leaf) for leaf in pytree.tree_leaves(sample)]


def _checksum(tensor: Tensor) -> int:
    """Of the tensor's bytes, wherever and however it lies in memory."""
    flat = tensor.detach().cpu().reshape(-1).contiguous()
    return zlib.crc32(flat.view(torch.uint8).numpy().data)


def _told(leaf: Any) -> str:
    if isinstance(leaf, np.ndarray) and leaf.dtype.kind in "biuf":
        leaf = torch.from_numpy(leaf.copy())
    if isinstance(leaf, Tensor):
        return f"{leaf.dtype} {list(leaf.shape)} {_checksum(leaf)}"
    if isinstance(leaf, (str, bytes, int, float, type(None))):
        return repr(leaf)
    return type(leaf).__name__
