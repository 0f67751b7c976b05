"""Where a model's parameters are in memory, and what its runs have shown of it."""

from collections.abc import Mapping

import torch
from fastgradnorm_kernels.functorch import in_memory
from torch import Tensor


class Holdings:
    """Where the parameters of a model are: the same for all runs.

    Args:
        parameters: The caller's own, by name.
        used: What has their values on the device, by `id` of the caller's.

    Attributes:
        trainable: Names of those that may count.
        keys: `id` of the caller's, by name.
        names: Names by `id` of the caller's.
        memory: Names by where the memory of what is used begins.
        written: `id` of tensors of the caller's, small ones, that a run was seen to write to.
        differentiates: Whether a run was seen to take derivatives by plain autograd.
    """

    def __init__(self, parameters: Mapping[str, Tensor], used: Mapping[int, Tensor]) -> None:
        self.trainable = frozenset(name for name, p in parameters.items() if p.requires_grad)
        self.keys = {name: id(p) for name, p in parameters.items()}
        self.names = {key: name for name, key in self.keys.items()}
        self.memory = {address(used[key]): name for name, key in self.keys.items()}
        self.memory.pop(0, None)
        self.written: set[int] = set()
        self.differentiates = False


def address(tensor: Tensor) -> int:
    """Where the memory begins that a plain tensor is in; 0 if it has none of its own."""
    tensor = in_memory(tensor)
    if tensor.layout is not torch.strided or tensor.is_meta:
        return 0
    return tensor.untyped_storage().data_ptr()
