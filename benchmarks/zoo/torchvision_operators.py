"""torchvision, imported beside a PyTorch that its own library was not built for."""

from importlib.util import find_spec
from typing import Any

import torch

# Importing torchvision asks for its operators; timm and transformers use its transforms alone.
_OPERATORS = (
    "nms", "qnms", "roi_align", "qroi_align", "roi_pool", "ps_roi_align", "ps_roi_pool",
    "deform_conv2d", "_roi_align_backward", "_roi_pool_backward", "_ps_roi_align_backward",
    "_ps_roi_pool_backward", "_deform_conv2d_backward",
)  # fmt: skip
_kept: list[Any] = []


def declare() -> None:
    """Declares torchvision's operators, without an implementation, where they do not load.

    Where they do, importing torchvision succeeds, and nothing is declared: what is raised beside
    its own operators is another fault, and not hidden.
    """
    if find_spec("torchvision") is None or _kept:
        return
    try:
        import torchvision  # noqa: F401
    except (RuntimeError, ImportError):
        if hasattr(torch.ops.torchvision, "nms"):
            raise
        library = torch.library.Library("torchvision", "DEF")
        for name in _OPERATORS:
            library.define(f"{name}(Tensor x) -> Tensor")
        _kept.append(library)  # its operators go with it
