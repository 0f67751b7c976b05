"""Exact float32 products on the matrix units: beside the libraries', and by block sizes.

Error is against float64, of two rows: root mean square, and how far numbers are too small in all,
as matrix units cut sums off and such errors of layers add up. Then whole passes, with and without.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from fastgradnorm_kernels import _backends, exact_convolution, exact_plans, half_parts
from fastgradnorm_kernels.exact_plans import Plan
from fastgradnorm_kernels.geometry import Geometry
from fastgradnorm_kernels.half_parts import Weights
from fastgradnorm_kernels.tiles import Tile
from torch import Tensor
from torch.nn import functional as F

from benchmarks import timing
from benchmarks.gpu.large_models import case
from benchmarks.gpu.precision import IEEE, TF32
from benchmarks.gpu.rates import measure
from benchmarks.gpu.report import Report
from benchmarks.setting import Setting

# ResNet-18 at 32x32: channels in and out, side, kernel, stride.
Layer = tuple[int, int, int, int, int]
CONVOLUTIONS: list[Layer] = [
    (64, 64, 32, 3, 1),
    (128, 128, 16, 3, 1),
    (256, 256, 8, 3, 1),
    (512, 512, 4, 3, 1),
    (64, 128, 32, 3, 2),
    (64, 128, 32, 1, 2),
]
LINEAR = [(768, 768), (768, 3072), (3072, 768)]  # ViT-B/16 and BERT-base: inputs, outputs
SAMPLES, COTANGENTS, POSITIONS = 64, 10, 197
PASSES = [("resnet18", 64), ("resnet18", 256), ("vit_b", 16), ("bert128", 16), ("resnet50", 16)]
TILES = (
    *(Tile(128, 128, 64, 8, 3), Tile(128, 128, 64, 8, 2), Tile(128, 128, 32, 8, 4)),
    *(Tile(128, 64, 64, 4, 2), Tile(128, 64, 64, 4, 3), Tile(128, 64, 32, 4, 4)),
    *(Tile(256, 64, 64, 8, 2), Tile(64, 128, 64, 4, 2), Tile(64, 128, 64, 4, 3)),
    *(Tile(128, 64, 64, 8, 2), Tile(64, 64, 64, 4, 3), Tile(64, 256, 32, 8, 3)),
)
SLICES = 8


def warm(report: Report, index: int) -> None:
    """Compiles a share of the kernels."""
    for number, tile in enumerate(TILES):
        if number % SLICES == index and report.left > 5:
            for kernel in (1, 3):
                _, plan, parts = _operands(report, (128, 128, 8, kernel, 1), True)
                x = torch.randn(2, 8, 8, 128, device=report.device)
                exact_convolution.convolve(x, plan, parts, None, tile)


def run(report: Report) -> None:
    """A row a layer and direction, then a row a model."""
    torch.backends.cudnn.benchmark = not report.dry
    for layer in [(16, 16, 5, 3, 2)] if report.dry else CONVOLUTIONS:
        for pulled in (False, True):
            inputs, outputs, side, kernel, stride = layer
            key = f"{'pull-back' if pulled else 'forward'}, {inputs} to {outputs}, "
            key += f"{side}x{side}, {kernel}x{kernel}, stride {stride}"
            if report.wanted(key, 0 if report.dry else 3):
                with report.step(key) as row, torch.no_grad():
                    _layer(row, layer, pulled, report)
    for shape in [(16, 24)] if report.dry else LINEAR:
        key = f"linear, {shape[0]} to {shape[1]}, {POSITIONS} positions"
        if report.wanted(key, 0 if report.dry else 3):
            with report.step(key) as row, torch.no_grad():
                _layer(row, (*shape, 0, 0, 1), False, report)
    for name, batch in [] if report.dry else PASSES:
        key = f"pass, {name}, batch {batch}"
        if report.wanted(key, 12):
            with report.step(key) as row, IEEE.set():
                _passes(row, name, batch, report)
            torch.cuda.empty_cache()


def _operands(report: Report, layer: Layer, pulled: bool) -> tuple[Tensor, Plan, Weights]:
    """Weights, plan and parts of a convolution, of a pull-back, or of a linear layer (side 0)."""
    inputs, outputs, side, kernel, stride = layer
    if not side:
        weight = torch.randn(outputs, inputs, device=report.device) * inputs**-0.5
        plan = exact_plans.forward_plan(Geometry((), (), (), ()), (), weight.device)
        return weight, plan, plan.weights(weight)
    size = outputs, inputs, kernel, kernel
    weight = torch.randn(size, device=report.device) * (2 / (kernel * kernel * inputs)) ** 0.5
    geometry = Geometry(*((number,) * 2 for number in (kernel, stride, kernel // 2, 1)))
    make = exact_plans.pull_plan if pulled else exact_plans.forward_plan
    plan = make(geometry, (side, side), weight.device)
    return weight, plan, plan.weights(weight)


def _layer(row: dict[str, Any], layer: Layer, pulled: bool, report: Report) -> None:
    """Time and error of the library, in IEEE and TF32, and of the product with each tile."""
    inputs, outputs, side, kernel, stride = layer
    many = COTANGENTS if pulled or not side else 1
    rows = 2 if report.dry else SAMPLES * many
    weight, plan, parts = _operands(report, layer, pulled)
    if side:
        out = (side + stride - 1) // stride
        shape = (rows, out, out, outputs) if pulled else (rows, side, side, inputs)
        options = (stride, stride), (kernel // 2,) * 2, (1, 1)
        where = (rows, inputs, side, side)

        def library(x: Tensor, w: Tensor) -> Tensor:
            if not pulled:
                return F.conv2d(x, w, None, *options)
            return torch.nn.grad.conv2d_input((len(x), *where[1:]), w, x, *options)
    else:
        shape = (2 if report.dry else SAMPLES // 8 * COTANGENTS * POSITIONS, inputs)

        def library(x: Tensor, w: Tensor) -> Tensor:
            return F.linear(x, w)

    last = torch.randn(shape, device=report.device)
    last = last if pulled or not side else last.relu()
    first = last.movedim(-1, 1).contiguous() if side else last
    exact = library(first[:2].double(), weight.double())
    # Each number of the output's side of a convolution has as many products as it has weights.
    positions = rows * out * out if side else shape[0]
    row["gflop"] = 2e-9 * weight.numel() * positions

    def note(name: str, way: Callable[[], Tensor], back: bool) -> None:
        found = way()[:2]
        found = (found.movedim(-1, 1) if back and side else found).double() - exact
        scale = exact.square().mean().sqrt()
        row[f"{name} error"] = float(found.square().mean().sqrt() / scale)
        row[f"{name} shrinks by"] = float(-(found * exact).mean() / scale.square())
        row[f"{name} ms"] = measure(way, report.device, 0.03)["median"]

    with IEEE.set():
        note("ieee", lambda: library(first, weight), False)
    with TF32.set():
        held = first.contiguous(memory_format=torch.channels_last) if side else first
        note("tf32", lambda: library(held, weight), False)
    note("exact", lambda: exact_convolution.convolve(last, plan, parts), True)
    found: dict[str, float] = {}
    for tile in TILES[:1] if report.dry else TILES:
        if report.left > 5:
            way = lambda tile=tile: exact_convolution.convolve(last, plan, parts, None, tile)  # noqa: E731
            found[" ".join(map(str, tile))] = measure(way, report.device, 0.02)["median"]
    row["tiles"] = found
    apart = last.flatten(1, -2) if side else last[:, None]
    took = measure(lambda: half_parts.split(apart, parts.balance), report.device, 0.02)
    row["split ms"] = took["median"]


@contextmanager
def without() -> Iterator[None]:
    """Float32 products as PyTorch's libraries make them."""
    original = _backends.is_exact_on_matrix_units
    _backends.is_exact_on_matrix_units = lambda tensor: False  # type: ignore[assignment]
    try:
        yield
    finally:
        _backends.is_exact_on_matrix_units = original  # type: ignore[assignment]


