"""An experiment: float32 convolutions as TF32 ones of split numbers, their speed and their error.

A float32 number is a TF32 number and a rest: `x w` is `x_high w_high + x_rest w_high + x_high
w_rest`, 1e-7 off. Either three convolutions are added up, or one has three times the input
channels, or that one takes so many input channels at a time, because matrix units do not round sums
but cut them off. Error is against float64, of a forward pass and of a pull-back to the input.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import conv2d
from torch.nn.grad import conv2d_input

from benchmarks.gpu.precision import IEEE, TF32
from benchmarks.gpu.rates import measure
from benchmarks.gpu.report import Report

# ResNet-18 at 32x32: channels in and out, side, stride
LAYERS = [(64, 64, 32, 1), (128, 128, 16, 1), (256, 256, 8, 1), (512, 512, 4, 1), (64, 128, 32, 2)]
SAMPLES, COTANGENTS = 256, 10
_MASK = -(1 << 13)  # TF32 keeps 10 of 23 bits


def high(x: Tensor) -> Tensor:
    """The nearest number with 10 bits after the first, half away from zero."""
    bits = (x.contiguous(memory_format=_format(x)).view(torch.int32) + (1 << 12)) & _MASK
    return bits.view(torch.float32)


def _format(x: Tensor) -> torch.memory_format:
    last = x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if last else torch.contiguous_format


Convolution = Callable[[Tensor, Tensor], Tensor]


def added(x: Tensor, w: Tensor, convolve: Convolution) -> Tensor:
    """Three convolutions, the small ones first."""
    x_high, w_high = high(x), high(w)
    found = convolve(x - x_high, w_high)
    found += convolve(x_high, w - w_high)
    found += convolve(x_high, w_high)
    return found


def stacked(x: Tensor, w: Tensor, convolve: Convolution, dim: int) -> Tensor:
    """One convolution of three times the input channels, which w has in `dim`."""
    x_high, w_high = high(x), high(w)
    xs = torch.cat([x - x_high, x_high, x_high], 1)
    return convolve(xs, torch.cat([w_high, w - w_high, w_high], dim))


def promoted(x: Tensor, w: Tensor, convolve: Convolution, dim: int, most: int = 128) -> Tensor:
    """The same for so many input channels at a time, added up in float32."""
    parts = zip(x.split(most, 1), w.split(most, dim), strict=True)
    found: Tensor | None = None
    for xs, ws in parts:
        part = stacked(xs, ws, convolve, dim)
        found = part if found is None else found.add_(part)
    assert found is not None
    return found


def _ways(convolve: Convolution, dim: int) -> Iterator[tuple[str, Any, Convolution]]:
    yield "ieee", IEEE, convolve
    yield "tf32", TF32, convolve
    yield "added", TF32, lambda x, w: added(x, w, convolve)
    yield "stacked", TF32, lambda x, w: stacked(x, w, convolve, dim)
    yield "promoted", TF32, lambda x, w: promoted(x, w, convolve, dim)


def run(report: Report) -> None:
    """A row a layer and direction."""
    torch.backends.cudnn.benchmark = not report.dry
    for index, (inputs, outputs, side, stride) in enumerate(LAYERS):
        if report.dry:
            inputs, outputs, side = 4 * (index + 1), 6, 5
        for direction in ("forward", "pull-back"):
            key = f"{direction}, {inputs} to {outputs}, {side}x{side}, stride {stride}"
            if report.wanted(key, 0 if report.dry else 3):
                with report.step(key) as row, torch.no_grad():
                    _layer(row, (inputs, outputs, side, stride), direction, report)


def _layer(
    row: dict[str, Any], layer: tuple[int, int, int, int], direction: str, report: Report
) -> None:
    inputs, outputs, side, stride = layer
    out, device = (side + stride - 1) // stride, report.device
    w = torch.randn(outputs, inputs, 3, 3, device=device) * (2 / (9 * inputs)) ** 0.5
    w = w.contiguous(memory_format=torch.channels_last)
    n = 2 if report.dry else SAMPLES
    if direction == "forward":
        shape, dim = (n, inputs, side, side), 1
        convolve: Convolution = lambda x, w: conv2d(x, w, None, stride, 1)  # noqa: E731
        rectified = torch.randn(shape, device=device).relu()
        x = rectified.contiguous(memory_format=torch.channels_last)
    else:
        n *= 2 if report.dry else COTANGENTS
        dim = 0  # outputs are what it sums over
        target = (n, inputs, side, side)

        def convolve(g: Tensor, w: Tensor) -> Tensor:
            size = (len(g), *target[1:])
            return conv2d_input(size, w, g, stride, 1)

        x = torch.randn(n, outputs, out, out, device=device)
        x = x.contiguous(memory_format=torch.channels_last)
    exact = convolve(x[:2].double(), w.double())
    scale = exact.square().mean().sqrt()
    for name, mode, way in _ways(convolve, dim):
        with mode.set():
            found = way(x, w)[:2].double() - exact
            row[f"{name} error"] = float(found.square().mean().sqrt() / scale)
            # Sums that are cut off come out too small: such errors of layers add up.
            row[f"{name} shrinks by"] = float(-(found * exact).mean() / scale.square())
            row[f"{name} ms"] = measure(lambda way=way: way(x, w), device, 0.03)["median"]


def table(document: dict[str, Any]) -> list[str]:
    """A line a layer and direction: milliseconds and root mean square error of each way."""
    lines = []
    for row in document["rows"]:
        names = [key[:-3] for key in row if key.endswith(" ms")]
        said = [
            f"{n} {row[f'{n} ms']:.3f} ms {row[f'{n} error']:.1e} ({row[f'{n} shrinks by']:+.1e})"
            for n in names
        ]
        lines.append(f"{row['key']}: {', '.join(said)}")
    return lines


def summary(document: dict[str, Any]) -> list[str]:
    """How much faster than IEEE each way is, in all, and its largest error."""
    rows = [row for row in document["rows"] if "ieee ms" in row and "promoted ms" in row]
    names = ("tf32", "added", "stacked", "promoted") if rows else ()
    total = {n: sum(row[f"{n} ms"] for row in rows) for n in ("ieee", *names)} if rows else {}
    return [
        f"{n}: {total['ieee'] / total[n]:.2f} of IEEE's speed, error at most "
        f"{max(row[f'{n} error'] for row in rows):.1e}"
        for n in names
    ]
