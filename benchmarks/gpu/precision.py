"""How exactly products are made: the modes that a user may score in."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Mode:
    """One way to make products.

    Attributes:
        tf32: Through which of PyTorch's interfaces TF32 is asked for; "off" forbids it to cuDNN
            too, and None leaves everything as PyTorch has it.
        autocast: The scorer's option.
    """

    name: str
    tf32: str | None = None
    autocast: torch.dtype | None = None

    @property
    def rate(self) -> str:
        """Which measured rate of matrix products bounds it."""
        if self.autocast is not None:
            return "bfloat16"
        return "tf32" if self.tf32 in ("old", "new") else "ieee"

    @contextmanager
    def set(self) -> Iterator[None]:
        """PyTorch's own switches as the mode has them, put back at the end."""
        if self.tf32 is None:
            yield
            return
        parts = (torch.backends.cuda.matmul, torch.backends.cudnn.conv, torch.backends.cudnn.rnn)
        asked = [part.fp32_precision for part in parts]  # "none" until somebody asks
        try:
            with self._older() if self.tf32 != "new" else nullcontext():
                if self.tf32 == "new":
                    parts[0].fp32_precision = parts[1].fp32_precision = "tf32"
                yield
        finally:
            for part, precision in zip(parts, asked, strict=True):
                part.fp32_precision = precision

    @contextmanager
    def _older(self) -> Iterator[None]:
        """By the older interface."""
        try:
            before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
        except RuntimeError:  # somebody has used the newer interface, beside which these are mute
            before = "highest", True
        torch.set_float32_matmul_precision("high" if self.tf32 == "old" else "highest")
        torch.backends.cudnn.allow_tf32 = self.tf32 == "old"
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(before[0])
            torch.backends.cudnn.allow_tf32 = before[1]


FLOAT32 = Mode("float32")
IEEE = Mode("float32, no TF32 in cuDNN", "off")
TF32 = Mode("tf32", "old")
TF32_NEW = Mode("tf32, newer switches", "new")
BF16 = Mode("bf16 autocast", autocast=torch.bfloat16)
