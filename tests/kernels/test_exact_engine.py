"""Whole passes whose float32 products are exact ones of halves, against float64."""

from types import SimpleNamespace

import pytest
import torch
from fastgradnorm_kernels import _backends, _matmul, computed_by, exact_products, half_parts, tiles
from fastgradnorm_kernels.tiles import Tile
from torch import nn

from fastgradnorm import GradNormScorer, naive_score_pool
from tests.support.kernel_support import DEVICE


class Block(nn.Module):
    """Two convolutions, one of them strided, and a shortcut."""

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.first = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm = nn.BatchNorm2d(outputs)
        self.second = nn.Conv2d(outputs, outputs, 3, 1, 1)
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride)

    def forward(self, x):
        return (self.second(self.norm(self.first(x)).relu()) + self.shortcut(x)).relu()


def _images():
    layers = [nn.Conv2d(3, 16, 3, 1, 1), nn.ReLU(), Block(16, 32, 2)]
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 16), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(16, 3)), torch.randn(2, 3, 4, 4)


class Tokens(nn.Module):
    """Linear layers over positions."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(16, 32), nn.Linear(32, 16, bias=False)
        self.last = nn.Linear(16, 3)

    def forward(self, x):
        return self.last(self.second(self.first(x).tanh()).mean(1))


def _tokens():
    return Tokens(), torch.randn(3, 5, 16)


def _volumes():
    layers = [nn.Conv3d(1, 16, 2), nn.ReLU(), nn.Conv3d(16, 16, 3, 2, 1), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(16 * 8, 2)), torch.randn(2, 1, 4, 4, 4)


def _signals():
    layers = [nn.Conv1d(16, 16, 3, padding=1), nn.ReLU(), nn.Conv1d(16, 32, 3, 2), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(96, 2)), torch.randn(2, 16, 7)


@pytest.fixture
def calls(monkeypatch):
    """The exact products that were made: by name."""
    made = []
    for name in ("convolution", "convolution_pulled"):
        original = getattr(exact_products, name)
        call = lambda *args, original=original, name=name: made.append(name) or original(*args)  # noqa: E731
        monkeypatch.setattr(exact_products, name, call)
    monkeypatch.setattr(_matmul, "_WORTH_SPLITTING", 0)
    if DEVICE.type == "cpu":
        monkeypatch.setattr(tiles, "exact", lambda rows, columns, device: Tile(32, 16, 16, 4, 2))
        monkeypatch.setattr(
            _backends, "is_exact_on_matrix_units", lambda x: x.dtype == torch.float32
        )
    return made


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["expected", "entropy"])
@pytest.mark.parametrize("make", [_images, _tokens, _volumes, _signals])
def test_scores(make, scheme, calls):
    torch.manual_seed(0)
    model, x = make()
    model.eval().to(DEVICE)
    scorer = GradNormScorer(model, scheme=scheme, verify=False, progress=False, latency=0)
    found = torch.cat(list(scorer.stream([x, x[:1]])))
    assert {*calls} == {"convolution", "convolution_pulled"}
    exact = naive_score_pool(model.double(), [x.double(), x[:1].double()], scheme=scheme)
    assert ((found.double() - exact).abs() <= 2e-6 * exact).all()


@pytest.mark.slow
def test_weights_are_split_once_for_all_batches(calls, monkeypatch):
    made = []
    original = half_parts.split_weights
    monkeypatch.setattr(half_parts, "split_weights", lambda w: made.append(1) or original(w))
    model, x = _tokens()
    scorer = GradNormScorer(model.eval().to(DEVICE), verify=False, progress=False, latency=0)
    stream = scorer.stream([x] * 3)
    next(stream)
    first = len(made)
    assert first
    next(stream)
    next(stream)
    assert len(made) == first


def test_where_they_are_not_wanted():
    if DEVICE.type == "cpu":
        assert not _backends.is_exact_on_matrix_units(torch.randn(3))
        return
    x = torch.randn(3, device=DEVICE)
    if torch.cuda.get_device_capability() not in _backends._WIDE_UNITS:
        assert not _backends.is_exact_on_matrix_units(x)
        return
    assert _backends.is_exact_on_matrix_units(x)
    with computed_by("torch"):
        assert not _backends.is_exact_on_matrix_units(x)
    before = torch.backends.cuda.matmul.fp32_precision
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    try:
        assert not _backends.is_exact_on_matrix_units(x)
    finally:
        torch.backends.cuda.matmul.fp32_precision = before


@pytest.mark.parametrize(
    "capability, expected",
    [((8, 0), True), ((8, 6), False), ((8, 9), False), ((9, 0), True), ((10, 0), True)],
)
def test_where_matrix_units_are_wide_enough(capability, expected, monkeypatch):
    monkeypatch.setattr(_backends, "_interpreted", lambda: False)
    monkeypatch.setattr(_backends, "_capability", lambda device: capability)
    monkeypatch.setattr(_backends, "uses_triton", lambda backend, tensor: True)
    given = SimpleNamespace(is_cuda=True, dtype=torch.float32, device=torch.device("cuda", 0))
    assert _backends.is_exact_on_matrix_units(given) == expected
    given.is_cuda = False
    assert not _backends.is_exact_on_matrix_units(given)
