"""Per-sample gradients in float64, by one call of a copy of the model a sample."""

import copy

import torch
from torch import nn
from torch.nn import functional as F

from tests.support import oracle
from tests.support.losses import singles


def gradients(model, batches, loss):
    """A list of mappings from names to gradients, one a sample."""
    model = copy.deepcopy(model)._apply(oracle.in_float64).eval()
    named = {n: p for n, p in model.named_parameters() if p.requires_grad}
    found = []
    for batch in oracle.in_float64(batches):
        for sample in singles(batch):
            grads = torch.autograd.grad(loss(model, sample), [*named.values()], allow_unused=True)
            found.append(
                {
                    name: torch.zeros_like(p) if g is None else g.to_dense()
                    for (name, p), g in zip(named.items(), grads, strict=True)
                }
            )
    return found


def dot(gradient, direction):
    return sum((gradient[name] * v.double()).sum() for name, v in direction.items())


def size(gradient):
    return torch.stack([g.double().square().sum() for g in gradient.values()]).sum().sqrt()


def random_directions(model, count):
    named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    return [{name: torch.randn_like(p) for name, p in named} for _ in range(count)]


class Foreign(nn.Module):
    """Cannot run under vmap."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 4)

    def forward(self, x):
        return self.layer(x * float(x.detach().numpy().max() > -9))


class Text(nn.Module):
    """An embedding with padding, positions, attention and norms."""

    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(11, 8, padding_idx=0)
        self.places = nn.Parameter(torch.randn(1, 6, 8))
        self.through = nn.Parameter(torch.randn(8, 5))  # the other way round than a layer's
        self.block = nn.TransformerEncoderLayer(8, 2, 12, dropout=0.0, batch_first=True)
        self.head = nn.Linear(5, 4)

    def forward(self, ids):
        return self.head((self.block(self.words(ids) + self.places) @ self.through).mean(1))


class Series(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.head = nn.LSTM(3, 5, batch_first=True), nn.Linear(5, 4)

    def forward(self, x):
        return self.head(self.body(x)[0][:, -1])


class Tied(nn.Module):
    """One table, which is embedding and head."""

    def __init__(self):
        super().__init__()
        self.table, self.mix = nn.Embedding(11, 6), nn.Linear(6, 6)

    def forward(self, ids):
        return torch.tanh(self.mix(self.table(ids))).cumsum(1) @ self.table.weight.T


def convolutions():
    return nn.Sequential(
        nn.Conv2d(4, 6, 3, groups=2, padding="same", padding_mode="circular"),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.ConvTranspose2d(6, 4, 3, stride=2, output_padding=1),
        nn.GroupNorm(2, 4),
        nn.Conv2d(4, 4, 2, stride=2, dilation=2),
        nn.ConvTranspose2d(4, 4, 2, groups=2, bias=False),
        nn.Flatten(),
        nn.Linear(324, 4),
    )


def case(name):
    """Model, batches, options, and the loss by hand."""
    labels = torch.randint(0, 4, (5,))
    if name == "tied":
        pair = torch.randint(0, 11, (5, 6)), torch.randint(0, 11, (5, 6))
        loss = lambda m, s: F.cross_entropy(m(s[0]).movedim(-1, 1), s[1])  # noqa: E731
        return Tied(), [pair], {"class_dim": -1}, loss
    model, x = {
        "perceptron": lambda: (
            nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 4)),
            torch.randn(5, 6),
        ),
        "convolutions": lambda: (convolutions(), torch.randn(5, 4, 8, 8)),
        "text": lambda: (Text(), torch.randint(0, 11, (5, 6))),
        "series": lambda: (Series(), torch.randn(5, 7, 3)),
    }[name]()
    batches = [(x[:3], labels[:3]), (x[3:], labels[3:])]
    return model.eval(), batches, {}, lambda m, s: F.cross_entropy(m(s[0]), s[1])
