"""Embeddings: the rule of a lookup, and bags as lookups that are reduced."""

from collections.abc import Callable, Collection
from typing import Any

import fastgradnorm_kernels as kernels
import torch
from torch import Tensor
from torch.nn import functional as F

from fastgradnorm._errors import UnsupportedModelError
from fastgradnorm._operations.operation import Operation, ruled
from fastgradnorm._operations.rules import Call, Joint, Rule, Saved, Shape


def _rule(call: Call, tracked: Collection[str]) -> Rule:
    ids, weight, padding = call["input"], call["weight"], call["padding_idx"]
    if call["scale_grad_by_freq"]:
        raise UnsupportedModelError(
            "an embedding with `scale_grad_by_freq=True` scales its gradient by counts over the "
            "whole batch. Set it to False."
        )
    if padding is not None and padding < 0:
        padding += len(weight)
    width = weight.shape[1]

    def parts(saved: Saved, g: Tensor) -> tuple[Tensor, Tensor]:
        return saved[0].reshape(-1), g.reshape(-1, width)

    def sq_norms(saved: Saved, g: Tensor) -> dict[str, Tensor]:
        ids, rows = parts(saved, g)
        norm: Tensor = kernels.embedding_sq_norm(ids[None], rows[None, None], padding)
        return {"weight": norm[0, 0]}

    joint = Joint("rows", "weight", parts, padding)
    return Rule(("weight",), (ids,), sq_norms, Shape(ids.numel(), 1, width), joint=joint)


def embedding_bag(
    input: Tensor,
    weight: Tensor,
    offsets: Tensor | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    mode: str = "mean",
    sparse: bool = False,
    per_sample_weights: Tensor | None = None,
    include_last_offset: bool = False,
    padding_idx: int | None = None,
) -> Tensor:
    """`F.embedding_bag` of ids `[B, T]`: looked up, then reduced."""
    if input.dim() != 2 or offsets is not None:
        raise UnsupportedModelError(
            "embedding bags with offsets join samples in one row of ids. Pass ids [N, T]."
        )
    rows = F.embedding(input, weight, padding_idx, max_norm, norm_type, scale_grad_by_freq)
    keep = torch.ones_like(input, dtype=torch.bool)
    if padding_idx is not None:
        keep = input != (padding_idx if padding_idx >= 0 else padding_idx + len(weight))
    if mode == "max":
        bags = rows.masked_fill(~keep[..., None], -torch.inf).amax(1)
        return torch.where(keep.any(1, keepdim=True), bags, torch.zeros_like(bags))
    scale = keep.to(rows.dtype)
    if per_sample_weights is not None:
        scale = scale * per_sample_weights
    bags = (rows * scale[..., None]).sum(1)
    return bags / keep.sum(1, keepdim=True).clamp_min(1) if mode == "mean" else bags


OPERATIONS: dict[Callable[..., Any], Operation] = {
    F.embedding: ruled(
        _rule,
        "input weight",
        padding_idx=None,
        max_norm=None,
        norm_type=2.0,
        scale_grad_by_freq=False,
        sparse=False,
    ),
    F.embedding_bag: Operation(opened=embedding_bag),
}
