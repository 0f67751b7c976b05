"""Mean gradients: each sample of the pool once, whatever verification looks at; and what is NaN."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fastgradnorm import VerificationError, gradient_dots, gradient_sketch, mean_gradient
from fastgradnorm._directions import means
from tests.support.directions import gradients

LOSS = {"loss": "cross_entropy", "progress": False}


class ByLength(nn.Module):
    """Uses a layer once or twice, by how long its sample is: each way is looked at anew."""

    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(3, 3), nn.Linear(3, 4)

    def forward(self, x):
        x = torch.tanh(self.body(x))
        return self.head((torch.tanh(self.body(x)) if x.shape[1] % 2 else x).mean(1))


def perceptron():
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 6), nn.Tanh(), nn.Linear(6, 4))


def assert_mean(model, batches, **options):
    found = mean_gradient(model, batches, **LOSS, **options)
    each = gradients(model, batches, lambda m, s: F.cross_entropy(m(s[0]), s[1]))
    for name, value in found.items():
        exact = torch.stack([gradient[name] for gradient in each]).mean(0)
        assert torch.allclose(value.double(), exact, atol=1e-6), name


@pytest.mark.slow
@pytest.mark.parametrize("verify", ["first", "sampled", "all"])
@pytest.mark.parametrize(
    ("make", "lengths", "rows"),
    [
        pytest.param(perceptron, [4] * 5, 1, id="batches of one"),
        pytest.param(perceptron, [4] * 3, 3, id="batches of three"),
        pytest.param(ByLength, [4, 3, 4, 3], 1, id="ways to use a parameter, batches of one"),
        pytest.param(ByLength, [4, 3, 4, 3], 2, id="ways to use a parameter"),
    ],
)
def test_samples_that_are_looked_at_count_once(make, lengths, rows, verify):
    torch.manual_seed(0)
    batches = [(torch.randn(rows, n, 3), torch.randint(0, 4, (rows,))) for n in lengths]
    assert_mean(make(), batches, verify=verify)


@pytest.mark.parametrize("function", ["mean", "products", "sketches"])
def test_nan_of_the_engines_own_is_a_disagreement(function, monkeypatch):
    """And not blamed on the samples."""
    torch.manual_seed(0)
    model, batches = perceptron(), [(torch.randn(3, 4, 3), torch.randint(0, 4, (3,)))]
    if function == "mean":
        sums = means.Sums._sum
        monkeypatch.setattr(
            means.Sums, "_sum", lambda *given: [g * torch.nan for g in sums(*given)]
        )
    else:
        place = {
            "products": "fastgradnorm._directions.dots.sample_dots",
            "sketches": "fastgradnorm._sketches.sketched.sample_sketch",
        }[function]
        made = {"products": 1, "sketches": 8}[function]
        monkeypatch.setattr(place, lambda *_: torch.full((made,), torch.nan))
    calls = {
        "mean": lambda: mean_gradient(model, batches, **LOSS),
        "products": lambda: gradient_dots(model, batches, {"1.bias": torch.ones(6)}, **LOSS),
        "sketches": lambda: gradient_sketch(model, batches, 8, **LOSS),
    }
    with pytest.raises(VerificationError, match="disagrees with plain autograd"):
        calls[function]()


class Padded(nn.Module):
    """Attention in two layers, in which padding may look at nothing, before or after the text."""

    def __init__(self, bias):
        super().__init__()
        self.words, self.head = nn.Embedding(9, 4), nn.Linear(4, 3)
        self.layers = nn.ModuleList([nn.Linear(4, 12) for _ in range(2)])
        self.bias = nn.Parameter(torch.randn(1, 1, 5, 5)) if bias else None

    def forward(self, ids):
        seen = ids != 0
        mask = (seen[:, None, :, None] & seen[:, None, None, :]).expand(-1, 1, -1, -1)
        if self.bias is not None:
            mask = torch.where(mask, self.bias, -torch.inf)
        x = self.words(ids)
        for layer in self.layers:
            q, k, v = (t.unflatten(-1, (2, 2)).transpose(1, 2) for t in layer(x).chunk(3, -1))
            x = x + F.scaled_dot_product_attention(q, k, v, mask).transpose(1, 2).flatten(-2)
        return self.head((x * seen[..., None]).sum(1))


@pytest.mark.slow
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("side", ["before", "after", "nothing but"])
def test_positions_that_look_at_nothing(side, bias):
    torch.manual_seed(1)
    ids = torch.randint(1, 9, (4, 5))
    cut = {"before": slice(0, 2), "after": slice(3, 5), "nothing but": slice(0, 5)}[side]
    ids[1, cut] = 0
    model = Padded(bias).eval()
    batches = [(ids, torch.randint(0, 3, (4,)))]
    assert_mean(model, batches)
    each = gradients(model, batches, lambda m, s: F.cross_entropy(m(s[0]), s[1]))
    found = gradient_dots(model, batches, {"words.weight": torch.ones(9, 4)}, **LOSS)
    exact = torch.stack([gradient["words.weight"].sum() for gradient in each])
    assert torch.allclose(found[:, 0].double(), exact, atol=1e-5)
