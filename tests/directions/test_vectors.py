"""Products with directions that lie where they are: of some samples at once, in both ways."""

import pytest
import torch
from torch import nn
from torch.func import vmap
from torch.nn import functional as F

from fastgradnorm import gradient_dots
from fastgradnorm._engine import Vectors, vectors
from tests.support.directions import case, dot, gradients, random_directions


@pytest.mark.parametrize("samples", [1, 3, 4, 5])
@pytest.mark.parametrize("numbers", [40, 1 << 15])
@pytest.mark.parametrize("scaled", [False, True])
def test_products_of_some_samples(samples, numbers, scaled, monkeypatch):
    """In blocks, of few numbers and many, some of the directions absent and of other dtypes."""
    torch.manual_seed(0)
    monkeypatch.setattr(vectors, "_BLOCK", 1 << 10)
    monkeypatch.setattr(vectors, "_ROWS", 1 << 12)
    given = {
        0: torch.randn(numbers),
        2: torch.randn(numbers).bfloat16(),
        3: torch.randn(numbers, 2)[:, 1].double(),
    }
    scale = torch.rand(numbers) if scaled else None
    made = Vectors(given, 5, (numbers,)).to(torch.device("cpu"), torch.float32, scale)
    g = torch.randn(samples, numbers)
    whole = torch.zeros(5, numbers, dtype=torch.float64)
    for place, value in given.items():
        whole[place] = value
    exact = (g.double() * (1 if scale is None else scale.double())) @ whole.T
    for found in (vmap(made.of)(g), vmap(made.of, 1)(g.T.contiguous())):
        assert found.shape == (samples, 5)
        assert torch.allclose(found.double(), exact, atol=1e-6 * numbers**0.5 * 10)
    assert torch.allclose(made.of(g[0]).double(), exact[0], atol=1e-6 * numbers**0.5 * 10)
    none = Vectors({}, 5, (numbers,)).to(torch.device("cpu"), torch.float32)
    assert not bool(vmap(none.of)(g).any())


@pytest.mark.parametrize("layout", ["sparse", "dense"])
@pytest.mark.parametrize("count", [1, 3])
def test_gradients_of_lookups_as_directions(layout, count):
    torch.manual_seed(2)
    model = nn.Sequential(nn.Embedding(7, 3, sparse=layout == "sparse"), nn.Flatten())
    model.append(nn.Linear(12, 2)).eval()
    batch = torch.randint(0, 7, (5, 4)), torch.randint(0, 2, (5,))
    F.cross_entropy(model(batch[0]), batch[1]).backward()
    direction = {n: p.grad for n, p in model.named_parameters()}
    assert direction["0.weight"].is_sparse == (layout == "sparse")
    given = {"loss": "cross_entropy", "progress": False}
    found = gradient_dots(model, [batch], [direction] * count, **given)
    each = gradients(model, [batch], lambda m, s: F.cross_entropy(m(s[0]), s[1]))
    dense = {n: v.to_dense() for n, v in direction.items()}
    exact = torch.stack([dot(g, dense) for g in each])[:, None].expand(-1, count)
    assert torch.allclose(found.double(), exact, atol=1e-6)


def test_directions_are_read_once_for_all_samples(monkeypatch):
    torch.manual_seed(1)
    model, batches, _, loss = case("perceptron")
    batch = tuple(torch.cat(parts) for parts in zip(*batches, strict=True))
    seen, products = [], Vectors._products

    def noted(self, g):
        seen.append(len(g))
        return products(self, g)

    monkeypatch.setattr(Vectors, "_products", noted)
    directions = random_directions(model, 17)
    given = {"loss": "cross_entropy", "progress": False, "verify": False}
    found = gradient_dots(model, [batch], directions, **given)
    assert {*seen} == {len(batch[0])}
    exact = [[dot(g, v) for v in directions] for g in gradients(model, [batch], loss)]
    assert torch.allclose(found.double(), torch.tensor(exact, dtype=torch.float64), atol=1e-4)
