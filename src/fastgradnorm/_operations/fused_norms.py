"""Batch and group norms under vmap: PyTorch's fused kernels over samples and cotangents at once.

Batch norms by running statistics and group norms treat each sample alone, so that samples join the
batch `[B, C, *]`. PyTorch's own rules for vmap take several passes over memory instead, and
some cannot run with the channels last in memory.
"""

from functools import partial
from typing import Any

import fastgradnorm_kernels as kernels
import torch
from fastgradnorm_kernels import operators
from fastgradnorm_kernels.functorch import in_memory, outside
from fastgradnorm_kernels.levels import aligned, bare, wrapped
from torch import Tensor
from torch.nn import functional as F

from fastgradnorm._operations.rows import Rows, layout
from fastgradnorm._operations.single_level import (
    SingleLevel,
    is_differentiated,
    is_frozen,
    plain,
    unwrap,
    wrap,
)

# Channels of a group from which on PyTorch's group norm takes channels that are last in memory in
# less time than it takes to lay them out anew; of one channel a group it takes four times as long.
_WIDE_GROUP = 4


def batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """`F.batch_norm` with running statistics: a scale and a shift, and so in its backward pass.

    Or with those of `input`, which is a weight then.
    """
    if training or running_mean is None or running_var is None:
        return _by_its_own(input, running_mean, running_var, weight, bias, momentum, eps)
    # Each run has buffers of its own, copied within its transforms.
    frozen = (plain(running_mean), plain(running_var), weight, bias)
    differentiated = is_differentiated(input) if is_frozen(*frozen) else None
    if differentiated is not None:
        function = _BatchNorm.within if differentiated else _scaled
        output: Tensor = function(input, *frozen, eps)
        return output
    shape = (1, -1) + (1,) * (input.dim() - 2)
    scale = (running_var + eps).rsqrt()
    if weight is not None:
        scale = scale * weight
    shift = -running_mean * scale
    if bias is not None:
        shift = shift + bias
    # Not `addcmul`, which is not vectorised where it broadcasts and takes three times as long.
    return (input * scale.view(shape)).add_(shift.view(shape))


def _by_its_own(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    momentum: float,
    eps: float,
) -> Tensor:
    others = [d for d in range(input.dim()) if d != 1]
    var, mean = torch.var_mean(input, others, correction=0, keepdim=True)
    if running_mean is not None and running_var is not None:
        unbiased = input.detach().var(others)
        running_mean.lerp_(mean.detach().reshape(-1), momentum)
        running_var.lerp_(unbiased, momentum)
    output = (input - mean) * (var + eps).rsqrt()
    return _of_channels(output, weight, bias)


def _of_channels(output: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    """Times a weight and plus a bias of each channel."""
    shape = (1, -1) + (1,) * (output.dim() - 2)
    if weight is not None:
        output = output * weight.view(shape)
    return output if bias is None else output + bias.view(shape)


def _scaled(
    x: Tensor, mean: Tensor, var: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
) -> Tensor:
    found = aligned(x)
    assert found is not None and found.tensors[0] is not None
    count = len(found.levels)
    with outside():
        rows = found.tensors[0].flatten(0, count)
        output = F.batch_norm(rows, mean, var, weight, bias, False, 0.0, eps)
        output = output.unflatten(0, (*found.sizes, -1))
    return wrapped(output, found.levels)


class _BatchNorm(SingleLevel):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        mean: Tensor,
        var: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        eps: float,
    ) -> Tensor:
        ctx.eps = eps
        ctx.save_for_backward(var, weight)
        return wrap(_scaled(unwrap(x), mean, var, weight, bias, eps))

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        var, weight = ctx.saved_tensors
        if g.is_cuda:  # one kernel, where there would be several and float32 numbers between them
            scaled = partial(kernels.scaled_channels, var=var, weight=weight, eps=ctx.eps)
            return Rows.of(g).apply(scaled), *(None,) * 5
        if g.dtype in (torch.bfloat16, torch.float16) and bare(g) is not None:
            scaled = partial(_scaled_rows, var, weight, ctx.eps)
            return Rows.of(g).apply(scaled), *(None,) * 5
        with outside():
            scale = (var + ctx.eps).rsqrt()
            scale = scale if weight is None else scale * weight
        shape = (-1,) + (1,) * (g.dim() - 2)
        return (g * scale.view(shape)).to(g.dtype), *(None,) * 5


def _scaled_rows(var: Tensor, weight: Tensor | None, eps: float, g: Tensor) -> Tensor:
    """Gradients of 16 bits times a batch norm's scale, as a norm of mean 0.

    A product with numbers of another dtype is not vectorised and takes 30 times as long.
    """
    mean = torch.zeros_like(var)
    return F.batch_norm(g, mean, var, weight, None, False, 0.0, eps)


