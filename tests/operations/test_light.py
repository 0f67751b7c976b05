"""Operations that the engine computes in its own way under nested transforms, against PyTorch's."""

from functools import partial

import pytest
import torch
from torch.func import vjp, vmap
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from fastgradnorm._operations.attention import attention
from fastgradnorm._operations.folded_convolutions import conv
from fastgradnorm._operations.fused_norms import batch_norm, group_norm
from fastgradnorm._operations.joining import cat
from fastgradnorm._operations.linear import linear
from fastgradnorm._operations.pooling import max_pool, mean
from fastgradnorm._operations.transposed_convolutions import conv_transposed

S, K = 3, 2  # samples, cotangents


def _fixed(*tensors):
    """By dtype: converted outside of transforms, which would wrap what they convert."""
    return {dtype: [t.to(dtype) for t in tensors] for dtype in (torch.float32, torch.float64)}


_RUNNING = torch.randn(6), torch.rand(6) + 0.5
_AFFINE = torch.randn(6), torch.randn(6)
_AFFINE_BY, _ALL_BY = _fixed(*_AFFINE), _fixed(*_RUNNING, *_AFFINE)


def _batch(function):
    return lambda x, like: function(x, *_ALL_BY[like])


def _group(function):
    return lambda x, like: function(x, 3, *_AFFINE_BY[like], 1e-3)


def _attend(function, mask=None, **options):
    """Queries, keys and values from the three channel pairs of `[B, 6, T, D]`."""

    def run(x, like):
        q, k, v = x.unflatten(1, (3, 2)).unbind(1)
        given = mask if mask is None or mask.dtype == torch.bool else mask.to(like)
        return function(q, k, v, given, **options)

    return run


_WEIGHTS_BY = _fixed(
    torch.randn(8, 6, 3), torch.randn(8, 3, 3, 2), torch.randn(8, 6, 2, 3, 2), torch.randn(8)
)


def _convolve(dims, *options):
    """Ours and PyTorch's."""
    function = (F.conv1d, F.conv2d, F.conv3d)[dims - 1]

    def run(convolution, x, like):
        *weights, bias = _WEIGHTS_BY[like]
        return convolution(x, weights[dims - 1], bias, *options)

    return (
        lambda x, like: run(partial(conv, function, dims, channels_last=True), x, like),
        lambda x, like: run(function, x, like),
    )


_TRANSPOSED_BY = _fixed(
    torch.randn(6, 8, 3), torch.randn(6, 4, 3, 2), torch.randn(6, 8, 2, 3, 2), torch.randn(8)
)
_WIDE_BY = _fixed(torch.randn(12), torch.randn(12))


_CAT = partial(cat, torch.cat, channels_last=True)


def _transpose(dims, *options):
    function = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[dims - 1]

    def run(convolution, x, like):
        *weights, bias = _TRANSPOSED_BY[like]
        return convolution(x, weights[dims - 1], bias, *options)

    return (
        lambda x, like: run(partial(conv_transposed, function, dims, channels_last=True), x, like),
        lambda x, like: run(function, x, like),
    )


def _wide_groups(function, join):
    """Of four channels each."""
    return lambda x, like: function(join([x, x * x], 1), 3, *_WIDE_BY[like], 1e-3)


def _join(dim, **named):
    """Ours and PyTorch's, of an image and parts of it."""

    def run(function, x):
        return function([x, x.narrow(dim, 1, 2).square()], dim, **named)

    return lambda x, like: run(_CAT, x), lambda x, like: run(torch.cat, x)


def _average(*dims):
    own = partial(mean, torch.Tensor.mean)
    return lambda x, like: own(x, *dims) * x, lambda x, like: x.mean(*dims) * x


def _pool(dims, *options):
    function = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[dims - 1]
    return (
        lambda x, like: max_pool(function, dims, x, *options),
        lambda x, like: function(x, *options),
    )


