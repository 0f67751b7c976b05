"""A campaign over thirty samples and a linear network."""

import torch
from torch import nn
from torch.utils.data import TensorDataset

from fastgradnorm.active import Campaign

N = 30
X = torch.randn(N, 6, generator=torch.Generator().manual_seed(0))
KEYS = [f"photo {i}.png" for i in range(N)]


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Linear(6, 3).eval()


def campaign(folder, keys=KEYS, x=X):
    return Campaign(folder, TensorDataset(x), keys)


def ask(made, k=5, seed=0, **options):
    return made.ask(k, network(seed), progress=False, **options)


def lines(folder):
    return (folder / "campaign.jsonl").read_bytes()