def group_norm(
    input: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """`F.group_norm`."""
    if input.is_cuda and torch.is_autocast_enabled("cuda"):  # which has it in float32
        wide = torch.promote_types(input.dtype, torch.float32)
        weight, bias = (None if t is None else t.to(wide) for t in (weight, bias))
        input = input.to(wide)
    plain = is_frozen(weight, bias) and operators.has_group_norm()
    differentiated = is_differentiated(input) if plain else None
    if differentiated is not None:
        if differentiated:
            output: Tensor = _GroupNorm.within(input, num_groups, weight, bias, eps)
            return output
        return _grouped(input, num_groups, weight, bias, eps)[0]
    if in_memory(input).is_contiguous():
        return F.group_norm(input, num_groups, weight, bias, eps)
    # With the channels last in memory vmap cannot run its backward pass.
    rows = input.reshape(len(input), num_groups, -1)
    var, mean = torch.var_mean(rows, -1, correction=0, keepdim=True)
    scale: Tensor = (var + eps).rsqrt()
    output = ((rows - mean) * scale).reshape(input.shape)
    return _of_channels(output, weight, bias)


def instance_norm(
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """`F.instance_norm`: a group norm with one channel a group, or a batch norm in eval mode."""
    if not use_input_stats and running_mean is not None:
        return batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
    if running_mean is not None or input.dim() < 3:
        options = (running_mean, running_var, weight, bias, use_input_stats, momentum, eps)
        return F.instance_norm(input, *options)
    return group_norm(input, input.shape[1], weight, bias, eps).to(input.dtype)


def _grouped(
    x: Tensor, groups: int, weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Output, and mean and reciprocal deviation `[B, groups]`."""
    found = aligned(x)
    assert found is not None and found.tensors[0] is not None
    with outside():
        rows = found.tensors[0].flatten(0, len(found.levels))
        rows = rows.contiguous(memory_format=_grouped_layout(rows, groups))
        parts = operators.group_norm_parts(rows, weight, bias, groups, eps)
        output, mean, deviation = (part.unflatten(0, (*found.sizes, -1)) for part in parts)
    levels = found.levels
    return wrapped(output, levels), wrapped(mean, levels), wrapped(deviation, levels)


def _grouped_layout(rows: Tensor, groups: int) -> torch.memory_format:
    """In which a group norm leaves them: as they are, where PyTorch's kernel is fast so."""
    keeps = rows.device.type == "cpu" and rows.shape[1] >= _WIDE_GROUP * groups
    return layout(rows) if keeps else torch.contiguous_format


class _GroupNorm(SingleLevel):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        groups: int,
        weight: Tensor | None,
        bias: Tensor | None,
        eps: float,
    ) -> Tensor:
        x = unwrap(x)
        output, mean, deviation = _grouped(x, groups, weight, bias, eps)
        ctx.save_for_backward(x, mean, deviation, weight)
        ctx.groups = groups
        return wrap(output)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        *saved, weight = ctx.saved_tensors
        found = aligned(g, *saved)
        assert found is not None
        with outside():
            count = len(found.levels)
            most = (*found.sizes, 1, 1)[:2]  # samples, cotangents
            g, x, mean, deviation = (
                t.reshape(*most, *t.shape[count:]) for t in found.tensors if t is not None
            )
            # On a GPU one call for all cotangents, and copies of what was kept; else one each.
            at_a_time = most[1] if g.is_cuda else 1
            x, mean, deviation = (t[:, :at_a_time].flatten(0, 2) for t in (x, mean, deviation))
            format = _grouped_layout(x, ctx.groups)
            x = x.contiguous(memory_format=format)
            given = x, mean.contiguous(), deviation.contiguous(), weight, ctx.groups
            grads = [
                operators.group_norm_pulled(
                    part.flatten(0, 2).contiguous(memory_format=format), *given
                ).view(part.shape)
                for part in g.split(at_a_time, 1)
            ]
            if len(grads) == 1:
                grad = grads[0]
            else:  # cotangents outermost in memory, as the pull-back has them
                last = format == torch.channels_last
                first = [grad[:, 0].movedim(2, -1) if last else grad[:, 0] for grad in grads]
                grad = torch.stack(first).transpose(0, 1)
                grad = grad.movedim(-1, 3) if last else grad
            grad = grad.reshape(*found.sizes, *grad.shape[2:])
        return wrapped(grad, found.levels), *(None,) * 4
