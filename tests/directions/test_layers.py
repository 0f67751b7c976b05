"""Products of all kinds of layers, in each form, against float64 gradients of each sample."""

import pytest
import torch
from torch.nn import functional as F

from fastgradnorm import gradient_dots, mean_gradient
from tests.engine.test_sketched import MODELS, made
from tests.support.directions import dot, gradients, random_directions, size

# PyTorch says so of LSTMs with projections, once a process.
pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported")
OPTIONS = {"loss": "cross_entropy", "progress": False}


def in_reals(each):
    """Complex numbers as two each, by which products are of real numbers."""
    return {n: torch.view_as_real(v) if v.is_complex() else v for n, v in each.items()}


def loss(model, sample):
    return F.cross_entropy(model(sample[0]), sample[1])


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_products(name):
    model, batch = made(name)
    found = [*map(in_reals, gradients(model, [batch], loss))]
    sizes = torch.stack([size(g) for g in found])[:, None]
    for count in (1, 30):
        directions = random_directions(model, count)
        products, cosines = (
            gradient_dots(model, [batch], directions, cosine=c, verify=c or count == 1, **OPTIONS)
            for c in (False, True)
        )
        directions = [*map(in_reals, directions)]
        exact = torch.stack([torch.stack([dot(g, v) for v in directions]) for g in found])
        room = sizes * torch.stack([size(v) for v in directions])
        assert bool(((products.double() - exact).abs() <= 1e-5 * room).all())
        assert bool(((cosines.double() - exact / room).abs() <= 1e-5 * 2).all())
    mean = in_reals(mean_gradient(model, [batch], **OPTIONS))
    gap = {n: v.double() - sum(g[n] for g in found) / len(found) for n, v in mean.items()}
    assert float(size(gap)) <= 1e-5 * float(sizes.mean())


def test_a_complex_direction_of_a_real_parameter_is_told():
    model, batch = made("complex")
    wrong = {"head.weight": torch.ones(3, 4, dtype=torch.complex64)}
    with pytest.raises(ValueError, match=r"`directions\[0\]` must be of real numbers for 'head"):
        gradient_dots(model, [batch], wrong, **OPTIONS)
