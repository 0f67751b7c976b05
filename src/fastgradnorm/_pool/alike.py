"""What samples of several batches have in common that may be scored as one."""

import torch
from torch import Tensor

from fastgradnorm._model import Batch


def bytes_of(batch: Batch) -> int:
    """Of one sample."""
    held = [*batch.leaves, batch.mask, batch.attention_mask, batch.target]
    return max(1, sum(tensor.nbytes for tensor in held if tensor is not None) // len(batch))


def is_plain(tensor: Tensor | None) -> bool:
    return tensor is None or (type(tensor) is Tensor and tensor.layout == torch.strided)


def shape_of(batch: Batch) -> str:
    """Equal for samples that may be put together, in any process."""
    shapes = [f"{leaf.dtype} {list(leaf.shape[1:])}" for leaf in batch.leaves]
    beside = {"mask": batch.mask, "attention": batch.attention_mask, "label": batch.target}
    for name, each in beside.items():
        shapes += [] if each is None else [f"{name} {each.dtype} {list(each.shape[1:])}"]
    return ", ".join(shapes).replace("torch.", "")
