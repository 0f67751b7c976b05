"""Times tiles of the product kernels against cuBLAS, in about a minute on a GPU.

    python -m benchmarks.kernels.variants           # bfloat16, the shapes that count
    python -m benchmarks.kernels.variants tf32      # or ieee, tf32x3, bf16x6
    python -m benchmarks.kernels.variants --dry     # tiny shapes, interpreted, times mean nothing

One line a shape, memory layout and form: the time of every tile of `tiles.candidates` (the one in
use first, the best marked), its rate, and cuBLAS's time for the same product from patches that are
in memory already and with the gradients written, which no kernel here does. Errors of a tile are
printed, not raised. The first call of each is checked against the first tile's result.
"""

import argparse
import functools
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Shape(NamedTuple):
    """A layer: `side` of a convolution's output, or 0 for a linear layer of `t` positions."""

    name: str
    n: int
    t: int
    i: int
    o: int
    side: int
    kernel: int = 3
    stride: int = 1


_AHEAD = 1_000_000  # cycles of the device, half a millisecond and more
K = 10
SHAPES = [
    Shape("stem", 256, 1024, 3, 64, 32),
    Shape("layer1", 256, 1024, 64, 64, 32),
    Shape("layer2 down", 256, 256, 64, 128, 16, 3, 2),
    Shape("layer2", 256, 256, 128, 128, 16),
    Shape("layer3", 256, 64, 256, 256, 8),
    Shape("layer4", 256, 16, 512, 512, 4),
    Shape("shortcut3", 256, 64, 128, 256, 8, 1, 2),
    Shape("ViT out", 32, 197, 768, 768, 0),
    Shape("ViT fc1", 32, 197, 768, 3072, 0),
    Shape("ViT fc2", 32, 197, 3072, 768, 0),
    Shape("BERT fc1", 8, 512, 768, 3072, 0),
]
DRY = [Shape("conv", 2, 16, 16, 8, 4), Shape("linear", 2, 20, 16, 24, 0)]


def tensors(shape: Shape, last: bool, dtype: torch.dtype, device: str) -> tuple[Tensor, Tensor]:
    """Inputs and output gradients, with the channels last in memory or not."""
    n, t, i, o, side = shape[1:6]
    if not side:
        return torch.randn(n, t, i, device=device, dtype=dtype), torch.randn(
            n, K, t, o, device=device, dtype=dtype
        )
    space = side * shape.stride
    x = torch.randn(n, i, space, space, device=device, dtype=dtype)
    g = torch.randn(n, K, o, side, side, device=device, dtype=dtype)
    if last:
        x, g = (v.movedim(-3, -1).contiguous().movedim(-1, -3) for v in (x, g))
    return x, g


def milliseconds(call: Callable[[], Any], device: str) -> float:
    """Median of seven runs after two, without what the host takes to start them."""
    call()
    call()
    times = []
    for _ in range(7 if device == "cuda" else 1):
        if device == "cuda":
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            torch.cuda._sleep(_AHEAD)  # all is queued before the device gets there
            start.record()
            call()
            end.record()
            end.synchronize()
            times.append(start.elapsed_time(end))
        else:
            begun = time.perf_counter()
            call()
            times.append(1e3 * (time.perf_counter() - begun))
    return statistics.median(times)


def calls(shape: Shape, x: Tensor, g: Tensor, precision: str) -> Iterator[tuple[str, Any]]:
    """The forms that make sense for this shape, as functions of a tile."""
    from fastgradnorm_kernels import choose_form, conv_norm, direct_norm, ghost_norm

    pad = shape.kernel // 2
    options = ((shape.kernel,) * 2, (shape.stride,) * 2, (pad,) * 2, (1, 1))
    inputs = shape.i * (shape.kernel**2 if shape.side else 1)
    likely = choose_form(shape.t, inputs, shape.o, K)

    def form(name: str) -> Callable[[Any], Any]:
        if shape.side:
            function: Any = getattr(conv_norm, f"conv_{name}_sq_norm")
            return lambda tile: function(x, g, options, 1, input_precision=precision, tile=tile)
        function = getattr({"direct": direct_norm, "ghost": ghost_norm}[name], f"{name}_sq_norm")
        return lambda tile: function(x, g, input_precision=precision, tile=tile)

    yield likely, form(likely)
    if 128 <= shape.t <= 512:
        other = "direct" if likely == "ghost" else "ghost"
        yield other, form(other)


