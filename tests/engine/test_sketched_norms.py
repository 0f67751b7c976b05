"""Norms from the pull-back that makes sketches, against float64 gradients of each sample."""

import functools

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fastgradnorm import VerificationError, gradient_sketch, score_pool
from fastgradnorm._engine import sketched
from tests.directions.test_layers import in_reals
from tests.engine.test_sketched import MODELS, form, made
from tests.engine.test_small_numbers import Gains
from tests.support.cases import Custom, perturb
from tests.support.directions import gradients, size

__all__ = ["form"]

OPTIONS = {"loss": "cross_entropy", "progress": False}


def loss(model, sample):
    return F.cross_entropy(model(sample[0]), sample[1])


@functools.cache
def exact_of(name):
    return exact_norms(*made(name))


def exact_norms(model, batch, names=None):
    found = [*map(in_reals, gradients(model, [batch], loss))]
    return torch.stack([size({n: g[n] for n in names or g}) for g in found])


def both(model, batches, **options):
    return gradient_sketch(model, batches, 16, norms=True, **OPTIONS, **options)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
@pytest.mark.parametrize("name", MODELS)
def test_layers(name, form):
    model, batch = made(name)
    sketches, norms = both(model, [batch])
    exact = exact_of(name)
    assert float(((norms - exact).abs() / exact).max()) < 1e-5
    alone = gradient_sketch(model, [batch], 16, verify=False, **OPTIONS)
    assert float(((sketches - alone).norm(dim=1) / exact).max()) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ties", "text", "lstm"])
def test_groups(name):
    model, batch = made(name)
    sketches, norms = both(model, [batch], group_by="parameter")
    assert norms.keys() == sketches.keys()
    for group, values in norms.items():
        exact = exact_norms(model, batch, [group])
        assert torch.allclose(values.double(), exact, rtol=1e-4, atol=1e-5 * float(exact.max()))


def test_batches_chunks_and_confident_samples():
    torch.manual_seed(5)
    model = perturb(nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3)))
    with torch.no_grad():
        model[2].bias.copy_(torch.tensor([60.0, 0.0, 0.0]))
    x, y = torch.randn(7, 5), torch.zeros(7, dtype=torch.long)
    sketches, norms = both(model, [*zip(x.split(2), y.split(2), strict=True)])
    scores = score_pool(model, [(x, y)], **OPTIONS)
    assert float(norms.max()) < 1e-18
    assert torch.allclose(norms, scores, rtol=1e-5, atol=0)
    assert float((sketches.double().norm(dim=1) / norms - 1).abs().max()) < 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("share", [1e-5, 300.0])
def test_squares_beyond_half_precision(share, dtype):
    """Of gradients that are formed: of 1e-5 and of 1e3, whose squares are no numbers of float16."""
    torch.manual_seed(0)
    model, x, y = Gains(share).eval(), torch.randn(6, 10), torch.arange(6) % 5
    exact = exact_norms(model, (x, y), ["gain"])
    options = {"params": lambda name, p: name == "gain", "verify": False}
    _, norms = both(model.to(dtype), [(x.to(dtype), y)], **options)
    assert float((norms - exact).abs().max() / exact.max()) < 0.05


class Cancelling(nn.Module):
    """Its first layer moves nothing: its positions are two, and what both add up to, less."""

    def __init__(self):
        super().__init__()
        self.inner, self.head = nn.Linear(8, 8, bias=False), nn.Linear(8, 3)

    def forward(self, x):
        h = self.inner(x)
        return self.head(x[:, 0] + h[:, 0] + h[:, 1] - h[:, 2])


def test_squares_that_rounding_makes_negative():
    """In float64, where Grams of positions whose terms cancel are not computed again."""
    torch.manual_seed(0)
    model, x = Cancelling().double().eval(), torch.randn(12, 2, 8).double()
    batch = torch.cat([x, x.sum(1, keepdim=True)], 1), torch.arange(12) % 3
    # So short that no gradient is formed.
    _, norms = gradient_sketch(model, [batch], 8, norms=True, group_by="parameter", **OPTIONS)
    assert float(norms["inner.weight"].max()) < 1e-7
    exact = exact_norms(model, batch, ["head.weight"])
    assert torch.allclose(norms["head.weight"], exact, rtol=1e-9)


@pytest.mark.slow
def test_a_parameter_that_some_samples_use_twice(form):
    """By branches: the first sample's plan has one use of it."""

    def run(model, x):
        h = torch.tanh(model.inner(x))
        if bool(x[0, 0] > 0):
            h = torch.tanh(model.inner(h))
        return model.head(h)

    torch.manual_seed(6)
    model = perturb(Custom(run, inner=nn.Linear(4, 4), head=nn.Linear(4, 3)))
    x = torch.randn(6, 4)
    x[:, 0] = torch.tensor([-1.0, 1.0, 1.0, -1.0, 1.0, -1.0])
    batch = x, torch.arange(6) % 3
    singles = [(x[i : i + 1], batch[1][i : i + 1]) for i in range(6)]
    _, norms = both(model, singles, latency=0)
    exact = exact_norms(model, batch)
    assert float(((norms - exact).abs() / exact).max()) < 1e-5


@pytest.mark.slow
def test_a_parameter_that_some_samples_use_otherwise_too(form):
    def run(model, x):
        h = torch.tanh(model.inner(x))
        if bool(x[0, 0] > 0):
            h = h * model.inner.weight[0]
        return model.head(h)

    torch.manual_seed(6)
    model = perturb(Custom(run, inner=nn.Linear(4, 4), head=nn.Linear(4, 3)))
    x = torch.randn(4, 4)
    x[:, 0] = torch.tensor([-1.0, 1.0, 1.0, -1.0])
    batch = x, torch.arange(4) % 3
    singles = [(x[i : i + 1], batch[1][i : i + 1]) for i in range(4)]
    _, norms = both(model, singles, latency=0)
    exact = exact_norms(model, batch)
    assert float(((norms - exact).abs() / exact).max()) < 1e-5


@pytest.mark.slow
def test_wrong_norms_are_noticed(monkeypatch):
    model, batch = made("positions")
    right = sketched.joint_sq_norm
    monkeypatch.setattr(sketched, "joint_sq_norm", lambda uses: 1.1 * right(uses))
    monkeypatch.setattr(sketched, "choose_form", lambda *_: "outer")
    with pytest.raises(VerificationError, match="sample 0: its sketch is off by"):
        both(model, [batch])
    both(model, [batch], verify=False)


@pytest.mark.slow
def test_checkpoints(tmp_path):
    model, (x, y) = made("positions", samples=6)
    batches = [*zip(x.split(2), y.split(2), strict=True)]
    whole = both(model, batches)
    again = both(model, batches, checkpoint=tmp_path / "run")
    resumed = both(model, batches, checkpoint=tmp_path / "run")
    for a, b, c in zip(whole, again, resumed, strict=True):
        assert torch.equal(a, b)
        assert torch.equal(a, c)
    with pytest.raises(ValueError, match="sketches"):
        gradient_sketch(model, batches, 16, checkpoint=tmp_path / "run", **OPTIONS)


def test_arguments():
    model, batch = made("positions")
    with pytest.raises(TypeError, match="`norms` must be"):
        gradient_sketch(model, [batch], norms=2, **OPTIONS)
