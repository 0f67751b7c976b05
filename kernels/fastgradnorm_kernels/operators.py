"""PyTorch's operators that are private, named here and nowhere else.

Each has a note: what it is for, and when it can go. Each proves itself when it is first used, and
has a public form that takes its place where it does not. `functorch` holds the names of transforms,
`switches` what is neither.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.grad import conv2d_input

from fastgradnorm_kernels.proof import proves

_Sizes = Sequence[int]


def _ramp(*shape: int) -> Tensor:
    """Numbers that are all different, for comparisons."""
    count = torch.Size(shape).numel()
    return (
        torch.arange(count, dtype=torch.float32, device="cpu").sub(count / 3).div(count).view(shape)
    )


def _close(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> bool:
    return all(
        a.shape == b.shape and bool(((a - b).abs() <= 1e-5 + 1e-4 * b.abs()).all())
        for a, b in zip(ours, theirs, strict=True)
    )


def _gradients(output: Tensor, inputs: Sequence[Tensor], g: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(output, inputs, g)


def onednn_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`x weightᵀ + bias` by oneDNN. Can go when `F.linear` takes it where MKL is slower."""
    if 1 not in weight.stride():  # such as every second number of rows of odd length, refused
        weight = weight.contiguous()
    result: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return result


@proves("torch.ops.mkldnn._linear_pointwise", "products are `F.linear`'s")
def has_onednn_linear() -> bool:
    """Whether `onednn_linear` is `F.linear`; only asked for where PyTorch has oneDNN."""
    x, weight, bias = _ramp(2, 3), _ramp(3, 4).mT, _ramp(4)
    ours = [onednn_linear(x, weight, bias), onednn_linear(x, weight, None)]
    return _close(ours, [x @ weight.mT + bias, x @ weight.mT])


def copied_together(tensors: Sequence[Tensor]) -> Sequence[Tensor]:
    """Copies of numbers of one dtype, by one launch for many.

    One times a number is that number, minus zero and NaN included. Can go when PyTorch copies
    several tensors at once.
    """
    # The stub of `torch` has it and does not hand it on.
    multiplied = torch._foreach_mul  # pyright: ignore[reportPrivateImportUsage]
    copies: Sequence[Tensor] = multiplied([*tensors], 1)
    return copies


@proves("torch._foreach_mul", "buffers are copied one by one")
def has_copied_together() -> bool:
    """Whether `copied_together` copies, and into memory of its own."""
    ours = [torch.tensor([-0.0, torch.inf, -3.5], device="cpu"), _ramp(2, 3).mT]
    copies = copied_together(ours)
    same = all(torch.equal(a, b) for a, b in zip(ours, copies, strict=True))
    own = {t.untyped_storage().data_ptr() for t in (*ours, *copies)}
    return same and len(own) == 4 and bool(copies[0].signbit()[0])


def flash_attention(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, is_causal: bool, scale: float
) -> tuple[Tensor, Tensor]:
    """Attention on the CPU, and the log-sum-exp of its rows.

    Can go when `F.scaled_dot_product_attention` has a rule for `vmap`.
    """
    kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    output, rows = kernel(q, k, v, 0.0, is_causal, attn_mask=mask, scale=scale)
    return output, rows


def flash_attention_backward(
    g: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    made: tuple[Tensor, Tensor],
    is_causal: bool,
    scale: float,
) -> tuple[Tensor, ...]:
    """Gradients by q, k and v, from what `flash_attention` has `made`. Can go with it."""
    kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
    grads: tuple[Tensor, ...]
    grads = kernel(g, q, k, v, *made, 0.0, is_causal, attn_mask=mask, scale=scale)
    return grads


