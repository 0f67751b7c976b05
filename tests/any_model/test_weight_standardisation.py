"""Weights that are normalised while a model runs, by batch norm too: no sample is in that."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fastgradnorm import UnsupportedModelError, gradient_sketch, naive_score_pool, score_pool
from tests.support import oracle
from tests.support.asserts import assert_close_relative
from tests.support.cases import Custom, images, perturb


class Standardised(nn.Conv2d):
    """As in BiT and hybrid vision transformers."""

    def forward(self, x):
        flat = self.weight.reshape(1, self.out_channels, -1)
        weight = F.batch_norm(flat, None, None, training=True, momentum=0.0, eps=1e-5)
        return self._conv_forward(x, weight.reshape_as(self.weight), self.bias)


class Scaled(nn.Conv2d):
    """As in networks without norms: with a gain for each channel."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.gain = nn.Parameter(torch.ones(self.out_channels, 1, 1, 1))
        self.scale = 0.7

    def forward(self, x):
        weight = F.batch_norm(
            self.weight.reshape(1, self.out_channels, -1), None, None,
            weight=(self.gain * self.scale).view(-1), training=True, momentum=0.0, eps=1e-5,
        ).reshape_as(self.weight)  # fmt: skip
        return F.conv2d(x, weight, self.bias, self.stride, self.padding)


class PlainGain(Scaled):
    """The gain as it is, and a shift."""

    def forward(self, x):
        flat, gain = self.weight.view(1, self.out_channels, -1), self.gain.view(-1)
        weight = F.batch_norm(flat, None, None, gain, self.bias, True, 0.0, 1e-5)
        return F.conv2d(x, weight.view_as(self.weight), self.bias, self.stride, self.padding)


class Following(Scaled):
    """Keeps an average that it does not use."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.register_buffer("mean", torch.randn(self.out_channels))
        self.register_buffer("var", torch.rand(self.out_channels) + 0.5)

    def forward(self, x):
        flat, gain = self.weight.view(1, self.out_channels, -1), self.gain.view(-1)
        weight = F.batch_norm(flat, self.mean, self.var, gain, self.bias, training=True)
        return F.conv2d(x, weight.view_as(self.weight), self.bias, self.stride, self.padding)


class ByModule(nn.Conv2d):
    """By a module of its own, in float32."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.norm = nn.BatchNorm1d(self.out_channels, track_running_stats=False)

    def forward(self, x):
        weight = self.norm(self.weight.flatten(1)[None]).view_as(self.weight)
        return self._conv_forward(x, weight, self.bias)


class Linear(nn.Linear):
    """Over the outputs of a linear layer."""

    def forward(self, x):
        weight = F.batch_norm(self.weight, None, None, training=True)
        return F.linear(x, weight, self.bias)


class Table(nn.Embedding):
    """An embedding's rows, whitened."""

    def forward(self, ids):
        return F.embedding(ids, F.batch_norm(self.weight, None, None, training=True))


def convolutional(kind):
    def forward(m, x):
        return m.head(F.gelu(m.second(F.gelu(m.first(x)))).mean((2, 3)))

    return perturb(Custom(forward, first=kind(2, 4, 3, padding=1), second=kind(4, 6, 3, stride=2),
                          head=nn.Linear(6, 3)))  # fmt: skip


def linear():
    return perturb(nn.Sequential(nn.Flatten(), Linear(2 * 6 * 6, 8), nn.Tanh(), nn.Linear(8, 3)))


def table():
    def forward(m, x):
        ids = (x.flatten(1)[:, :5].abs() * 3).long().clamp(max=9)
        return m.head(torch.tanh(m.table(ids)).sum(1))

    return perturb(Custom(forward, table=Table(10, 6), head=nn.Linear(6, 3)))


MODELS = {
    **{kind.__name__: lambda kind=kind: convolutional(kind)
       for kind in (Standardised, Scaled, PlainGain, Following, ByModule)},
    "linear": linear, "table": table,
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("build", MODELS.values(), ids=MODELS.keys())
def test_scores(build):
    model, x = build(), images(2, 6, 6)(5)
    table = oracle.norms(model, oracle.ones(x))
    for verify in (True, False):
        scores = score_pool(model, [x], scheme=oracle.SCHEMES, verify=verify, progress=False)
        for scheme in oracle.SCHEMES:
            assert_close_relative(scores[scheme], table.scores(scheme), 1e-5, scheme)
    assert_close_relative(naive_score_pool(model, [x]), table.scores("expected"), 1e-5, "naive")
    sketches = [
        gradient_sketch(model, batches, dim=8, progress=False) for batches in ([x], x.split(1))
    ]
    assert torch.allclose(*sketches, rtol=1e-4, atol=1e-6)


class Mixing(nn.Module):
    """A weight normalised first, then samples."""

    def __init__(self, when=lambda x: True):
        super().__init__()
        self.when = when
        self.first = Linear(4, 4)
        self.mix = nn.BatchNorm1d(4, track_running_stats=False)
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        x = self.first(x)
        return self.head(torch.tanh(self.mix(x) if self.when(x) else x))


@pytest.mark.parametrize("score", [
    lambda model, x: score_pool(model, [x], progress=False),
    lambda model, x: score_pool(model, [x], verify=False, params="last_layer", progress=False),
    lambda model, x: naive_score_pool(model, [x]),
    lambda model, x: gradient_sketch(model, [x], dim=4, progress=False),
])  # fmt: skip
@pytest.mark.parametrize("norm", [
    nn.BatchNorm1d(4, track_running_stats=False),
    Custom(lambda m, x: F.batch_norm(x, None, None, training=True)),
    Custom(lambda m, x: F.batch_norm(x.T[None], None, None, training=True)[0].T),
    Custom(lambda m, x: F.batch_norm(x, torch.zeros(4).to(x), torch.ones(4).to(x), training=True)),
    Custom(lambda m, x: x * F.batch_norm(torch.cat([x, x + 1]), None, None, training=True).sum(0)),
])  # fmt: skip
def test_samples_are_refused_by_the_layers_name(norm, score):
    model = perturb(Mixing())
    model.mix = norm
    x = torch.randn(5, 4)
    with pytest.raises(UnsupportedModelError, match=r"`model.mix` \(\w+\): .* mixes samples"):
        score(model, x)


def test_samples_that_later_ones_mix_are_refused():
    model = perturb(Mixing(lambda x: bool((x[:, 0] > 0).all())))
    model.first = nn.Identity()
    model.mix = Custom(lambda m, x: F.batch_norm(x.T[None], None, None, training=True)[0].T)
    x = torch.randn(5, 4)
    x[:, 0] = torch.tensor([-1.0, -1, 1, 1, 1])
    with pytest.raises(UnsupportedModelError, match="mixes samples"):
        score_pool(model, x.split(2), verify=False, progress=False)


def test_a_model_that_does_not_run_under_vmap_cannot_be_told():
    # What leaves PyTorch does not run there.
    outside = Custom(lambda m, x: x + torch.from_numpy(x.detach().numpy()))
    model = perturb(nn.Sequential(Linear(4, 4), outside, nn.Linear(4, 3)))
    with pytest.raises(
        UnsupportedModelError, match=r"`model.0` \(Linear\) normalises by .*var_mean"
    ):
        score_pool(model, [torch.randn(3, 4)], progress=False)
