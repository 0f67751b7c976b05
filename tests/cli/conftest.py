"""A user's folder: a module that makes a model, images, arrays; and the command line run in it."""

import sys
from typing import NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image

from fastgradnorm.cli import main

MODULE = """
import torch
from torch import nn

def make():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
    )

def make_two_inputs():
    class Sum(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(4, 3)
        def forward(self, left, right):
            return self.head(left + right)
    torch.manual_seed(0)
    return Sum()

def make_with_transform():
    def transform(image):
        return torch.tensor(image.getpixel((0, 0))).float()[:, None, None].expand(3, 5, 5) / 255
    return make(), transform

def no_model():
    return 3
"""


class Ran(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder, with `<module>.py` of a name of its own and ten images in `pool`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "their_model.py").write_text(MODULE)
    monkeypatch.delitem(sys.modules, "their_model", raising=False)
    (tmp_path / "pool" / "deeper").mkdir(parents=True)
    random = np.random.default_rng(0)
    for i in range(10):
        pixels = random.integers(0, 256, (12, 12, 3), dtype=np.uint8)
        place = "pool/deeper" if i % 2 else "pool"
        Image.fromarray(pixels).save(tmp_path / place / f"{i}.png")
    return tmp_path


@pytest.fixture
def run(folder, monkeypatch, capsys):
    """Runs `fastgradnorm ARGUMENTS` in the user's folder."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["fastgradnorm", *map(str, arguments)])
        monkeypatch.setattr("warnings.showwarning", None)  # main sets it; put back afterwards
        with pytest.raises(SystemExit) as left:
            main()
        told = capsys.readouterr()
        return Ran(int(left.value.code or 0), told.out, told.err)

    return call


@pytest.fixture
def model(folder):
    """What `their_model:make` makes."""
    space = {}
    exec(MODULE, space)
    return space["make"]().eval()


@pytest.fixture
def images(folder):
    """The images as the command line reads them, by name."""
    paths = sorted((folder / "pool").rglob("*.png"), key=lambda p: str(p.relative_to(folder)))
    return {
        str(p.relative_to(folder / "pool")): torch.from_numpy(
            np.array(Image.open(p)).astype(np.float32) / 255
        ).permute(2, 0, 1)
        for p in paths
    }
