"""Parts of a model that run under `torch.inference_mode()`: they have no gradient, and are fast."""

import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fastgradnorm import SlowPathWarning, mean_gradient, score_pool
from tests.support import oracle, sketched
from tests.support.asserts import assert_close_relative
from tests.support.cases import Custom, linear


def backbone(m, x):
    with torch.inference_mode():
        h = m.body(x).tanh()
    return m.head(h.clone())


@torch.inference_mode()
def features(m, x):
    return m.body(x).tanh()


def decorated(m, x):
    return m.head(features(m, x) + m.other(x))


def in_place(m, x):
    with torch.inference_mode():
        h = x * m.gain
        h.mul_(2).relu_()
        h[:, 0] = 1.0
    return m.head(m.other(x) + h.clone().sum(1, keepdim=True))


def read(m, x):
    with torch.inference_mode():
        kinds = m.body(x).argmax(1)
    return m.head(m.other(x) * F.one_hot(kinds, 5))


def kept(m, x):
    with torch.inference_mode():
        m.cache = m.body(x)
    return m.head(m.cache.clone() + m.other(x))


def with_gradients_inside(m, x):
    with torch.inference_mode():
        h = m.body(x)
        with torch.inference_mode(False):
            gained = h.clone() * m.other.bias
    return m.head(gained)


def recurrent(m, x):
    with torch.inference_mode():
        h, _ = m.steps(x[..., None])
    return m.head(h[:, -1].clone())


WAYS = [backbone, decorated, in_place, read, kept, with_gradients_inside, recurrent]


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_it_is_exact_and_fast(way):
    torch.manual_seed(0)
    parts = {"body": linear(4, 5), "other": linear(4, 5), "head": linear(5, 3)}
    model = Custom(way, **parts, steps=nn.GRU(1, 5, batch_first=True))
    model.gain, model.cache = nn.Parameter(torch.randn(4)), None
    batch = torch.randn(5, 4), torch.arange(5) % 3
    table = oracle.norms(model, oracle.ones(batch[0]))
    exact, _ = sketched.expected(model, batch, 16, 0)
    with warnings.catch_warnings():
        warnings.simplefilter("error", SlowPathWarning)
        for verify in (True, False):
            found = score_pool(
                model, [batch[0]], scheme=["expected", "entropy"], verify=verify, progress=False
            )
            for scheme, scores in found.items():
                assert_close_relative(scores, table.scores(scheme), 1e-5, scheme)
            sketches = sketched.found(model, [batch], 16, 0, verify=verify)
            assert (sketches - exact).norm() <= 1e-5 * exact.norm()
        mean = mean_gradient(model, [batch], loss="cross_entropy", progress=False)
    F.cross_entropy(model(batch[0]), batch[1]).backward()
    for name, parameter in model.named_parameters():
        gradient = parameter.grad if parameter.grad is not None else torch.zeros_like(parameter)
        assert (mean[name] - gradient).norm() <= 1e-5 * (1 + gradient.norm())


SELECTED = {
    "a layer": lambda name: name[:4] == "body",
    "the head": lambda name: name[:4] == "head",
    "weights": lambda name: name.endswith("weight"),
}


@pytest.mark.parametrize("select", SELECTED.values(), ids=SELECTED.keys())
def test_a_selection_of_a_model_that_was_made_there(select):
    """The others have no gradient to the caller's own, which autograd refuses."""
    with torch.inference_mode():
        torch.manual_seed(0)
        made = Custom(
            lambda m, x: m.head(torch.tanh(m.body(x))), body=linear(4, 5), head=linear(5, 3)
        )
    plain = Custom(made.function, body=linear(4, 5), head=linear(5, 3))
    plain.load_state_dict(made.state_dict())
    x = torch.randn(4, 4)
    expected = oracle.norms(plain, oracle.ones(x)).scores("expected", keep=select)
    for verify in (True, False):
        options = {"verify": verify, "progress": False}
        found = score_pool(made, [x], params=lambda name, p: select(name), **options)
        assert_close_relative(found, expected, 1e-5)
