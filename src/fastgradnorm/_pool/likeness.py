"""What must be alike on every rank, in a few bytes: a model's tensors, and a sample of the pool."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from fastgradnorm._pool.digest import digest


def tensor_digests(model: nn.Module) -> tuple[dict[str, str], dict[str, str]]:
    """Of parameters and of buffers, by name."""
    parameters = {name: digest([p]) for name, p in model.named_parameters()}
    return parameters, {name: digest([b]) for name, b in model.named_buffers()}


def likeness(sample: Any) -> list[str]:
    """One line for each thing in what a loader yields: a digest, or its plain value."""
    if isinstance(sample, Mapping):
        sample = dict(sample)
    return [_told(leaf) for leaf in pytree.tree_leaves(sample)]


def _told(leaf: Any) -> str:
    if isinstance(leaf, np.ndarray) and leaf.dtype.kind in "biuf":
        leaf = torch.from_numpy(leaf.copy())
    if isinstance(leaf, Tensor):
        return digest([leaf])
    if isinstance(leaf, (str, bytes, int, float, type(None))):
        return repr(leaf)
    return type(leaf).__name__
