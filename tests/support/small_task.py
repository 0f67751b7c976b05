"""A task that trains in milliseconds, and whose labels cannot be read before they are bought."""

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

CLASSES = 3
OPTIONS = {"start": 6, "budget": 4, "cycles": 3, "subset": 30, "progress": False}


def curve(run):
    """All that must be the same in two runs."""
    return [(r["labelled"], r["metrics"], r["chosen"]) for r in run.records]


class Secret:
    """A label that has not been bought: whatever is done with it is an error."""

    def _refuse(self, *args, **kwargs):
        raise AssertionError("the label of an unlabelled sample was read")

    __int__ = __index__ = __float__ = __bool__ = __eq__ = __hash__ = __array__ = __repr__ = _refuse
    __getattr__ = _refuse


class Blobs(Dataset):
    """Images `[1, 6, 6]` of three kinds; `bought` are the indices whose labels are known."""

    def __init__(self, n=60, dense=False):
        draw = torch.Generator().manual_seed(5)
        self.y = torch.randint(CLASSES, (n,), generator=draw)
        noise = torch.randn(n, 1, 6, 6, generator=draw)
        bright = torch.zeros(n, 1, 6, 6)
        for i, y in enumerate(self.y.tolist()):
            bright[i, :, 2 * y : 2 * y + 2] = 1.5
        self.x = noise + bright
        if dense:
            self.y = (bright[:, 0] > 0).long()
        self.bought = None

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        hidden = self.bought is not None and i not in self.bought
        return self.x[i], Secret() if hidden else self.y[i]


class SmallTask:
    """A small CNN on `Blobs`; dropout and shuffling, so that seeds matter."""

    name = "small"
    batch_size = 16

    def __init__(self, n=60, dense=False, guarded=True, steps=8):
        self.data, self.dense, self.guarded, self.steps = Blobs(n, dense), dense, guarded, steps
        self.test = Blobs(n, dense)
        self.trained = []  # what was labelled, training by training

    def pool(self):
        return self.data

    def make_model(self, seed):
        torch.manual_seed(seed)
        body = [nn.Conv2d(1, 6, 3, padding=1), nn.ReLU()]
        if self.dense:
            return nn.Sequential(*body, nn.Conv2d(6, 2, 1))
        body += [nn.Flatten(), nn.Dropout(0.2), nn.Linear(216, 8), nn.ReLU()]
        return nn.Sequential(*body, nn.Linear(8, CLASSES))

    def train(self, model, labelled, seed):
        self.trained.append(list(labelled.indices))
        if self.guarded:
            self.data.bought = set(labelled.indices)
        model.train()
        optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
        for _ in range(self.steps):
            for x, y in DataLoader(labelled, 8, shuffle=True):
                optimizer.zero_grad()
                F.cross_entropy(model(x), y).backward()
                optimizer.step()

    def evaluate(self, model):
        model.eval()
        with torch.no_grad():
            logits = model(self.test.x)
        right = (logits.argmax(1) == self.test.y).float().mean()
        return {"accuracy": float(right), "loss": -float(F.cross_entropy(logits, self.test.y))}
