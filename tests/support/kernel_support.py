"""Inputs that show a stray read, budgets that show a stray digit, and the float64 referee."""

import fcntl
import functools
import mmap
import tempfile
from pathlib import Path
from typing import NamedTuple

import mpmath
import numpy as np
import pytest
import torch
from torch.nn import functional as F

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
_GUARD = 64  # elements: keeps the alignment that Triton sees
_ROOM_FOR_ROWS, _ALIGNED = 1 << 18, 256  # bytes


class Mode(NamedTuple):
    """What kernels are run in, and how far from exact they may be beyond the reference."""

    dtype: torch.dtype
    precision: str
    slack: float


# Inputs are the same numbers for the kernel, the reference and the oracle, and products are summed
# in float32: no dtype but TF32 loses more than float32 does. The interpreter's bfloat16 products
# are wrong.
_MODES = {
    "float32": Mode(torch.float32, "ieee", 2e-6),
    "float16": Mode(torch.float16, "ieee", 2e-6),
    # Which is float32 in the interpreter; how it is launched is that of all split products.
    "tf32x3": Mode(torch.float32, "tf32x3", 2e-6),
}
if DEVICE.type == "cuda":
    _MODES |= {
        "bfloat16": Mode(torch.bfloat16, "ieee", 2e-6),
        "tf32": Mode(torch.float32, "tf32", 1e-2),
        "tf32x3": Mode(torch.float32, "tf32x3", 1e-5),
        "bf16x6": Mode(torch.float32, "bf16x6", 1e-5),
    }
product_modes = pytest.mark.parametrize("mode", _MODES.values(), ids=_MODES.keys())
dtypes = pytest.mark.parametrize(
    "dtype", sorted({mode.dtype for mode in _MODES.values()}, key=str), ids=str
)


def randn(*shape, dtype=torch.float32):
    """Normal random numbers, on the GPU where there is one."""
    return torch.randn(*shape).to(dtype).to(DEVICE)


def guarded(x):
    """The same tensor between two strips of NaN: a kernel that reads outside it says so."""
    buffer = torch.full((x.numel() + 2 * _GUARD,), torch.nan, dtype=x.dtype, device=x.device)
    inside = buffer[_GUARD : _GUARD + x.numel()].view(x.shape)
    return inside.copy_(x)


def scattered(x):
    """The same values, with no dimension contiguous and NaN in every gap."""
    wide = torch.full([2 * size + 1 for size in x.shape], torch.nan, dtype=x.dtype, device=x.device)
    view = wide[tuple(slice(1, None, 2) for _ in x.shape)]
    return view.copy_(x)


def far_apart(x):
    """The same values, the first dimension 2³⁰ elements and more apart.

    Index 2 there lies beyond what 32 bits address, though the stride fits in them. Memory that is
    not touched is not there; on a GPU it is, and all of a test share it.
    """
    apart = 2**30 + 64
    steps = (apart, *torch.empty(x.shape[1:]).stride())
    if x.is_cuda:
        memory, start = _ROOM.place((len(x) - 1) * apart, x)
        return memory.as_strided(x.shape, steps, start).copy_(x)
    no_reserve = 0x4000  # MAP_NORESERVE on Linux; Python names it from 3.13 on
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | no_reserve
    length = (len(x) - 1) * apart + x[0].numel()
    memory = mmap.mmap(-1, length * x.element_size(), flags=flags)
    return torch.frombuffer(memory, dtype=x.dtype).as_strided(x.shape, steps).copy_(x)