def _passes(row: dict[str, Any], name: str, batch: int, report: Report) -> None:
    """Seconds of a batch, replayed, both ways."""
    setting = Setting(case(name, False), 10, batch, report.device)
    for scheme in ("expected", "entropy"):
        for way in ("exact", "libraries"):
            if way == "libraries":
                with without():
                    took = _seconds(setting, scheme, report)
            else:
                took = _seconds(setting, scheme, report)
            row[f"{scheme}, {way}"] = took
            report.save()


def _seconds(setting: Setting, scheme: str, report: Report) -> float:
    stream = setting.stream(scheme=scheme)
    times = [timing.clocked(stream, report.device) for _ in range(8)]
    return timing.quantile(times[3:], 0.5)


def table(document: dict[str, Any]) -> list[str]:
    """A line a layer: milliseconds, TFLOP/s and errors; then the best tiles; then the models."""
    lines = []
    for row in document["rows"]:
        if row["key"].startswith("pass"):
            said = [f"{key} {1e3 * value:.1f} ms" for key, value in row.items() if ", " in key]
            lines.append(f"{row['key']}: {'; '.join(said)}")
        if "exact ms" not in row:
            continue
        said = [
            f"{n} {row[f'{n} ms']:.3f} ms ({row['gflop'] / row[f'{n} ms']:.0f} TFLOP/s) "
            f"{row[f'{n} error']:.1e} ({row[f'{n} shrinks by']:+.1e})"
            for n in ("ieee", "tf32", "exact")
        ]
        lines.append(f"{row['key']}: {', '.join(said)}, split {row.get('split ms', 0):.3f} ms")
        best = sorted(row.get("tiles", {}).items(), key=lambda pair: pair[1])
        lines.append("      " + ", ".join(f"{tile}: {took:.3f}" for tile, took in best[:6]))
    return lines


def summary(document: dict[str, Any]) -> list[str]:
    """How much faster than IEEE, in all, the largest error, and passes with and without."""
    rows = [row for row in document["rows"] if "exact ms" in row]
    lines = []
    if rows:
        total = {n: sum(row[f"{n} ms"] for row in rows) for n in ("ieee", "tf32", "exact")}
        worst = max(row["exact error"] / row["ieee error"] for row in rows)
        lines.append(
            f"exact: {total['ieee'] / total['exact']:.2f} of IEEE's speed (TF32 "
            f"{total['ieee'] / total['tf32']:.2f}), error at most {worst:.1f} of IEEE's"
        )
    for row in document["rows"]:
        if "entropy, libraries" in row:
            gain = [row[f"{s}, libraries"] / row[f"{s}, exact"] for s in ("expected", "entropy")]
            lines.append(f"{row['key']}: {gain[0]:.2f} and {gain[1]:.2f} times as fast")
    return lines
