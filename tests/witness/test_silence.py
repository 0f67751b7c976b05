"""Ordinary models are not suspected of anything."""

import pytest
import torch
from torch import nn

from tests.support.doubts import findings, warned
from tests.support.shared_models import Attention, after, tokens

pytest.importorskip("transformers")

from tests.support import zoo


def batch_of(name):
    if name in zoo.TEXTS:
        return zoo.texts(2)
    if name in zoo.SPEECHES:
        return zoo.sounds()
    return zoo.images(32 if name == "mobilevit" else 16)


@pytest.mark.slow
@pytest.mark.parametrize("name", zoo.ALL)
def test_models_of_transformers(name):
    found = findings(zoo.built(name), [batch_of(name)])
    assert all(level == "note" for level, _ in found.values())
    idle = zoo.ALL[name].idle
    assert bool(idle) == ("parameters left out" in found)


LAYERS = {
    "linear": lambda: after(nn.Linear(4, 6), 6),
    "convolution": lambda: after(nn.Conv2d(3, 6, 3), 6),
    "group norm": lambda: after(nn.GroupNorm(2, 6), 6, before=nn.Conv1d(3, 6, 1)),
    "batch norm": lambda: after(nn.BatchNorm1d(6), 6, before=nn.Conv1d(3, 6, 1)),
    "prelu": lambda: after(nn.PReLU(), 3),
}


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("samples", [1, 2, 20])
def test_layers_under_a_head(name, samples):
    shape = {"linear": (4,), "convolution": (3, 5, 5)}.get(name, (3, 7))
    assert not findings(LAYERS[name](), [torch.randn(samples, *shape)])


@pytest.mark.parametrize("samples", [1, 4, 24])
@pytest.mark.parametrize("masked", [True, False])
def test_attention(samples, masked):
    model = Attention(masked=masked, batch_first=True).eval()
    assert not findings(model, [tokens(samples, padded=masked)])


@pytest.mark.slow
@pytest.mark.parametrize("classes", [2, 10])
def test_small_networks_in_the_first_rounds_of_labelling(classes):
    """Trained on a handful of samples until they are certain of them."""
    for seed in range(3):
        torch.manual_seed(seed)
        model = nn.Sequential(
            nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(2),
            nn.Flatten(), nn.Linear(32, classes),
        )  # fmt: skip
        x, y = torch.randn(20, 1, 8, 8), torch.arange(20) % classes
        optimizer = torch.optim.Adam(model.parameters(), 0.02)
        for _ in range(60):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
        assert not warned(model, torch.randn(96, 1, 8, 8).split(16), scheme="expected")


class TestSeveralAtOnce:
    """A model that takes single samples, or does otherwise for several, is looked at as scored."""

    @pytest.mark.parametrize("error", [ValueError, RuntimeError, TypeError, AssertionError])
    def test_a_model_of_one_sample(self, error):
        class One(nn.Module):
            def __init__(self):
                super().__init__()
                self.head = nn.Linear(6, 3)

            def forward(self, x):
                if len(x) > 1:
                    raise error("one at a time")
                return self.head(x)

        assert not findings(One(), torch.randn(40, 6).split(1))

    def test_a_forward_function_that_counts_on_one(self):
        model = nn.Linear(6, 3)
        found = findings(
            model,
            [{"x": x} for x in torch.randn(40, 6).split(1)],
            forward=lambda model, batch: model(batch["x"][0])[None],
        )
        assert not found
