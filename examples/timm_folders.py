"""Images in folders and a network of timm: fine-tune on what has labels, copy out what to label.

    labelled/cat/001.png, labelled/dog/002.png, …    a folder a class
    unlabelled/…/003.png, …                          the pool, in any folders
    to_label/…/003.png, …                            what comes out

Needs timm (`pip install timm`), which brings a torchvision that has to be of your PyTorch.
"""

import shutil
from pathlib import Path

import numpy as np
import timm
import torch
from PIL import Image
from timm.data import create_dataset, create_transform, resolve_model_data_config
from torch import nn
from torch.utils.data import DataLoader, Dataset

from fastgradnorm import acquire, score_pool

NAME = "test_resnet.r160_in1k"  # a tiny one of timm's; yours is "resnet50.a1_in1k" or any other
EPOCHS, BUDGET = 3, 12


def make(classes, pretrained):
    """A network of timm with a new head, and what an image goes through without random parts."""
    model = timm.create_model(NAME, pretrained=pretrained, num_classes=classes)
    settings = resolve_model_data_config(model)
    return model, create_transform(**settings, is_training=False), settings


class Unlabelled(Dataset):
    """All images below a folder, by name."""

    def __init__(self, folder, transform):
        self.files = sorted(Path(folder).rglob("*.png"))
        self.transform = transform

    def __len__(self):
        return len(self.files)

    def __getitem__(self, index):
        with Image.open(self.files[index]) as image:
            return self.transform(image.convert("RGB"))


def train(model, dataset):
    """As you train yours."""
    torch.manual_seed(0)
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3)
    model.train()
    for _ in range(EPOCHS):
        for x, y in DataLoader(dataset, batch_size=16, shuffle=True):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()


def pretend():
    """Images in folders, so that this file runs by itself. You have yours: leave it out."""
    random = np.random.default_rng(0)
    for i in range(104):
        kind = ("blue", "green", "red")[i % 3]
        place = Path(f"labelled/{kind}" if i < 48 else f"unlabelled/day{i % 4}") / f"{i:03}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        colour = {"blue": (40, 60, 160), "green": (40, 150, 60), "red": (170, 50, 40)}[kind]
        pixels = np.clip(np.array(colour) + random.normal(0, 60, (48, 64, 3)), 0, 255)
        Image.fromarray(pixels.astype(np.uint8)).save(place)


if __name__ == "__main__":
    pretend()

    names = sorted(folder.name for folder in Path("labelled").iterdir())
    model, transform, settings = make(len(names), pretrained=False)  # True where there is a network
    augmented = create_transform(**settings, is_training=True)
    train(model, create_dataset("", "labelled", transform=augmented))

    pool = Unlabelled("unlabelled", transform)
    known = create_dataset("", "labelled", transform=transform)  # the choice starts from these
    chosen = acquire(model, pool, BUDGET, labelled=known)

    print(chosen)  # what the model thinks of the pool: look whether that is what you expect
    for i in chosen:
        target = Path("to_label") / pool.files[i].relative_to("unlabelled")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(pool.files[i], target)
    files = [str(file) for file in pool.files]
    page = chosen.report("page", ids=files, names=names, picture=lambda i: Image.open(files[i]))
    print(page)

    # The whole network's gradient instead of its head's, for those who want the scores themselves:
    scores = score_pool(model, DataLoader(pool, batch_size=16), scheme="entropy")
    print(f"scores over all parameters: {scores.min():.3g} to {scores.max():.3g}")