_SDPA = F.scaled_dot_product_attention
_MASK = torch.randn(5, 5)
_KEEP = torch.rand(5, 5) > 0.3
_KEEP |= torch.eye(5, dtype=torch.bool)
# ours, PyTorch's, the shape of one sample
CASES = {
    "batch norm": (_batch(batch_norm), _batch(F.batch_norm), (1, 6, 5, 4)),
    "batch norm, frames": (_batch(batch_norm), _batch(F.batch_norm), (2, 6, 5)),
    "batch norm, rows": (_batch(batch_norm), _batch(F.batch_norm), (1, 6)),
    "group norm": (_group(group_norm), _group(F.group_norm), (1, 6, 5, 4)),
    "group norm, frames": (_group(group_norm), _group(F.group_norm), (2, 6, 3, 2, 2)),
    "convolution 1d": (*_convolve(1, 2, 1), (1, 6, 80)),
    "convolution": (*_convolve(2, (1, 2), (1, 0), 1, 2), (1, 6, 9, 10)),
    "convolution, frames": (*_convolve(2, 1, 2, 2, 2), (2, 6, 6, 7)),
    "convolution, few pixels": (*_convolve(2, 1, 1, 1, 2), (1, 6, 4, 3)),
    "convolution 3d": (*_convolve(3, 1, (1, 0, 1)), (1, 6, 3, 4, 4)),
    "transposed 1d": (*_transpose(1, 2, 1, 1), (1, 6, 40)),
    "transposed": (*_transpose(2, (2, 1), (1, 0), (1, 0), 2), (1, 6, 5, 6)),
    "transposed, frames": (*_transpose(2, 1, 0, 0, 2), (2, 6, 6, 7)),
    "transposed, few pixels": (*_transpose(2, 1, 0, 0, 2), (1, 6, 2, 3)),
    "transposed, added": (*_transpose(2, 1, 2, 2, 2, 3), (1, 6, 5, 4)),
    "transposed 3d": (*_transpose(3, 2, (1, 0, 1)), (1, 6, 3, 4, 4)),
    "wide groups": (
        _wide_groups(group_norm, _CAT), _wide_groups(F.group_norm, torch.cat), (1, 6, 5, 4)
    ),
    "joined channels": (*_join(1), (1, 6, 5, 4)),
    "joined rows": (*_join(-2), (1, 6, 5, 4)),
    "joined sequences": (*_join(2), (1, 6, 5)),
    "average of positions": (*_average((-2, -1), True), (1, 6, 5, 4)),
    "average of channels": (*_average(1), (1, 1, 5, 4)),
    "average": (*_average(), (1, 6, 5, 4)),
    "max pool 1d": (*_pool(1, 3, 2, 1), (1, 6, 9)),
    "max pool": (*_pool(2, 2), (1, 6, 6, 8)),
    "max pool, frames": (*_pool(2, (3, 2), 1, 1, 2), (2, 6, 7, 8)),
    "max pool 3d": (*_pool(3, 3, 2, 1), (1, 6, 5, 6, 4)),
    "attention": (_attend(attention), _attend(_SDPA), (2, 6, 5, 8)),
    "attention, mask": (_attend(attention, _MASK), _attend(_SDPA, _MASK), (1, 6, 5, 8)),
    "attention, keep": (_attend(attention, _KEEP), _attend(_SDPA, _KEEP), (1, 6, 5, 8)),
    "attention, causal": (
        _attend(attention, is_causal=True), _attend(_SDPA, is_causal=True), (1, 6, 5, 8)
    ),
}  # fmt: skip
cases = pytest.mark.parametrize("name", CASES)
layouts = pytest.mark.parametrize("layout", ["contiguous", "channels last", "samples last"])


def _inputs(shape, layout):
    x = torch.randn(S, *shape)
    if layout == "samples last":
        return x.movedim(0, -1).contiguous().movedim(-1, 0)
    return x.movedim(2, -1).contiguous().movedim(-1, 2) if layout == "channels last" else x


def _both_passes(function, x, cotangents):
    """Outputs `[S, ...]` and pulled-back cotangents `[S, K, ...]`, as the engine nests them."""

    def per_sample(x, cotangents):
        y, pull = vjp(lambda x: function(x, x.dtype), x)
        return y, vmap(lambda c: pull(c)[0])(cotangents)

    return vmap(per_sample)(x, cotangents)


def _one_by_one(function, x, cotangents):
    """The same by plain autograd, in float64."""
    outputs, pulled = [], []
    for sample, rows in zip(x.double(), cotangents.double(), strict=True):
        leaf = sample.contiguous().requires_grad_()
        y = function(leaf, torch.float64)
        grads = [torch.autograd.grad(y, leaf, row, retain_graph=True)[0] for row in rows]
        outputs.append(y.detach())
        pulled.append(torch.stack(grads))
    return torch.stack(outputs), torch.stack(pulled)