@proves(
    "torch.ops.aten._scaled_dot_product_flash_attention_for_cpu",
    "attention is computed by its formula, with all its weights in memory",
)
def has_flash_attention() -> bool:
    """Whether both are attention by its formula."""
    q, k, v = (_ramp(2, 1, 3, 4).roll(i).requires_grad_() for i in range(3))
    g, mask = _ramp(2, 1, 3, 4), _ramp(2, 1, 3, 3)
    proved = True
    for is_causal in (False, True):
        added = torch.full((3, 3), -torch.inf, device="cpu").triu(1) if is_causal else mask
        exact = ((q * 0.7) @ k.mT + added).softmax(-1) @ v
        options = None if is_causal else mask, is_causal, 0.7
        plain = q.detach(), k.detach(), v.detach()
        made = flash_attention(*plain, *options)
        ours = flash_attention_backward(g, *plain, options[0], made, is_causal, 0.7)
        theirs = _gradients(exact, (q, k, v), g)
        proved = proved and _close([made[0], *ours], [exact, *theirs])
    return proved


# Attention on CUDA, forward and back. These need their device to be tried on: see
# `fastgradnorm._operations.attention_choice`, which has the formula in their place. Can go when
# `F.scaled_dot_product_attention` has a rule for `vmap`.
def efficient_attention(*args: Any, **options: Any) -> Any:
    """In tiles, in float32 and with masks too."""
    return torch.ops.aten._scaled_dot_product_efficient_attention(*args, **options)


def efficient_attention_backward(*args: Any, **options: Any) -> Any:
    """Of `efficient_attention`."""
    return torch.ops.aten._scaled_dot_product_efficient_attention_backward(*args, **options)


def cuda_flash_attention(*args: Any, **options: Any) -> Any:
    """Flash attention, in half precision."""
    return torch.ops.aten._scaled_dot_product_flash_attention(*args, **options)


def cuda_flash_attention_backward(*args: Any, **options: Any) -> Any:
    """Of `cuda_flash_attention`."""
    return torch.ops.aten._scaled_dot_product_flash_attention_backward(*args, **options)


