"""Features [N, D] and weight [C, D] to the scores of :mod:`logit_head`, some rows at a time.

The logits of these rows are one product of the library's, in float32 whatever its operands are, and
are read once. To form each of them twice and keep none, as Cut Cross-Entropy does (Wijmans et al.
2025, arXiv 2411.09009), took three to five times as long on an H100 (`by rows` in
`benchmarks/results/gpu_heads.json`).
"""

import torch
from torch import Tensor

from fastgradnorm_kernels import logit_head
from fastgradnorm_kernels._validate import check_linear_head
from fastgradnorm_kernels.reference import HeadScores
from fastgradnorm_kernels.shapes import Float

_LOGITS = 1 << 27  # in memory at a time: 512 MiB
_LEAST = 128  # rows, which products need to be fast


def _logits(h: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`h Wᵀ + b` in float32."""
    if h.dtype != torch.float32 and h.is_cuda:
        if bias is None:
            return torch.mm(h, weight.mT, out_dtype=torch.float32)
        return torch.addmm(bias.float(), h, weight.mT, out_dtype=torch.float32)
    h, weight = h.float(), weight.float()
    return h @ weight.mT if bias is None else torch.addmm(bias.float(), h, weight.mT)


def linear_head_scores(
    features: Float[Tensor, "N D"],
    weight: Float[Tensor, "C D"],
    bias: Float[Tensor, " C"] | None = None,
) -> HeadScores:
    """As :func:`fastgradnorm_kernels.reference.linear_head_scores`, with few logits in memory."""
    check_linear_head(features, weight, bias)
    rows = max(_LEAST, _LOGITS // max(1, weight.shape[0]))
    q = torch.linalg.vector_norm(features, dim=-1, dtype=torch.float32).square()
    q = q if bias is None else q + 1
    parts = [
        logit_head.head_scores(_logits(h, weight, bias), some)
        for h, some in zip(features.split(rows), q.split(rows), strict=True)
    ]
    return HeadScores(*(torch.cat(scores) for scores in zip(*parts, strict=True)))
