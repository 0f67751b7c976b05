"""Options of the posterior in sketches, products, cosines and means, alone and together."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fastgradnorm import gradient_dots, gradient_sketch, mean_gradient
from tests.support.directions import dot, gradients, random_directions, size
from tests.support.sketched import by_element

VALID = torch.tensor([[1, 1, 0, 0], [1, 0, 1, 1], [0, 0, 0, 1]]).bool()


class InPlace(nn.Module):
    """Writes to its input."""

    def __init__(self, *layers):
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x):
        return self.layers(x.mul_(2).add_(1))


def one_by_one(z, sample):
    """Classes last, one position a sample."""
    return z


def at_positions(z, sample):
    return z[0][sample[1][0]]


def at_all_positions(z, sample):
    return z[0]


def before_positions(z, sample):
    return z[0].T


def labels(z, sample):
    """Pairs of logits, one a label."""
    return torch.stack([torch.zeros_like(z[0]), z[0]], -1)


def labels_at_positions(z, sample):
    z = z[0][sample[1][0]].flatten()
    return torch.stack([torch.zeros_like(z), z], -1)


MASK = {"mask": lambda batch: batch[1]}
BERNOULLI = {"likelihood": "bernoulli"}
CASES = {
    "classes": ((5,), {}, one_by_one),
    "temperature": ((5,), {"temperature": 2.5}, one_by_one),
    "labels": ((5,), BERNOULLI, labels),
    "labels, temperature": ((5,), {**BERNOULLI, "temperature": 0.4}, labels),
    "positions": ((4, 5), {"class_dim": -1}, at_all_positions),
    "masked": ((4, 5), {"class_dim": -1, **MASK}, at_positions),
    "masked, temperature": ((4, 5), {"class_dim": 2, **MASK, "temperature": 3.0}, at_positions),
    "masked labels": ((4, 5), {"class_dim": -1, **MASK, **BERNOULLI}, labels_at_positions),
    "masked labels, temperature": (
        (4, 5), {"class_dim": -1, **MASK, **BERNOULLI, "temperature": 0.4}, labels_at_positions
    ),
    # As many positions as classes: a square in which dimensions can be taken for each other.
    "a square": ((3, 5), {"class_dim": -1, "temperature": 2.0}, at_all_positions),
    "the other way in a square": ((3, 5), {"class_dim": -2, "temperature": 2.0}, before_positions),
}  # fmt: skip


def given(name, in_place):
    shape, options, read = CASES[name]
    torch.manual_seed(0)
    layers = nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3)
    model = (InPlace(*layers) if in_place else nn.Sequential(*layers)).eval()
    batch = torch.randn(3, *shape), VALID[:, : shape[0]] if len(shape) > 1 else torch.ones(3)
    batch = batch if "mask" in options else batch[:1]

    def loss(scheme):
        def by_hand(model, sample):
            z = model(sample[0].clone()) / options.get("temperature", 1.0)
            log_p = read(z, sample).log_softmax(-1)
            if scheme == "entropy":
                return -(log_p.exp() * log_p).sum(-1).mean()
            return F.nll_loss(log_p, log_p.argmax(-1))

        return by_hand

    return model, batch, {**options, "loss": None, "progress": False}, loss


@pytest.mark.slow
@pytest.mark.parametrize("in_place", [False, True], ids=["", "in place"])
@pytest.mark.parametrize("scheme", ["entropy", "predicted"])
@pytest.mark.parametrize("name", CASES)
def test_they_are_those_of_the_loop(name, scheme, in_place):
    model, batch, options, loss = given(name, in_place)
    found, before = gradients(model, [batch], loss(scheme)), batch[0].clone()
    sizes = torch.stack([size(g) for g in found])
    options |= {"scheme": scheme}
    directions = random_directions(model, 2)
    exact = torch.stack([torch.stack([dot(g, v) / size(v) for v in directions]) for g in found])
    exact = exact / sizes[:, None]
    lengths = torch.stack([size(v) for v in directions])
    actual = gradient_dots(model, [batch], directions, **options).double()
    assert float((actual / sizes[:, None] / lengths - exact).abs().max()) < 1e-5
    actual = gradient_dots(model, [batch], directions, cosine=True, **options).double()
    assert float((actual - exact).abs().max()) < 1e-5
    one = gradient_dots(model, [batch], directions[0], **options).double()[:, 0]  # by forward mode
    assert float((one / sizes / lengths[0] - exact[:, 0]).abs().max()) < 1e-5
    mean = mean_gradient(model, [batch], **options)
    gap = {n: mean[n].double() - sum(g[n] for g in found) / 3 for n in mean}
    assert float(size(gap) / sizes.max()) < 1e-5
    sketches, norms = gradient_sketch(model, [batch], 8, seed=2, norms=True, **options)
    hashed = torch.stack([by_element(g, 8, 2) for g in found])
    assert float(((sketches - hashed).norm(dim=1) / sizes).max()) < 1e-5
    assert float((norms / sizes - 1).abs().max()) < 1e-5
    assert torch.equal(batch[0], before)


@pytest.mark.parametrize("function", ["dots", "cosines", "sketches"])
@pytest.mark.parametrize("name", ["temperature", "masked, temperature", "labels, temperature"])
def test_a_checkpoint_of_other_options_is_refused(name, function, tmp_path):
    model, batch, options, _ = given(name, False)
    directions = random_directions(model, 2)

    def run(**other):
        known = {"checkpoint": tmp_path / "run", "scheme": "entropy", **options, **other}
        if function == "sketches":
            return gradient_sketch(model, [batch], 8, **known)
        return gradient_dots(model, [batch], directions, cosine=function == "cosines", **known)

    assert torch.equal(run(), run())
    others = {"temperature": 7.0, "scheme": "predicted", "params": lambda name, _: "2" in name}
    others |= {"seed": 9} if function == "sketches" else {}
    for option, value in others.items():
        if option == "params" and function != "sketches":
            continue  # directions name what counts
        with pytest.raises(ValueError, match="same model, options and pool"):
            run(**{option: value})