class _Room:
    """The memory of a GPU in which tensors lie far apart: 8.6 GB, of one process at a time."""

    def __init__(self):
        self.memory, self.lock, self.used = None, None, 0

    def place(self, reach, x):
        """Memory as elements of x's dtype, and where in it there is room for a tensor like x."""
        size = x.element_size()
        if self.memory is None:
            self.lock = open(Path(tempfile.gettempdir()) / "fastgradnorm-far-apart.lock", "w")  # noqa: SIM115
            fcntl.flock(self.lock, fcntl.LOCK_EX)
        needed = reach * size + _ROOM_FOR_ROWS
        if self.memory is None or self.memory.numel() < needed:
            self.memory = torch.empty(needed, dtype=torch.uint8, device=x.device)
        start = self.used
        self.used += -(-x[0].numel() * size // _ALIGNED) * _ALIGNED
        assert self.used <= _ROOM_FOR_ROWS
        return self.memory.view(x.dtype), start // size

    def leave(self):
        """For the next."""
        if self.lock is not None:
            self.memory, self.used = None, 0
            torch.cuda.empty_cache()
            self.lock.close()
            self.lock = None


_ROOM = _Room()


def leave_room():
    """After a test: what lay far apart is gone, and another process may."""
    _ROOM.leave()


@functools.cache
def _rows_alike_anywhere():
    """Whether the interpreter's products, which are NumPy's, give a row its bits wherever it is.

    As matrix units do; NumPy does so with AVX-512, and not with AVX2.
    """
    draws = np.random.default_rng(0)
    a, b = (draws.standard_normal((32, 32), dtype=np.float32) for _ in range(2))
    return np.array_equal(np.roll(a, 1, 0) @ b, np.roll(a @ b, 1, 0))


def assert_same_bits(found, expected):
    """Of rows that stand elsewhere in a tile; to rounding where NumPy itself makes others there."""
    if DEVICE.type == "cuda" or _rows_alike_anywhere():
        assert torch.equal(found, expected)
    else:
        largest = float(expected.abs().max())
        torch.testing.assert_close(found, expected, rtol=2e-6, atol=1e-6 * largest)


def assert_within_budget(actual, reference, exact, slack):
    """`|actual - exact| <= |reference - exact| + slack max|exact|`, element by element."""
    assert actual.shape == reference.shape == exact.shape
    assert actual.dtype == torch.float32
    actual, reference, exact = (x.double().cpu() for x in (actual, reference, exact))
    if actual.numel() == 0:
        return
    error, allowed = (actual - exact).abs(), (reference - exact).abs() + slack * exact.abs().max()
    assert actual.isfinite().all(), f"not finite: {actual}"
    worst = (error / allowed.clamp_min(1e-300)).argmax()
    assert (error <= allowed).all(), (
        f"error {error.flatten()[worst]:.3g}, allowed {allowed.flatten()[worst]:.3g}: "
        f"{actual.flatten()[worst]:.9g}, not {exact.flatten()[worst]:.9g}"
    )


def per_pair(n, k, gradient):
    """`‖gradient(n, k)‖²` [N, K] in float64, one plain gradient at a time."""
    rows = [[gradient(i, j).square().sum() for j in range(k)] for i in range(n)]
    return torch.stack([torch.stack(row) for row in rows]) if n * k else torch.zeros(n, k).double()


def linear_oracle(a, g):
    """Squared norm of the weight's gradient of `F.linear`."""
    a, g = a.double().cpu(), g.double().cpu()
    weight = torch.zeros(g.shape[-1], a.shape[-1], dtype=torch.float64, requires_grad=True)

    def gradient(n, k):
        return torch.autograd.grad(F.linear(a[n], weight), weight, g[n, k])[0]

    return per_pair(*g.shape[:2], gradient)


def conv_oracle(x, g, geometry, groups):
    """Squared norm of the weight's gradient of `F.conv1d`, `2d` or `3d`."""
    x, g = x.double().cpu(), g.double().cpu()
    kernel, stride, padding, dilation = geometry
    conv = (F.conv1d, F.conv2d, F.conv3d)[len(kernel) - 1]
    shape = (g.shape[2], x.shape[1] // groups, *kernel)
    weight = torch.zeros(shape, dtype=torch.float64, requires_grad=True)

    def gradient(n, k):
        out = conv(x[n : n + 1], weight, None, stride, padding, dilation, groups)
        return torch.autograd.grad(out, weight, g[n : n + 1, k])[0]

    return per_pair(*g.shape[:2], gradient)


def affine_oracle(x, g):
    """Squared norms of the gradients of `w` and `b` in `x w + b`."""
    x, g = x.double().cpu(), g.double().cpu()
    w = torch.ones(x.shape[-1], dtype=torch.float64, requires_grad=True)
    b = torch.zeros(x.shape[-1], dtype=torch.float64, requires_grad=True)

    def gradient(of):
        return lambda n, k: torch.autograd.grad(x[n] * w + b, of, g[n, k])[0]

    return per_pair(*g.shape[:2], gradient(w)), per_pair(*g.shape[:2], gradient(b))


def embedding_oracle(ids, g, padding_idx, vocabulary=64):
    """Squared norm of the table's gradient of `F.embedding`."""
    ids, g = ids.cpu().long(), g.double().cpu()
    table = torch.zeros(vocabulary, g.shape[-1], dtype=torch.float64, requires_grad=True)

    def gradient(n, k):
        out = F.embedding(ids[n], table, padding_idx)
        return torch.autograd.grad(out, table, g[n, k])[0]

    return per_pair(*g.shape[:2], gradient)


def head_oracle(logits, q):
    """The three scores in float64, from the gradients of `-log p_c` and of the entropy."""
    rows = []
    for z, scale in zip(logits.double().cpu(), q.double().cpu(), strict=True):
        z = z.clone().requires_grad_()
        log_p = z.log_softmax(0)
        p = log_p.detach().exp()
        norms = torch.stack(
            [torch.autograd.grad(-log_p[c], z, retain_graph=True)[0].norm() for c in range(len(z))]
        )
        entropy = torch.autograd.grad(-(log_p.exp() * log_p).sum(), z)[0].norm()
        root = scale.sqrt()
        rows.append([root * (p @ norms), scale * (p @ norms.square()), root * entropy])
    return torch.tensor(rows, dtype=torch.float64).reshape(-1, 3).unbind(1)


def confident_oracle(logits, q):
    """The three scores from their definitions, with 80 digits."""
    rows = []
    with mpmath.workdps(80):
        for z, scale in zip(logits.double().tolist(), q.double().tolist(), strict=True):
            weights = [mpmath.exp(mpmath.mpf(x)) for x in z]
            total = mpmath.fsum(weights)
            p = [w / total for w in weights]
            square = mpmath.fsum(x * x for x in p)
            expected = mpmath.fsum(x * mpmath.sqrt(square - 2 * x + 1) for x in p)
            entropy = -mpmath.fsum(x * mpmath.log(x) for x in p)
            cotangent = mpmath.fsum((x * (mpmath.log(x) + entropy)) ** 2 for x in p)
            root = mpmath.sqrt(scale)
            row = (root * expected, scale * (1 - square), root * mpmath.sqrt(cotangent))
            rows.append([float(x) for x in row])
    return torch.tensor(rows, dtype=torch.float64).unbind(1)