def yardstick(shape: Shape, form: str, g: Tensor) -> Callable[[], Any]:
    """The same product through `torch.bmm`, of random patches that are in memory already."""
    n = min(shape.n, 64)
    inputs = shape.i * (shape.kernel**2 if shape.side else 1)
    a = torch.randn(n, shape.t, inputs, device=g.device, dtype=g.dtype)
    rows = torch.randn(n, K * shape.o, shape.t, device=g.device, dtype=g.dtype)
    if form == "direct":
        return lambda: torch.bmm(rows, a)
    grads = torch.randn(n * K, shape.t, shape.o, device=g.device, dtype=g.dtype)
    return lambda: (torch.bmm(a, a.mT), torch.bmm(grads, grads.mT))


def line(shape: Shape, last: bool, dtype: torch.dtype, precision: str, device: str) -> None:
    """Every tile of every form."""
    from fastgradnorm_kernels import form_flops, tiles

    x, g = tensors(shape, last, dtype, device)
    for form, call in calls(shape, x, g, precision):
        inputs = shape.i * (shape.kernel**2 if shape.side else 1)
        flops = shape.n * form_flops(form, shape.t, inputs, shape.o, K)  # type: ignore[arg-type]
        found, first = [], None
        for tile in [None, *tiles.candidates(form, dtype, precision, g.device)]:
            name = (
                "used" if tile is None else f"{tile.rows}x{tile.columns}w{tile.warps}s{tile.stages}"
            )
            try:
                result = call(tile)
                result = result if isinstance(result, Tensor) else result[0]
                first = result if first is None else first
                if not torch.allclose(result, first, rtol=2e-2):
                    name += " WRONG"
                found.append((name, milliseconds(functools.partial(call, tile), device)))
            except Exception as error:
                print(f"    {name}: {type(error).__name__}: {str(error)[:100]}")
        best = min(found, key=lambda pair: pair[1])[0]
        texts = [
            f"{'*' if name == best else ''}{name} {ms:.3f} ({flops / ms / 1e9:.0f})"
            for name, ms in found
        ]
        share = min(shape.n, 64) / shape.n
        try:
            cublas = f"{milliseconds(yardstick(shape, form, g), device) / share:.3f}"
        except torch.OutOfMemoryError:
            cublas = "out of memory"
        layout = "last" if last else "first"
        print(
            f"{shape.name} {form} {layout} N={shape.n} T={shape.t} I={inputs} O={shape.o} "
            f"| cuBLAS {cublas} | ms (TFLOP/s) {', '.join(texts)}",
            flush=True,
        )


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kernels.variants")
    parser.add_argument("precision", nargs="?", default="bf16")
    parser.add_argument("--dry", action="store_true")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--only", default="", help="names of shapes that contain this")
    options = parser.parse_args(argv)
    device = "cpu" if options.dry else "cuda"
    if options.dry:
        os.environ["TRITON_INTERPRET"] = "1"
    dtype = torch.bfloat16 if options.precision == "bf16" else torch.float32
    dtype = torch.float16 if options.dry and dtype == torch.bfloat16 else dtype
    precision = "ieee" if options.precision == "bf16" else options.precision
    started = time.monotonic()
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    with torch.inference_mode():
        for shape in DRY if options.dry else SHAPES:
            if options.only not in shape.name:
                continue
            for last in (True, False) if shape.side else (False,):
                if time.monotonic() - started > options.seconds:
                    print(f"out of time: {shape.name}")
                    continue
                line(shape, last, dtype, precision, device)
    print(f"{time.monotonic() - started:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
