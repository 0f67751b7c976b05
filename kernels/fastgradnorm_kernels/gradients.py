"""Output gradients as they lie in memory: positions last or outputs last, no copy for either."""

import math
from typing import Any, NamedTuple

from torch import Tensor

from fastgradnorm_kernels.shapes import Float
from fastgradnorm_kernels.windows import vector


class Gradients(NamedTuple):
    """Output gradients `[N, K, T, O]` with any strides of samples and cotangents.

    Attributes:
        g: The memory, `[N, K, T, O]`.
        positions_last: Whether neighbours in memory are neighbouring positions, not outputs.
        stride: Elements from one output to the next where the positions are last, else from one
            position to the next.
        vector: What the contiguous size and all strides are multiples of.
    """

    g: Tensor
    positions_last: bool
    stride: int
    vector: int

    def arguments(self) -> dict[str, Any]:
        """As the kernels take them."""
        return {
            "g_stride_n": self.g.stride(0),
            "g_stride_k": self.g.stride(1),
            "g_stride": self.stride,
            "POSITIONS_LAST": self.positions_last,
            "VECTOR_G": self.vector,
        }


def of(grad_outputs: Float[Tensor, "N K T O"], groups: int = 1) -> Gradients:
    """Those of `groups` groups; copied where neither positions nor outputs are contiguous.

    And where one sample and cotangent are spread over more than 32 bits reach.
    """
    g = grad_outputs
    t, o = g.shape[2:]
    step_t, step_o = g.stride()[2:]
    outputs_last = step_o == 1 or o == 1
    if not outputs_last and step_t != 1 and t != 1:
        return of(g.contiguous(), groups)
    stride, contiguous, others = (step_t, o // groups, t) if outputs_last else (step_o, t, o)
    if stride * others >= 2**31:
        return of(g.contiguous(), groups)
    steps = [step for step, size in zip(g.stride()[:2], g.shape[:2], strict=True) if size > 1]
    aligned = vector(math.gcd(contiguous, stride, *steps), g.element_size())
    return Gradients(g, not outputs_last, stride, aligned)
