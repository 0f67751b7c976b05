"""The realistic shapes at which kernels are measured on a GPU, and the least work of each."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from fastgradnorm_kernels import (
    affine_norm,
    bucket_sums,
    choose_form,
    conv_norm,
    conv_patches,
    direct_norm,
    embedding_norm,
    form_flops,
    ghost_norm,
    hash_codes,
    hash_table,
    linear_head,
    logit_head,
    reference,
)
from fastgradnorm_kernels._hashing import torch_hashed_sums
from fastgradnorm_kernels.geometry import Geometry
from torch import Tensor

# layer, channels in, channels out, input side, (kernel, stride, padding, dilation)
RESNET_18: list[tuple[str, int, int, int, Geometry]] = [
    ("stem", 3, 64, 224, Geometry((7, 7), (2, 2), (3, 3), (1, 1))),
    ("layer1", 64, 64, 56, Geometry((3, 3), (1, 1), (1, 1), (1, 1))),
    ("layer2", 128, 128, 28, Geometry((3, 3), (1, 1), (1, 1), (1, 1))),
    ("layer3", 256, 256, 14, Geometry((3, 3), (1, 1), (1, 1), (1, 1))),
    ("layer4", 512, 512, 7, Geometry((3, 3), (1, 1), (1, 1), (1, 1))),
]
# layer, inputs, outputs
VIT_B = [("qkv", 768, 2304), ("out", 768, 768), ("fc1", 768, 3072), ("fc2", 3072, 768)]


@dataclass
class Case:
    """One shape: inputs made on demand, the kernel, the reference, and the least work there is."""

    operation: str
    shape: str
    dtype: torch.dtype
    precision: str  # of float32 products: "ieee" or "tf32"
    make: Callable[[], tuple[Any, ...]]
    kernel: Callable[..., Any]
    reference: Callable[..., Any]
    flops: float
    read: int  # elements of floating-point input, each read once

    @property
    def bytes(self) -> int:
        """Bytes that no implementation can do without."""
        return self.read * self.dtype.itemsize


def _normal(device: torch.device, dtype: torch.dtype, *shape: int) -> Tensor:
    return torch.randn(shape, device=device, dtype=dtype)


def _heads(device: torch.device, dry: bool) -> Iterator[Case]:
    shapes = [(65_536, 10), (65_536, 1000), (32_768, 4096), (16_384, 21_841), (4096, 128_256)]
    for n, c in [(3, 10), (2, 70)] if dry else shapes:
        for dtype in (torch.float32, torch.bfloat16):

            def make(n: int = n, c: int = c, dtype: torch.dtype = dtype) -> tuple[Any, ...]:
                return _normal(device, dtype, n, c), torch.rand(n, device=device) + 1

            yield Case(
                "head_scores",
                f"N={n} C={c}",
                dtype,
                "ieee",
                make,
                logit_head.head_scores,
                reference.head_scores,
                0,
                n * c,
            )
    for n, d, c in [(3, 20, 40)] if dry else [(1024, 2048, 32_000), (4096, 4096, 131_072)]:
        for dtype, precision in ((torch.bfloat16, "ieee"), (torch.float32, "tf32")):

            def make_linear(
                n: int = n, d: int = d, c: int = c, dtype: torch.dtype = dtype
            ) -> tuple[Any, ...]:
                weight = _normal(device, dtype, c, d) * d**-0.5
                return _normal(device, dtype, n, d), weight, _normal(device, dtype, c)

            yield Case(
                "linear_head_scores",
                f"N={n} D={d} C={c}",
                dtype,
                precision,
                make_linear,
                linear_head.linear_head_scores,
                reference.linear_head_scores,
                2.0 * n * d * c,
                n * d + c * d + c,
            )


def _at(kernel: Callable[..., Any], precision: str) -> Callable[..., Any]:
    def call(*inputs: Any) -> Any:
        return kernel(*inputs, input_precision=precision)

    return call


_PRODUCTS = ((torch.bfloat16, "ieee"), (torch.float32, "tf32"), (torch.float32, "ieee"))


def _linears(device: torch.device, dry: bool) -> Iterator[Case]:
    n, k, t = (2, 2, 5) if dry else (16, 10, 197)
    for layer, i, o in [("tiny", 6, 7)] if dry else VIT_B:
        for dtype, precision in _PRODUCTS:
            for form in ("ghost", "direct"):

                def make(i: int = i, o: int = o, dtype: torch.dtype = dtype) -> tuple[Any, ...]:
                    return _normal(device, dtype, n, t, i), _normal(device, dtype, n, k, t, o)

                module = ghost_norm if form == "ghost" else direct_norm
                name = f"{form}_sq_norm"
                yield Case(
                    name,
                    f"ViT-B {layer}: N={n} K={k} T={t} I={i} O={o}",
                    dtype,
                    precision,
                    make,
                    _at(getattr(module, name), precision),
                    getattr(reference, name),
                    float(n * form_flops(form, t, i, o, k)),
                    n * t * (i + k * o),
                )


def _conv_reference(form: str, geometry: Geometry) -> Callable[..., Any]:
    def call(x: Tensor, g: Tensor) -> Any:
        a = conv_patches(x, *geometry).mT
        rows = g.flatten(3).mT
        if form == "ghost":
            return reference.ghost_sq_norm(a, rows)
        return reference.direct_sq_norm(a, rows)

    return call


def _conv_kernel(form: str, geometry: Geometry, precision: str) -> Callable[..., Any]:
    ghost, direct = conv_norm.conv_ghost_sq_norm, conv_norm.conv_direct_sq_norm
    kernel: Callable[..., Any] = ghost if form == "ghost" else direct

    def call(x: Tensor, g: Tensor) -> Any:
        return kernel(x, g, geometry, 1, input_precision=precision)

    return call


def _convolutions(device: torch.device, dry: bool) -> Iterator[Case]:
    n, k = (2, 2) if dry else (16, 10)
    tiny = [("tiny", 3, 4, 6, Geometry((3, 3), (1, 1), (1, 1), (1, 1)))]
    for layer, c, o, side, geometry in tiny if dry else RESNET_18:
        out, _ = geometry.out((side, side))
        i, t = c * math.prod(geometry.kernel_size), out * out
        form = choose_form(t, i, o, k)
        for dtype, precision, last in [*((*p, False) for p in _PRODUCTS), (*_PRODUCTS[0], True)]:

            def make(
                sizes: tuple[int, ...] = (c, side, o, out), dtype: Any = dtype, last: bool = last
            ) -> tuple[Any, ...]:
                inputs, side, outputs, out = sizes
                if last:
                    x = _normal(device, dtype, n, side, side, inputs).movedim(-1, 1)
                    return x, _normal(device, dtype, n, k, out, out, outputs).movedim(-1, 2)
                x = _normal(device, dtype, n, inputs, side, side)
                return x, _normal(device, dtype, n, k, outputs, out, out)

            yield Case(
                "conv_sq_norm",
                f"ResNet-18 {layer} {form}{', channels last' * last}: N={n} K={k} T={t} I={i} "
                f"O={o}",
                dtype,
                precision,
                make,
                _conv_kernel(form, geometry, precision),
                _conv_reference(form, geometry),
                float(n * form_flops(form, t, i, o, k)),
                n * (c * side * side + k * o * t),
            )


def _others(device: torch.device, dry: bool) -> Iterator[Case]:
    n, k = (2, 2) if dry else (32, 10)
    layouts = [("ViT-B norm", 197, 768, False), ("ResNet-18 layer1", 3136, 64, True)]
    for layer, t, d, last in [("tiny", 5, 6, True)] if dry else layouts:
        for dtype in (torch.float32, torch.bfloat16):

            def make(
                t: int = t, d: int = d, last: bool = last, dtype: torch.dtype = dtype
            ) -> tuple[Any, ...]:
                shape = (d, t) if last else (t, d)
                x, g = _normal(device, dtype, n, *shape), _normal(device, dtype, n, k, *shape)
                return (x.mT, g.mT) if last else (x, g)

            yield Case(
                "affine_sq_norm",
                f"{layer}: N={n} K={k} T={t} D={d}",
                dtype,
                "ieee",
                make,
                affine_norm.affine_sq_norm,
                reference.affine_sq_norm,
                0,
                n * t * d * (1 + k),
            )
    t, o = (7, 6) if dry else (512, 768)
    for dtype in (torch.float32, torch.bfloat16):

        def make_ids(dtype: torch.dtype = dtype) -> tuple[Any, ...]:
            ids = (
                30_000 * torch.rand(n, t, device=device).pow(4)
            ).long()  # a few tokens are common
            return ids, _normal(device, dtype, n, k, t, o), 0

        yield Case(
            "embedding_sq_norm",
            f"N={n} K={k} T={t} O={o}",
            dtype,
            "ieee",
            make_ids,
            embedding_norm.embedding_sq_norm,
            reference.embedding_sq_norm,
            0,
            n * k * t * o,
        )


def _hashed(device: torch.device, dry: bool) -> Iterator[Case]:
    n, r, c, dim = (2, 3, 5, 4) if dry else (32, 512, 4608, 512)
    for dtype in (torch.float32, torch.bfloat16):

        def make_hashed(dtype: torch.dtype = dtype) -> tuple[Any, ...]:
            columns, rows = (torch.randperm(size, device=device)[None] % dim for size in (c, r))
            table = hash_table(columns, torch.ones_like(columns), dim)
            codes = hash_codes(rows, torch.ones_like(rows))
            return _normal(device, dtype, n, 1, r, c).abs(), table, codes

        yield Case(
            "hashed_sums",
            f"N={n} R={r} C={c} dim={dim}",
            dtype,
            "ieee",
            make_hashed,
            bucket_sums.hashed_sums,
            torch_hashed_sums,
            0,
            n * r * c,
        )


def cases(device: torch.device, dry: bool) -> list[Case]:
    """Every case, or tiny ones; the interpreter has no bfloat16 products."""
    found = [
        case
        for make in (_heads, _linears, _convolutions, _others, _hashed)
        for case in make(device, dry)
    ]
    return [case for case in found if not (device.type == "cpu" and case.dtype == torch.bfloat16)]
