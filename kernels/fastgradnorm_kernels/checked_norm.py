r"""Ghost norms whose terms did not cancel, and direct norms in the place of the others.

Four launches, whatever is found: both sums of the ghost form in parts, what they come to and which
of them lost their digits, those formed again, and these put in their place. A program adds up the
parts of one norm, in the same order each time.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastgradnorm_kernels import direct_norm, ghost_norm, gradients, windows
from fastgradnorm_kernels._launch import LAUNCH
from fastgradnorm_kernels._validate import check_pair, check_precision, dense
from fastgradnorm_kernels.gradients import Gradients
from fastgradnorm_kernels.shapes import Float
from fastgradnorm_kernels.windows import Windows

_BLOCK = 128  # parts that are added at a time
_WARPS = 1


@triton.jit
def _added(parts_ptr, row, K, groups, width, BLOCK: tl.constexpr):
    """The sum of norm `row` over groups and width of `[N, groups, K, width]`."""
    n, k = tl.cast(row // K, tl.int64), row % K  # divided by 32 bits, which compiles to far less
    total = tl.zeros([BLOCK], tl.float32)
    for group in range(groups):
        first = ((n * groups + group) * K + k) * width
        for start in range(0, width, BLOCK):
            place = start + tl.arange(0, BLOCK)
            total += tl.load(parts_ptr + first + place, mask=place < width, other=0.0)
    return tl.sum(total)


@triton.jit(do_not_specialize=["K", "groups", "width"])
def _settled_kernel(
    sq_norm_ptr,  # [N, groups, K, width], float32
    uncancelled_ptr,  # the same
    settled_ptr,  # [N, K], float32
    lost_ptr,  # [N, K], int8
    K,
    groups,
    width,
    CANCELLED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0)
    sq_norm = _added(sq_norm_ptr, row, K, groups, width, BLOCK)
    uncancelled = _added(uncancelled_ptr, row, K, groups, width, BLOCK)
    tl.store(settled_ptr + row, sq_norm)
    tl.store(lost_ptr + row, (sq_norm < CANCELLED * uncancelled).to(tl.int8))


@triton.jit(do_not_specialize=["K", "groups", "width"])
def _again_kernel(
    parts_ptr,  # [N, groups, K, width], float32
    lost_ptr,  # [N, K], int8
    settled_ptr,  # [N, K], float32
    K,
    groups,
    width,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0)
    if tl.load(lost_ptr + row) != 0:
        tl.store(settled_ptr + row, _added(parts_ptr, row, K, groups, width, BLOCK))


def launch(
    activations: Windows, grads: Gradients, cancelled: float, input_precision: str
) -> Float[Tensor, "N K"]:
    """Norms of all groups together; direct ones below the share `cancelled` of what is added."""
    n, k = grads.g.shape[:2]
    sq_norm, uncancelled = ghost_norm.parts(activations, grads, input_precision, None)
    settled = torch.empty(n, k, dtype=torch.float32, device=sq_norm.device)
    lost = torch.empty(n, k, dtype=torch.int8, device=sq_norm.device)
    options = {"BLOCK": _BLOCK, "num_warps": _WARPS, **LAUNCH}
    if not settled.numel():
        return settled
    _settled_kernel[(n * k,)](
        *(sq_norm, uncancelled, settled, lost, k, sq_norm.shape[1], sq_norm.shape[3]),
        CANCELLED=cancelled,
        **options,
    )
    first = 0  # of the cotangents: more of them than are numbered at once come in parts
    for again in direct_norm.parts(activations, grads, lost, input_precision, None):
        some = slice(first, first + again.shape[2])
        first += again.shape[2]
        whole = again.shape[2] == k
        rows, marks = (t if whole else t[:, some].contiguous() for t in (settled, lost))
        _again_kernel[(rows.numel(),)](
            *(again, marks, rows, again.shape[2], again.shape[1], again.shape[3]), **options
        )
        if not whole:
            settled[:, some] = rows
    return settled


def checked_sq_norm(
    activations: Float[Tensor, "N T I"],
    grad_outputs: Float[Tensor, "N K T O"],
    cancelled: float,
    *,
    input_precision: str = "ieee",
) -> Float[Tensor, "N K"]:
    """`‖Σ_t g_t a_tᵀ‖²` of a linear weight."""
    check_pair(activations, grad_outputs)
    check_precision(input_precision)
    a = windows.of_linear(dense(activations, 2))
    return launch(a, gradients.of(grad_outputs), cancelled, input_precision)