def _assert_close(actual, exact):
    for a, e in zip(actual, exact, strict=True):
        assert a.shape == e.shape
        assert (a - e).abs().max() <= 1e-5 * e.abs().max()


@cases
@layouts
def test_forward_and_pull_backs(name, layout):
    ours, theirs, shape = CASES[name]
    x = _inputs(shape, layout)
    exact = _one_by_one(theirs, x, _cotangents(theirs, x))
    _assert_close(_both_passes(ours, x, _cotangents(theirs, x)), exact)


def _cotangents(function, x):
    shape = function(x[0], x.dtype).shape
    return torch.randn(S, K, *shape, generator=torch.Generator().manual_seed(2))


@cases
def test_forward_alone(name):
    ours, theirs, shape = CASES[name]
    x = _inputs(shape, "contiguous")
    with torch.no_grad():
        actual = vmap(lambda x: ours(x, x.dtype))(x)
    exact = torch.stack([theirs(sample, torch.float64) for sample in x.double()])
    _assert_close([actual], [exact])


@cases
def test_inside_a_transform_of_the_models_own(name):
    ours, theirs, shape = CASES[name]
    x = _inputs(shape, "contiguous")

    def nested(function):
        # The model itself takes a derivative of the operation.
        def run(x, like):
            y, pull = vjp(lambda x: function(x, like), x)
            return pull(torch.ones_like(y))[0] * x

        return run

    def plain(x, like):
        # PyTorch's fused attention has no second derivative; its formula has.
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
            leaf = x if x.requires_grad else x.clone().requires_grad_()
            y = theirs(leaf, like)
            (grad,) = torch.autograd.grad(y, leaf, torch.ones_like(y), create_graph=True)
        return grad * leaf

    cotangents = torch.randn(S, K, *shape)
    _assert_close(_both_passes(nested(ours), x, cotangents), _one_by_one(plain, x, cotangents))


@pytest.mark.parametrize("name", ["attention", "group norm"])
def test_a_pull_back_that_is_differentiated_itself(name):
    """Where the operation's input needs no derivative, what is pulled back through it may."""
    ours, theirs, shape = CASES[name]
    fixed, x, weights = torch.randn(S, *shape), torch.randn(S, 1), torch.randn(shape)

    def per_sample(fixed, x):
        def function(x):
            y, pull = vjp(lambda f: ours(f, f.dtype), fixed)
            return pull(y * x.sum())[0]

        y, pull = vjp(function, x)
        return y, pull(weights)[0]

    actual = vmap(per_sample)(fixed, x)
    factor = torch.stack([
        torch.autograd.grad(y := theirs(leaf, torch.float64), leaf, y.detach())[0]
        for leaf in (sample.requires_grad_() for sample in fixed.double())
    ])  # fmt: skip
    sums = (factor * weights).flatten(1).sum(1, keepdim=True)
    _assert_close(actual, [factor * x.view(S, *(1,) * len(shape)), sums])


def test_queries_that_are_the_same_for_all_samples():
    token, x = torch.randn(1, 2, 4, 8), torch.randn(S, 1, 4, 5, 8)

    def pooled(function):
        def run(x, like):
            k, v = x.unflatten(1, (2, 2)).unbind(1)
            return function(token.to(like), k, v)

        return run

    cotangents = torch.randn(S, K, 1, 2, 4, 8)
    exact = _one_by_one(pooled(_SDPA), x, cotangents)
    _assert_close(_both_passes(pooled(attention), x, cotangents), exact)


def test_constants_need_no_derivative():
    # What does not depend on what is differentiated is computed, and no graph is made of it.
    weight, fixed = torch.randn(4, 6), torch.randn(S, 2, 6)

    def per_sample(x, fixed):
        y, pull = vjp(lambda x: x * linear(fixed, weight).sum(), x)
        return y, pull(torch.ones_like(y))[0]

    x = torch.randn(S, 3)
    y, pulled = vmap(per_sample)(x, fixed)
    factor = (fixed @ weight.T).sum((1, 2))[:, None]
    _assert_close([y, pulled], [x * factor, factor.expand(S, 3)])
