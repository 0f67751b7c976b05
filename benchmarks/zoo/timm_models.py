"""Families of timm: of each of its modules, the smallest model, at a small size if it takes one."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.zoo import torchvision_operators
from benchmarks.zoo.judge import CLASSES, SAMPLES, Family, NotMade

_SMALL = ("test_", "atto", "femto", "pico", "nano", "xxs", "xxx", "zepto", "xs", "tiny", "_t_",
          "small", "lite", "mini", "s0", "b0", "_s_", "050", "18", "26", "base")  # fmt: skip
_TRIED = 6  # of a module, in the order of what their names promise
_SIZES = (64, 96, 128, 160, 192, 224, 256, 32)
_MOST = 40_000_000  # parameters of a model that is taken whole if it can be made smaller
_AT_ALL = 90_000_000
# What makes a larger one smaller, as far as its builder knows these names.
_LESS: tuple[dict[str, Any], ...] = (
    {"depth": 2, "embed_dim": 192, "num_heads": 3}, {"depth": 2}, {"depths": (1, 1, 1, 1)}, {}
)  # fmt: skip


def families() -> Iterator[Family]:
    """One a module of timm."""
    torchvision_operators.declare()
    import timm

    for module in sorted(timm.list_modules()):
        if timm.list_models(module=module):
            yield Family("timm", module, lambda module=module: _build(module))  # type: ignore[misc]


def _build(module: str) -> tuple[nn.Module, Tensor, str]:
    import timm

    names = sorted(timm.list_models(module=module), key=_promise)
    sizes = {}
    for name in names[:_TRIED]:
        with contextlib.suppress(Exception), torch.device("meta"):
            model = timm.create_model(name, num_classes=CLASSES)
            sizes[name] = sum(p.numel() for p in model.parameters())
    for name in sorted(sizes, key=lambda name: sizes[name]):
        for less in _LESS if sizes[name] > _MOST else ({},):
            if not less and sizes[name] > _AT_ALL:
                continue
            for size in _SIZES:
                found = _at(name, size, less)
                if found is not None:
                    cut = "".join(f", {key}={value}" for key, value in less.items())
                    return *found, f"{name}{cut}, {size} pixels"
    raise NotMade(f"no model of {module} that is small runs on its own: {sizes or names[:_TRIED]}")


def _promise(name: str) -> tuple[int, int, str]:
    found = [k for k, part in enumerate(_SMALL) if part in name + "_"]
    return (min(found, default=len(_SMALL)), len(name), name)


def _at(name: str, size: int, less: dict[str, Any]) -> tuple[nn.Module, Tensor] | None:
    """The model for images of a size, if it takes them."""
    import timm

    torch.manual_seed(0)
    for options in ({"img_size": size}, {"input_size": (3, size, size)}, {}):
        with contextlib.suppress(Exception):
            model = timm.create_model(name, num_classes=CLASSES, **options, **less).eval()
            channels = model.default_cfg.get("input_size", (3,))[0]
            images = torch.randn(SAMPLES, channels, size, size)
            with torch.no_grad():
                logits = model(images)
            if logits.shape == (SAMPLES, CLASSES) and bool(logits.isfinite().all()):
                return model, images
    return None
