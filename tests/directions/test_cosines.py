"""Cosines of gradients with directions, of whatever size both are."""

import pytest
import torch
from torch import nn

from fastgradnorm import VerificationError, gradient_dots, mean_gradient
from fastgradnorm._directions import dots as module
from tests.support.directions import Foreign, case, dot, gradients, random_directions, size

TOLERANCE = 1e-5


def dots(model, batches, directions, **options):
    options = {"loss": "cross_entropy", "progress": False, **options}
    return gradient_dots(model, batches, directions, **options).double()


class Branching(Foreign):
    """Of which some samples are run one by one."""

    def forward(self, x):
        return self.layer(x if bool(x[0, 0] > 0) else torch.tanh(x))


def all_digits(model, sample):
    """The cross-entropy with the label 0."""
    z = model(sample[0])
    return (z[:, 1:] - z[:, :1]).logsumexp(1).exp().log1p().sum()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*one by one", "ignore:.*values of its batch")
@pytest.mark.parametrize("kind", [Foreign, Branching, "plain"])
@pytest.mark.parametrize("few", [False, True])
@pytest.mark.parametrize("confidence", [0.0, 30.0, 60.0])
def test_cosines_of_confident_samples(kind, few, confidence):
    """The squares of their gradients, and of their mean, are below float32's smallest number."""
    torch.manual_seed(11)
    model = nn.Sequential(nn.Linear(6, 4)) if kind == "plain" else kind()
    (bias,) = (p for p in model.parameters() if p.dim() == 1)
    with torch.no_grad():
        bias[0] = confidence
    batch = torch.randn(5, 6), torch.zeros(5, dtype=torch.long)
    found = gradients(model, [batch], all_digits)
    mean = mean_gradient(model, [batch], loss="cross_entropy", progress=False)
    small = {n: 1e-30 * g for n, g in random_directions(model, 1)[0].items()}
    directions = [small] if few else [mean, small, random_directions(model, 1)[0]]
    actual = dots(model, [batch], directions, cosine=True)
    exact = torch.stack([torch.stack([dot(g, v) / size(v) for v in directions]) for g in found])
    exact = exact / torch.stack([size(g) for g in found])[:, None]
    assert float((actual - exact).abs().max()) <= TOLERANCE
    assert float(exact.abs().max()) > 0.01


def test_cosines_of_what_has_no_gradient():
    model = nn.Sequential(nn.Linear(2, 3, bias=False), nn.ReLU(), nn.Linear(3, 2, bias=False))
    with torch.no_grad():
        model[0].weight.fill_(1.0)
    x = torch.tensor([[1.0, 1.0], [-1.0, -1.0], [2.0, 0.0]])  # of the second all is off
    directions = random_directions(model, 2)
    directions[1] = {n: 0 * v for n, v in directions[1].items()}
    found = dots(model, [(x, torch.tensor([0, 1, 0]))], directions, cosine=True)
    assert found[1].tolist() == [0.0, 0.0] and found[:, 1].tolist() == [0.0, 0.0, 0.0]
    assert bool((found[[0, 2], 0] != 0).all())


def test_wrong_norms_in_cosines_are_noticed(monkeypatch):
    model, batches, _, _ = case("perceptron")
    right = module.sample_dots

    def wrong(*given):
        found = right(*given)
        return torch.cat([found[:-1], 1.1 * found[-1:]])

    monkeypatch.setattr(module, "sample_dots", wrong)
    with pytest.raises(VerificationError, match="its squared norm is"):
        dots(model, batches, random_directions(model, 3), cosine=True)
