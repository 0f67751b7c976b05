"""A folder of images and a checkpoint in; a list of files to label out, and a page that says why.

On the command line the same is

    fastgradnorm acquire my_model:make photos/ 20 --weights trained.pt --copy-to to_label
"""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.utils.data import Dataset

from fastgradnorm import acquire

SIZE = 32


def make():
    """The network as it was trained; for one of timm, see `timm_folders.py`."""
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, stride=2),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 3),
    )


def prepare(image):
    """What an image went through in training, without what was random there."""
    pixels = torch.from_numpy(np.array(image.convert("RGB").resize((SIZE, SIZE)))).permute(2, 0, 1)
    return (pixels / 255 - 0.5) / 0.25


class Images(Dataset):
    """All images below a folder, by name."""

    def __init__(self, folder):
        self.files = sorted(Path(folder).rglob("*.png"))

    def __len__(self):
        return len(self.files)

    def __getitem__(self, index):
        return prepare(self.picture(index))

    def picture(self, index):
        with Image.open(self.files[index]) as image:
            return image.convert("RGB")


def pretend(folder, checkpoint):
    """Images and a checkpoint, so that this file runs by itself. You have both: leave it out."""
    random, sums = np.random.default_rng(0), []
    for i in range(120):
        place = Path(folder) / f"day{i % 4}" / f"{i:03}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        colour = random.integers(0, 256, 3)
        pixels = np.clip(colour + random.normal(0, 40, (40, 50, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(place)
        sums.append((place, int(colour.argmax())))
    torch.manual_seed(0)
    model, seen = make(), sums[:40]
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    x = torch.stack([prepare(Image.open(place)) for place, _ in seen])
    y = torch.tensor([label for _, label in seen])
    for _ in range(30):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    torch.save(model.state_dict(), checkpoint)
    for place, _ in seen:  # they are labelled: not in the pool any more
        place.rename(place.with_suffix(".labelled"))


if __name__ == "__main__":
    pretend("photos", "trained.pt")

    model = make()
    model.load_state_dict(torch.load("trained.pt", weights_only=True))
    pool = Images("photos")
    chosen = acquire(model, pool, 20)

    print(chosen)  # what the model thinks of the pool: look whether that is what you expect
    names = [str(pool.files[i]) for i in chosen]
    Path("to_label.txt").write_text("\n".join(names) + "\n")
    chosen.to_csv("to_label.csv", ids=[str(file) for file in pool.files])
    print(chosen.report("page", ids=[str(file) for file in pool.files], picture=pool.picture))
