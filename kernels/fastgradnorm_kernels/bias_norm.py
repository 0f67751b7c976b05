"""The norm of a bias added at every position: on any device, by any backend the same operations."""

from torch import Tensor

from fastgradnorm_kernels.reference import accumulation_dtype
from fastgradnorm_kernels.squares import sum_of_squares


def bias_sq_norm(grad_outputs: Tensor) -> Tensor:
    r"""`‖Σ_t g_t‖²` `[...]` of a bias added at every position, from `g [..., T, O]`.

    Plain tensor operations with any leading dimensions: vmap needs no rule.
    """
    total = grad_outputs.to(accumulation_dtype(grad_outputs.dtype))
    single = total.shape[-2] == 1 and total.is_contiguous()  # whose norm has the same bits
    total = total[..., 0, :] if single else total.sum(-2)
    return sum_of_squares(total)
