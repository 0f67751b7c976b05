"""Reentrant checkpoints whose parameters have no gradient in training, though scores count them."""

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from fastgradnorm import score_pool
from tests.support import oracle
from tests.support.asserts import assert_close_relative
from tests.support.cases import perturb
from tests.support.doubts import findings, warned


class Blocks(nn.Module):
    """A stem, two blocks and a head."""

    def __init__(self, run=None, **options):
        super().__init__()
        self.stem, self.head = nn.Linear(4, 4), nn.Linear(4, 3)
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.run, self.options = run or through, {"use_reentrant": True, **options}

    def block(self, layer, *tensors):
        return checkpoint(layer, *tensors, **self.options) if self.options else layer(*tensors)

    def forward(self, x):
        return self.head(torch.tanh(self.run(self, x)))


def through(m, x):
    return m.block(m.second, m.block(m.first, m.stem(x)))


def at_once(m, x):
    return m.block(m.second, m.stem(m.block(m.first, x)))


def asked_for(m, x):
    h = m.stem(x)
    return m.block(m.first, h if h.requires_grad else h.detach().requires_grad_())


def aside(m, x):
    with torch.no_grad():
        known = m.block(m.first, x)
    return m.stem(x) + known


def one_of_two(m, x):
    return m.block(lambda a, b: m.first(a) + m.second(b), x, m.stem(x))


def of_several(m, x):
    return m.block(lambda x: (m.first(x), m.second(x)), x)[0] + m.stem(x)


def made(run=None, frozen="", **options):
    torch.manual_seed(0)
    model = perturb(Blocks(run, **options))
    if frozen:
        model.get_submodule(frozen).requires_grad_(False)
    return model


TOLD = {
    "the input": lambda: made(at_once),
    "a frozen stem": lambda: made(frozen="stem"),
    "several outputs": lambda: made(of_several),
}
SILENT = {
    "behind a stem": lambda: made(),
    "not reentrant": lambda: made(at_once, use_reentrant=False),
    "a frozen block": lambda: made(at_once, frozen="first"),
    "asked for": lambda: made(asked_for, frozen="stem"),
    "without gradients": lambda: made(aside),
    "one of two": lambda: made(one_of_two),
}
X = torch.randn(5, 4, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", TOLD)
def test_a_block_that_training_leaves_out_is_told(name):
    level, message = findings(TOLD[name](), [X])["cut off by a checkpoint"]
    assert level == "warn"
    assert "Linear" in message or "of_several.<locals>" in message
    assert "use_reentrant=False" in message


@pytest.mark.parametrize("name", SILENT)
def test_others_are_not(name):
    assert not warned(SILENT[name](), [X])


def test_where_what_comes_before_is_not_looked_at():
    model = made()
    for params in (lambda name, p: "second" in name, "last_layer"):
        assert not warned(model, [X], params=params)


def test_where_a_copy_is_called_that_has_a_gradient_by_less():
    with torch.inference_mode():
        model = made()
    assert not warned(model, [X], params=lambda name, p: "second" in name)


@pytest.mark.filterwarnings("ignore:.torch.utils.checkpoint. runs")
@pytest.mark.parametrize("name", TOLD)
def test_scores_are_those_of_the_blocks_as_they_are(name):
    model = TOLD[name]()
    scores = [score_pool(model, [X], verify=v, progress=False) for v in (True, False)]
    model.options = {}
    expected = oracle.scores(model, oracle.ones(X))
    for found in scores:
        assert_close_relative(found, expected, 1e-5)
