"""Your own training loop with `acquire` in it, beside random samples, on handwritten digits."""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import TensorDataset

from fastgradnorm import acquire

ROUNDS, EACH = 3, 30

digits = load_digits()
images = torch.tensor(digits.images / 16, dtype=torch.float32)[:, None]
labels = torch.tensor(digits.target)
pool, test = slice(0, 1297), slice(1297, None)


def train(places, seed):
    """A network trained on some samples of the pool, anew each round."""
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(256, 64), nn.ReLU(), nn.Linear(64, 10),
    )  # fmt: skip
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images[places]), labels[places]).backward()
        optimizer.step()
    return model.eval()


def accuracy(model):
    """On digits that are never chosen from."""
    with torch.no_grad():
        return float((model(images[test]).argmax(1) == labels[test]).float().mean())


curves = {}
for strategy in ("auto", "random"):
    labelled = list(range(40))
    curves[strategy] = []
    for round_number in range(ROUNDS + 1):
        model = train(labelled, seed=round_number)
        curves[strategy].append(accuracy(model))
        if round_number < ROUNDS:
            chosen = acquire(
                model, TensorDataset(images[pool]), EACH, labelled=labelled, strategy=strategy,
                seed=round_number, progress=False,
            )  # fmt: skip
            labelled += chosen.indices.tolist()  # here people would label them

print("labels  " + "".join(f"{40 + EACH * i:>8}" for i in range(ROUNDS + 1)))
for strategy, curve in curves.items():
    print(f"{strategy:<8}" + "".join(f"{100 * value:>7.1f}%" for value in curve))
