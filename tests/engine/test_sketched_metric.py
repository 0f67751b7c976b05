"""Sketches under Adam's metric, against float64 gradients, divided and hashed one by one."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fastgradnorm import gradient_sketch, store_sketches
from tests.engine.test_sketched import made
from tests.support.directions import gradients, size
from tests.support.sketched import by_element
from tests.support.stopping import Stop, stopped_after

OPTIONS = {"loss": "cross_entropy", "progress": False, "seed": 3}


def loss(model, sample):
    return F.cross_entropy(model(sample[0]), sample[1])


def stepped(model, batch, **options):
    """An optimizer that has a state, and what it divides by."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, eps=1e-3, **options)
    for _ in range(2):
        optimizer.zero_grad()
        loss(model, batch).backward()
        for parameter in model.parameters():  # also where nothing comes through
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
    optimizer.zero_grad()
    scales = {}
    for name, parameter in model.named_parameters():
        state = optimizer.state[parameter]
        moment = state["exp_avg_sq"].double() / (1 - 0.999 ** float(state["step"]))
        scales[name] = 1 / (moment.sqrt() + 1e-3)
    return optimizer, scales


@pytest.mark.slow
@pytest.mark.parametrize("by", [None, "parameter"])
@pytest.mark.parametrize("name", ["positions", "groups", "text", "ties", "lstm"])
def test_they_are_of_the_divided_gradients(name, by):
    model, batch = made(name)
    optimizer, scales = stepped(model, batch)
    options = {**OPTIONS, "metric": optimizer, "norms": True, "group_by": by}
    sketches, norms = gradient_sketch(model, [batch], 16, **options)
    exact = [
        {n: scales[n] * g for n, g in each.items()} for each in gradients(model, [batch], loss)
    ]
    sizes = torch.stack([size(each) for each in exact])
    for group in sketches if by else [None]:
        own = [{group: each[group]} for each in exact] if by else exact
        rows = torch.stack([by_element(each, 16, 3) for each in own])
        actual, norm = (sketches[group], norms[group]) if by else (sketches, norms)
        assert bool(((actual.double() - rows).norm(dim=1) < 1e-5 * sizes).all())
        known = torch.stack([size(each) for each in own])
        assert bool(((norm.double() - known).abs() < 1e-5 * sizes).all())


@pytest.mark.slow
def test_stores_are_of_one_state(tmp_path):
    model = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 3)).eval()
    x, y = torch.randn(400, 6), torch.randint(0, 3, (400,))
    pool = list(zip(x.split(40), y.split(40), strict=True))
    optimizer, _ = stepped(model, pool[0])
    options = {**OPTIONS, "metric": optimizer, "max_memory": 2**16}
    with pytest.raises(Stop):
        store_sketches(model, stopped_after(pool, 7), tmp_path, 32, **options)
    other, _ = stepped(model, pool[1], betas=(0.9, 0.99))
    with pytest.raises(ValueError, match=r"same model, options and pool.*metric"):
        store_sketches(model, pool, tmp_path, 32, **{**options, "metric": other})


def test_what_is_no_metric():
    model = nn.Sequential(nn.Linear(6, 3)).eval()
    pool = [(torch.randn(4, 6), torch.zeros(4, dtype=torch.long))]
    with pytest.raises(TypeError, match="`metric` must be an optimizer"):
        gradient_sketch(model, pool, 8, metric="adam", **OPTIONS)
    fresh = torch.optim.Adam(model.parameters())
    with pytest.raises(
        ValueError, match="`metric` must be an Adam, RMSprop or Adagrad optimizer that has"
    ):
        gradient_sketch(model, pool, 8, metric=fresh, **OPTIONS)
