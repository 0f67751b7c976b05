"""Rotations of space, uniform over SO(3)."""

import torch
from torch import Tensor


def uniform_rotations(n: int, generator: torch.Generator) -> Tensor:
    """Rotation matrices `[n, 3, 3]`, float64, uniform by the Haar measure.

    A normalised Gaussian vector in four dimensions is a uniform unit quaternion (Shoemake, 1992).
    """
    q = torch.randn(n, 4, generator=generator, dtype=torch.float64)
    w, x, y, z = (q / q.norm(dim=1, keepdim=True)).unbind(1)
    rows = [
        1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
        2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
        2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
    ]  # fmt: skip
    return torch.stack(rows, 1).reshape(n, 3, 3)
