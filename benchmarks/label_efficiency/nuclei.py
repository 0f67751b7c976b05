"""Cell nuclei in microscopy images, 128x128: semantic segmentation with a small U-Net."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.label_efficiency.arrays import Arrays, ArrayTask, Plan, Recipe
from benchmarks.label_efficiency.data_files import first_existing


def load(root: Path, device: str = "cpu") -> ArrayTask:
    """500 images to label, 164 to test on; fluorescence and stained bright-field images mixed."""
    path = first_existing("The nuclei", [root / "dsb2018_nuclei_664x128.npz"])
    with np.load(path) as stored:
        images, masks = stored["x"], stored["y"]
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    x = torch.from_numpy(images)[order, None]
    y = torch.from_numpy(masks)[order].long()
    return ArrayTask(
        name="nuclei",
        title="nuclei (Data Science Bowl 2018), 128x128, foreground or not, a small U-Net",
        train_set=Arrays(x[164:], y[164:], 1 / 128, -0.33),
        test_set=Arrays(x[:164], y[:164], 1 / 128, -0.33),
        network=UNet,
        recipe=Recipe(steps=500, batch_size=8, rate=5e-3, augment=crop_and_flip),
        plan=Plan(start=5, budget=5, cycles=4, subset=150),
        metrics=overlap,
        batch_size=32,
        score_options={"class_dim": 1, "num_samples": 4},
        device=device,
    )


def load_few(root: Path, device: str = "cpu") -> ArrayTask:
    """The same with a cycle and two fifths of the steps less: half the time."""
    task = load(root, device)
    recipe, plan = replace(task.recipe, steps=300), replace(task.plan, cycles=3)
    return replace(task, name="nuclei_few", recipe=recipe, plan=plan)


def load_paper(root: Path, device: str = "cpu") -> ArrayTask:
    """The paper's budget, a tenth of the pool and a twentieth a cycle of a half; 300 steps each."""
    task = load(root, device)
    recipe, plan = replace(task.recipe, steps=300), Plan(start=50, budget=25, cycles=4, subset=250)
    return replace(task, name="nuclei_paper", recipe=recipe, plan=plan)


def crop_and_flip(x: Tensor, y: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """A 64x64 part of the whole batch at one random place, mirrored at random."""
    top, left = torch.randint(0, x.shape[-1] - 63, (2,), generator=generator).tolist()
    x, y = x[..., top : top + 64, left : left + 64], y[..., top : top + 64, left : left + 64]
    for axis in (-1, -2):
        if torch.rand((), generator=generator) < 0.5:
            x, y = x.flip(axis), y.flip(axis)
    return x, y


def overlap(logits: Tensor, labels: Tensor) -> dict[str, float]:
    """Intersection over union of the foreground: mean over images, and over all pixels at once.

    An image without foreground, predicted without, counts 1.
    """
    predicted, actual = logits.argmax(1) == 1, labels == 1
    both = (predicted & actual).sum((1, 2)).double()
    either = (predicted | actual).sum((1, 2)).double()
    each = torch.where(either > 0, both / either.clamp(min=1), 1.0)
    return {"iou": float(each.mean()), "iou_pixels": float(both.sum() / either.sum().clamp(min=1))}


class _Double(nn.Sequential):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(
            nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs), nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs), nn.ReLU(),
        )  # fmt: skip


class UNet(nn.Module):
    """Three levels of 8, 16 and 32 channels, at half the image's resolution and below.

    Maps images `[B, 1, H, W]` to logits `[B, 2, H, W]`; H and W are multiples of 8.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 4, stride=2, padding=1)
        self.down1, self.down2, self.bottom = _Double(8, 8), _Double(8, 16), _Double(16, 32)
        self.up2, self.up1 = _Double(48, 16), _Double(24, 8)
        self.head = nn.ConvTranspose2d(8, 2, 2, stride=2)
        self.shrink, self.grow = nn.MaxPool2d(2), nn.Upsample(scale_factor=2)

    def forward(self, x: Tensor) -> Tensor:
        fine = self.down1(torch.relu(self.stem(x)))  # [B, 8, H/2, W/2]
        middle = self.down2(self.shrink(fine))  # [B, 16, H/4, W/4]
        coarse = self.bottom(self.shrink(middle))  # [B, 32, H/8, W/8]
        middle = self.up2(torch.cat([self.grow(coarse), middle], 1))
        fine = self.up1(torch.cat([self.grow(middle), fine], 1))
        logits: Tensor = self.head(fine)
        return logits
