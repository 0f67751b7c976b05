"""Small batches with labels, and of means, products and sketches, that come as one."""

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from fastgradnorm import GradNormScorer, gradient_dots, gradient_sketch, mean_gradient
from tests.support.reading import sizes_read

X = torch.randn(41, 5, generator=torch.Generator().manual_seed(0))


def seeded():
    return torch.Generator().manual_seed(2)


def model_of():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3)).eval()


def reads(monkeypatch, loader, **options):
    return sizes_read(monkeypatch, model_of(), loader, **options)


class Labelled(Dataset):
    def __len__(self):
        return len(X)

    def __getitem__(self, index):
        return X[index], (index * 7) % 3


@pytest.mark.slow
@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("target", [None, 1])
def test_labels_come_with_their_samples(size, target, monkeypatch):
    given = {"loss": "cross_entropy", "target": target}
    loader = DataLoader(Labelled(), size, shuffle=True, generator=seeded())
    found = GradNormScorer(model_of(), progress=False, verify="all", **given).score(loader)
    whole = (X, torch.arange(41) * 7 % 3)
    exact = GradNormScorer(model_of(), progress=False, loss="cross_entropy").score([whole])
    assert torch.allclose(found.values, exact.values[found.indices], 1e-5)
    assert len(reads(monkeypatch, DataLoader(Labelled(), size), **given)) < 4


@pytest.mark.slow
@pytest.mark.parametrize("size", [1, 3])
def test_means_products_and_sketches_of_small_batches(size):
    model, loader = model_of(), DataLoader(Labelled(), size)
    whole = [(X, torch.arange(41) * 7 % 3)]
    given = {"verify": False, "progress": False, "loss": "cross_entropy"}
    mean, exact = (mean_gradient(model, each, **given) for each in (loader, whole))
    for name, each in mean.items():
        assert torch.allclose(each, exact[name], 1e-4, 1e-7)
    dots, exact_dots = (gradient_dots(model, each, exact, **given) for each in (loader, whole))
    assert torch.allclose(dots, exact_dots, 1e-4, 1e-6)
    sketches, apart = (gradient_sketch(model, each, 16, **given) for each in (loader, whole))
    assert torch.allclose(sketches, apart, 1e-4, 1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["own", "module"])
def test_a_loss_of_ones_own_is_given_the_callers_batches(loss, monkeypatch):
    def own(output, batch):
        return nn.functional.cross_entropy(output, batch[1])

    given = own if loss == "own" else nn.CrossEntropyLoss()
    read = reads(monkeypatch, DataLoader(Labelled(), 2), loss=given)
    assert read == [2] * 20 + [1]
