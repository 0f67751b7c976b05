"""Models as large as people use them, one batch at a time, on this machine.

    python -m benchmarks real-sizes [--case resnet50] [--classes 10] [--batch 8]

Beside each score stand the plain loop, `vmap(grad)`, the floor, and what a user's time is spent on
otherwise: a forward pass and a training step, each in the memory layout in which it is faster. The
batch stands for a pool of `POOL` samples, as many as ImageNet has, so that passes are traced first
where that is repaid; what it takes is not part of the times.
"""

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks import tables, timing
from benchmarks.cases import TINY, Case
from benchmarks.columns import Column, Columns, own_columns
from benchmarks.gpu.large_models import LARGE
from benchmarks.measuring import Row, measure
from benchmarks.provenance import RESULTS, load, provenance, store
from benchmarks.setting import OURS, Setting
from benchmarks.zoo import torchvision_operators

LAST = "channels last"
POOL = 1_281_167
_TIMES = "speedup_over_naive"
# What is asked of each score: times the floor, a training step, or a forward pass.
ASKED = {
    "expected": ("over_floor", 1.25),
    "entropy": ("over_training_step", 1.0),
    "last layer": ("over_forward", 1.05),
}


class UNet(nn.Module):
    """Four resolutions, two 3x3 convolutions and batch norms at each, for segmentation."""

    def __init__(self, classes: int, width: int = 32) -> None:
        super().__init__()
        widths = [width << i for i in range(4)]
        self.down = nn.ModuleList(map(_double, [3, *widths[:-1]], widths))
        self.up = nn.ModuleList(
            nn.ConvTranspose2d(2 * o, o, 2, stride=2) for o in reversed(widths[:-1])
        )
        self.join = nn.ModuleList(_double(2 * o, o) for o in reversed(widths[:-1]))
        self.head = nn.Conv2d(width, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        kept = list[Tensor]()
        for i, block in enumerate(self.down):
            x = block(F.max_pool2d(x, 2) if i else x)
            kept.append(x)
        for up, join, skip in zip(self.up, self.join, reversed(kept[:-1]), strict=True):
            x = join(torch.cat([up(x), skip], 1))
        return self.head(x)


def _double(i: int, o: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(i, o, 3, padding=1, bias=False),
        nn.BatchNorm2d(o),
        nn.ReLU(inplace=True),
        nn.Conv2d(o, o, 3, padding=1, bias=False),
        nn.BatchNorm2d(o),
        nn.ReLU(inplace=True),
    )


def _timm(name: str) -> Callable[[int], nn.Module]:
    def build(classes: int) -> nn.Module:
        torchvision_operators.declare()
        import timm

        model: nn.Module = timm.create_model(name, num_classes=classes)
        return model

    return build


class _Speech(nn.Module):
    """wav2vec2-base with its classifier over the mean of all steps."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        from transformers import Wav2Vec2Config, Wav2Vec2ForSequenceClassification

        self.model = Wav2Vec2ForSequenceClassification(Wav2Vec2Config(num_labels=classes))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.model(x).logits
        return out


def _images(side: int) -> Callable[[int], Tensor]:
    return lambda samples: torch.randn(samples, 3, side, side)


CASES = {
    case.name: case
    for case in [
        LARGE["resnet50"],
        Case("convnext_t", "ConvNeXt-T, 224x224", _timm("convnext_tiny"), _images(224), 8),
        Case("efficientnet", "EfficientNet-B0, 224x224", _timm("efficientnet_b0"), _images(224), 8),
        Case(
            "swin_t",
            "Swin-T, 224x224",
            _timm("swin_tiny_patch4_window7_224"),
            _images(224),
            8,
        ),
        LARGE["vit_b"],
        LARGE["bert128"],
        LARGE["bert512"],
        Case("unet", "U-Net, 256x256", UNet, _images(256), 4),
        Case("wav2vec2", "wav2vec2-base, 2 s", _Speech, lambda n: torch.randn(n, 32000), 4),
    ]
}
BATCHES = {"vit_b": 4, "bert512": 2, "unet": 4, "wav2vec2": 4}  # of the others: 8


def main(
    cases: Sequence[str] | None,
    classes: Sequence[int] | None,
    seconds: float,
    batch: int | None = None,
    folder: Path | None = RESULTS,
) -> int:
    """Measures, prints and stores after each model; 1 if a score of ours is wrong or fails.

    Args:
        cases: Names in `CASES`; by default all of them.
        classes: Numbers of classes; by default ten.
        seconds: Of timing a model, after which no round begins; there are three.
        batch: Samples at a time; by default what `BATCHES` says.
        folder: Where results go, beside those of other models; nowhere if None.
    """
    failed = 0
    torchvision_operators.declare()  # before transformers looks for them
    for name in cases or list(CASES):
        for count in classes or [10]:
            setting = Setting(CASES[name], count, batch or BATCHES.get(name, 8), pool=POOL)
            rows = _rows(setting, seconds, cap=20.0)
            failed |= _told(rows, folder)
    return failed


def tiny(folder: Path | None) -> int:
    """Every step on a model of a few hundred parameters."""
    return _told(_rows(Setting(TINY, 3, 2, pool=POOL), 0.0, cap=5.0), folder)


def page(results: dict[str, Any]) -> str:
    """A row a model, for the documentation: ratios of one run, as runs are of several machines."""
    heads = ["plain loop, samples/s", *(f"**{score}**" for score in OURS), "vmap(grad) / expected"]
    heads += [f"{score} / {key[5:].replace('_', ' ')}" for score, (key, _) in ASKED.items()]
    lines = ["| | " + " | ".join([*heads, "GFLOP/s"]) + " |"]
    lines.append("|---|" + "---:|" * (len(heads) + 1))
    moments = []
    for title, count, rows in tables.by_case(results["rows"]):
        by = {row["column"]: row for row in rows}
        found = [by["naive"].get("samples_per_second"), *(by[s].get(_TIMES) for s in OURS)]
        found.append(by.get("vmap(grad)", {}).get("times_ours"))
        found += [by[score].get(key) for score, (key, _) in ASKED.items()]
        forms = ["{:.2f}", *["{:.1f}x"] * len(OURS), *["{:.2f}"] * (1 + len(ASKED))]
        cells = ["—" if v is None else f.format(v) for v, f in zip(found, forms, strict=True)]
        cells.append(f"{rows[0]['matrix_rate'] / 1e9:.0f}")
        lines.append(f"| {title}, {count} classes | " + " | ".join(cells) + " |")
        known = {"processor": results["provenance"]["machine"]["processor"]}
        moments.append(known | rows[0])
    return "\n".join(lines) + "\n\n" + tables.source(results, "real-sizes", moments)


def _rows(setting: Setting, seconds: float, cap: float) -> list[Row]:
    columns = own_columns(setting, cap)
    _add_other_layout(columns, setting)
    rows = measure(setting, columns, 9, seconds)
    for row in rows:
        key, most = ASKED.get(row["column"], ("", 0.0))
        if key in row:
            row |= {"asked": most, "asked_of": key, "reached": row[key]}
    return rows


def _add_other_layout(columns: Columns, setting: Setting) -> None:
    """Replaces the forward pass and the training step where they are faster with channels last."""
    batch = setting.batch
    if not (isinstance(batch, Tensor) and batch.dim() == 4):
        return
    last = copy.copy(setting)
    last.model = copy.deepcopy(setting.model).to(memory_format=torch.channels_last)
    last.batch = batch.to(memory_format=torch.channels_last)
    for name, runs in {
        "forward only": (setting.forward, last.forward),
        "training step": (columns.found["training step"].run, last.training()),
    }.items():
        if timing.once(runs[1]) < timing.once(runs[0]):
            columns.found[name] = Column(runs[1], setting.samples, facts={"layout": LAST})


def _told(rows: list[Row], folder: Path | None) -> int:
    print(tables.terminal(rows))
    for row in rows:
        if "asked" in row:
            print(
                f"  {row['column']}: {row['asked_of']} {row['reached']:.2f}, asked {row['asked']}"
            )
    print(flush=True)
    if folder is not None:
        done = {(row["case"], row["classes"]) for row in rows}
        stored: Any = load("real_sizes", folder) or {"rows": []}
        others = [row for row in stored["rows"] if (row["case"], row["classes"]) not in done]
        store("real_sizes", {"provenance": provenance(), "rows": others + rows}, folder)
    wrong = [row for row in rows if row["column"] in OURS and "reason" in row]
    return int(any("over the cap" not in row["reason"] for row in wrong))