def group_norm_parts(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, groups: int, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """A group norm's output, and mean and reciprocal deviation `[B, groups]`, for contiguous x.

    Can go, as `group_norm_pulled`, when `F.group_norm` has rules for `vmap` that are as fast.
    """
    sizes = len(x), x.shape[1], x[0, 0].numel(), groups
    output, mean, deviation = torch.native_group_norm(x, weight, bias, *sizes, eps)
    return output, mean, deviation


def group_norm_pulled(
    g: Tensor, x: Tensor, mean: Tensor, deviation: Tensor, weight: Tensor | None, groups: int
) -> Tensor:
    """The gradient by x, from `group_norm_parts`."""
    sizes = len(x), x.shape[1], x[0, 0].numel(), groups
    kernel = torch.ops.aten.native_group_norm_backward
    pulled: Tensor = kernel(g, x, mean, deviation, weight, *sizes, [True, False, False])[0]
    return pulled


@proves("torch.native_group_norm", "group norms are `F.group_norm`'s")
def has_group_norm() -> bool:
    """Whether both are `F.group_norm` and its gradient."""
    x, g = _ramp(2, 4, 3).square().requires_grad_(), _ramp(2, 4, 3)
    weight, bias = _ramp(4), _ramp(4) + 1
    exact = F.group_norm(x, 2, weight, bias, 1e-3)
    output, mean, deviation = group_norm_parts(x.detach(), weight, bias, 2, 1e-3)
    pulled = group_norm_pulled(g, x.detach(), mean, deviation, weight, 2)
    return _close([output, pulled], [exact, *_gradients(exact, [x], g)])


def batch_norm_gradients(
    g: Tensor, x: Tensor, mean: Tensor, var: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """`Σ g x̂` and `Σ g` by channel, of a batch norm by running statistics: one pass over memory.

    In the dtype of the statistics, than which x and g may be narrower. Can go when PyTorch has it
    in public.
    """
    kernel = torch.ops.aten.native_batch_norm_backward
    statistics = mean, var, None, None
    _, scale, shift = kernel(g, x, None, *statistics, False, eps, [False, True, True])
    return scale, shift


@proves("torch.ops.aten.native_batch_norm_backward", "scale and shift are added up apart")
def has_batch_norm_gradients() -> bool:
    """Whether that is what autograd gives, in either layout, and added up in float32."""
    x, g, mean = _ramp(1, 3, 4, 2), _ramp(1, 3, 4, 2).square(), _ramp(3)
    var, scale, shift = mean.square() + 1, *torch.ones(2, 3, device="cpu").requires_grad_().unbind()
    exact = _gradients(F.batch_norm(x, mean, var, scale, shift, False, 0.0, 0.1), (scale, shift), g)
    proved = True
    for format in (torch.contiguous_format, torch.channels_last):
        x, g = x.contiguous(memory_format=format), g.contiguous(memory_format=format)
        proved = proved and _close(batch_norm_gradients(g, x, mean, var, 0.1), exact)
        narrow_g, narrow_x = g.bfloat16(), x.bfloat16()
        rounded = batch_norm_gradients(narrow_g.float(), narrow_x.float(), mean, var, 0.1)
        ours = batch_norm_gradients(narrow_g, narrow_x, mean, var, 0.1)
        proved = proved and _close(ours, rounded)
    return proved


def max_pool(
    x: Tensor, kernel: _Sizes, stride: _Sizes, padding: _Sizes, dilation: _Sizes
) -> tuple[Tensor, Tensor]:
    """A max pool over two or three dimensions, and where its maxima lie.

    Can go, as `max_pool_pulled`, when max pools have rules for `vmap` that copy no inputs.
    """
    operator = getattr(torch.ops.aten, f"max_pool{len(kernel)}d_with_indices")
    output, indices = operator(x, kernel, stride, padding, dilation, False)
    return output, indices


def max_pool_pulled(
    g: Tensor,
    x: Tensor,
    indices: Tensor,
    kernel: _Sizes,
    stride: _Sizes,
    padding: _Sizes,
    dilation: _Sizes,
) -> Tensor:
    """The gradient by x, of which the shape alone is read, from the indices of `max_pool`."""
    operator = getattr(torch.ops.aten, f"max_pool{len(kernel)}d_with_indices_backward")
    pulled: Tensor = operator(g, x, kernel, stride, padding, dilation, False, indices)
    return pulled


@proves("torch.ops.aten.max_pool2d_with_indices", "max pools are `F.max_pool2d`'s and its like")
def has_max_pool() -> bool:
    """Whether both are the max pools of `torch.nn.functional` and their gradients."""
    proved = True
    for public, shape in ((F.max_pool2d, (1, 2, 4, 5)), (F.max_pool3d, (1, 2, 3, 4, 5))):
        dims = len(shape) - 2
        windows = (2,) * dims, (1,) * dims, (1,) * dims, (1,) * dims
        x = _ramp(*shape).sin().requires_grad_()
        exact = public(x, *windows)
        g = _ramp(*exact.shape)
        output, indices = max_pool(x.detach(), *windows)
        pulled = max_pool_pulled(g, torch.empty(shape, device="cpu"), indices, *windows)
        proved = proved and _close([output, pulled], [exact, *_gradients(exact, [x], g)])
    return proved


def convolution_pulled(g: Tensor, x: Tensor, weight: Tensor, options: Sequence[Any]) -> Tensor:
    """A convolution's gradient by x, of which the shape alone is read, but in its layout.

    `options` are stride, padding, dilation, and the number of groups. Can go when
    `torch.nn.grad.conv2d_input` and its like copy no input together for its shape.
    """
    *geometry, groups = options
    transposed = False, (0,) * len(geometry[0]), groups
    kernel = torch.ops.aten.convolution_backward
    pulled: Tensor
    pulled, *_ = kernel(g, x, weight, None, *geometry, *transposed, [True, False, False])
    return pulled


@proves("torch.ops.aten.convolution_backward", "convolutions are pulled back by `torch.nn.grad`")
def has_convolution_pulled() -> bool:
    """Whether that is what `torch.nn.grad` gives."""
    weight, g = _ramp(4, 1, 2, 3), _ramp(2, 4, 3, 2)
    options: Any = (2, 1), (1, 0), (1, 1), 2
    exact = conv2d_input((2, 2, 4, 4), weight, g, *options)
    return _close(
        [convolution_pulled(g, torch.empty(2, 2, 4, 4, device="cpu"), weight, options)], [exact]
    )
