"""What a tap was given is let go of as soon as the last pull-back is through it."""

import pytest
import torch
from fastgradnorm_kernels.functorch import in_memory
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef

from fastgradnorm import score_pool
from fastgradnorm._engine import taps

IMAGES = torch.randn(3, 4, 6, 6)
ROWS = torch.randn(3, 5, 4)
IDS = torch.randint(7, (3, 5))
MODELS = {
    "convolutions": (
        lambda: nn.Sequential(
            nn.Conv2d(4, 4, 3, padding=1, bias=False),
            nn.BatchNorm2d(4),
            nn.ReLU(inplace=True),
            nn.Conv2d(4, 8, 1),
            nn.GroupNorm(2, 8),
            nn.ReLU(),
            nn.ConvTranspose2d(8, 4, 2, groups=2),
            nn.InstanceNorm2d(4, affine=True),
            nn.Conv2d(4, 4, 3, groups=4),
            nn.Flatten(),
            nn.Linear(100, 3),
        ),
        IMAGES,
    ),
    "rows": (
        lambda: nn.Sequential(
            nn.Linear(4, 6),
            nn.LayerNorm(6),
            nn.Tanh(),
            nn.Linear(6, 6, bias=False),
            nn.RMSNorm(6),
            nn.Flatten(),
            nn.Linear(30, 3),
        ),
        ROWS,
    ),
    "ids": (
        lambda: nn.Sequential(
            nn.Embedding(7, 4), nn.Linear(4, 4), nn.GELU(), nn.Flatten(), nn.Linear(20, 3)
        ),
        IDS,
    ),
}


@pytest.mark.parametrize("options", [{"loss": "cross_entropy"}, {}], ids=["loss", "cotangents"])
@pytest.mark.parametrize("kind", MODELS)
def test_inputs_go_one_by_one_in_the_pull_back(kind, options, monkeypatch):
    make, inputs = MODELS[kind]
    model = make().eval()
    kept, left = dict[int, StorageWeakRef](), list[list[int]]()
    plain = taps.tap

    def tap(level, y, extra, read, *saved):
        index = len(kept)
        kept[index] = StorageWeakRef(in_memory(saved[0]).untyped_storage())

        def reading(saved, g):
            left.append([j for j, each in kept.items() if j > index and not each.expired()])
            return read(saved, g)

        return plain(level, y, extra, reading, *saved)

    monkeypatch.setattr(taps, "tap", tap)
    batch = (inputs, torch.zeros(len(inputs), dtype=torch.int64)) if options else inputs
    score_pool(model, [batch], progress=False, verify=False, **options)
    assert len(left) == len(kept) >= 3
    assert not any(left), left
