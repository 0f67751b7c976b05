"""Operations of plain passes, watched once and only called from then on."""

import sys

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fastgradnorm import GradNormScorer, score_pool
from fastgradnorm._engine import together
from fastgradnorm._model import Watch
from tests.engine.test_together import exact, last
from tests.support.cases import Custom, linear

X = torch.randn(12, 3, 8, 8)
PARTS = {
    "conv": nn.Conv2d(3, 8, 3, padding=1), "norm": nn.BatchNorm2d(8), "act": nn.ReLU(inplace=True),
    "head": linear(8, 3),
}  # fmt: skip


def network(m, x):
    return m.head(m.act(m.norm(m.conv(x))).mean((2, 3)))


@pytest.fixture
def passes(monkeypatch):
    """Of each plain pass: whether anything was to be had from it, and how many calls it watched."""
    found, watched = [], [0]
    right, seen = together.head_together, Watch.__torch_function__

    def counting(*args, **kwargs):
        watched[0] += 1
        return seen(*args, **kwargs)

    def noting(*args):
        watched[0] = 0
        made = right(*args)
        found.append((made is not None, watched[0]))
        return made

    monkeypatch.setattr(Watch, "__torch_function__", counting)
    monkeypatch.setattr("fastgradnorm._engine.passes.head_together", noting)
    return found


def scores(model, *batches):
    scorer = GradNormScorer(model, params="last_layer")
    return [scorer.score_batch(batch) for batch in batches]


def test_layers_are_watched_once(passes):
    model = Custom(network, **PARTS)
    found = scores(model, X, X.flip(0), X + 1, X * 2, X)
    for batch, score in zip((X, X.flip(0), X + 1, X * 2, X), found, strict=True):
        torch.testing.assert_close(score.double(), exact(model, batch), rtol=1e-5, atol=0)
    assert all(made for made, _ in passes)
    counts = [count for _, count in passes]
    # The head is left, and the mean, which has a form of its own; an engine is kept from two on.
    assert max(counts[2:]) <= 4 < 8 <= counts[0]


def by_view(m, x):
    """Which fails for channels that are last in memory."""
    return m.head(m.conv(x).view(len(x), 8, -1).mean(-1))


def by_stride(m, x):
    """A stack of what lies next to each other, of contiguous images alone the channels."""
    rows = m.conv(x)
    return m.head(rows.as_strided((len(x), 8, 64), (8 * 64, 64, 1)).mean(-1))


def changed_in_place(m, x):
    """Rows that are a view of contiguous images, and a copy of others."""
    images = m.conv(x)
    m.act(images.flatten(2))
    return m.head(images.mean((2, 3)))


def changed_by_an_operator(m, x):
    images = m.conv(x)
    images.reshape(len(x), -1).mul_(2)
    return m.head(images.mean((2, 3)))


def of_transposed_rows(m, x):
    """A copy in any layout, which may be changed."""
    rows = m.conv(x).transpose(1, 2).reshape(len(x), -1).mul_(2)
    return m.head(rows.unflatten(1, (8, 8, 8)).mean((1, 3)))


LAYOUTS = [of_transposed_rows, by_view, by_stride, changed_in_place, changed_by_an_operator]


@pytest.mark.parametrize("forward", LAYOUTS)
def test_models_that_count_on_how_images_lie_in_memory(forward, passes):
    model = Custom(forward, **PARTS)
    for batch, score in zip((X, X + 1, X), scores(model, X, X + 1, X), strict=True):
        torch.testing.assert_close(score.double(), exact(model, batch), rtol=1e-5, atol=0)
    assert passes and all(made for made, _ in passes)


def widely(m, x):
    """Wider images take another way, of operations that were not seen before."""
    images = m.conv(x)
    images = F.elu(images).sigmoid() if x.shape[-1] > 8 else images.relu()
    return m.head(images.mean((2, 3)))


@pytest.mark.parametrize("verify", [True, "all"])
def test_bits_are_the_same_whichever_pass_came_before(verify):
    model, wide = Custom(widely, **PARTS), torch.randn(12, 3, 8, 9)
    after = score_pool(model, [X, wide, X], params="last_layer", verify=verify, progress=False)
    alone = [last(model, batch) for batch in (X, wide)]
    assert torch.equal(after, torch.cat([alone[0], alone[1], alone[0]]))


WRITES = {
    "a layer": lambda m, buffer: m.act(buffer),
    "a view": lambda m, buffer: buffer[:8].mul_(2),
    "a row": lambda m, buffer: buffer.view(2, 4)[0].relu_().sum(),
    "as an output": lambda m, buffer: torch.mul(buffer, 2, out=buffer),
    "a list": lambda m, buffer: torch.stack([buffer, buffer])[0].mul_(2),
}


@pytest.mark.parametrize("name", WRITES)
def test_a_buffer_of_the_callers_is_not_written_to(name):
    """By what was plain on what the model had made, when it was watched."""
    callers, usual = [], sys.getswitchinterval()

    def forward(m, x):
        h = m.act(m.conv(x)).mean((2, 3))
        h = torch.mul(torch.stack([h[:8], h[:8]])[0].mul_(0.5), 2).view(len(x), 8).relu_()
        return m.head(h + WRITES[name](m, callers[0]) if sys.getswitchinterval() > usual else h)

    model = Custom(forward, **PARTS)
    model.register_buffer("shift", torch.full((8,), -1.0))
    callers.append(model.shift)
    scorer = GradNormScorer(model, params="last_layer")
    for _ in range(3):
        scorer.score_batch(X[:8])
    try:
        sys.setswitchinterval(2 * usual)  # of the process, where nobody looks for what a model does
        scorer.score_batch(X[:8])
    finally:
        sys.setswitchinterval(usual)
    assert torch.equal(model.shift, torch.full((8,), -1.0))


def test_a_last_layer_that_a_later_batch_calls_otherwise():
    def forward(m, x):
        h = m.conv(x).mean((2, 3))
        if x.shape[-1] > 8:
            return F.linear(input=h, weight=m.head.weight, bias=m.head.bias)
        return m.head(m.square(h))

    model, wide = Custom(forward, **PARTS, square=linear(8, 8)), torch.randn(12, 3, 8, 9)
    batches = (X, X, wide, wide, X)
    for batch, score in zip(batches, scores(model, *batches), strict=True):
        torch.testing.assert_close(score.double(), exact(model, batch), rtol=1e-5, atol=0)


def test_functions_that_a_model_makes_each_time(passes, monkeypatch):
    """Of which there is no end: the pass is watched, and ends."""
    monkeypatch.setattr(together, "_MOST", 20)

    def forward(m, x):
        def scaled(h):
            if torch.overrides.has_torch_function((h,)):
                return torch.overrides.handle_torch_function(scaled, (h,), h)
            return 2 * h

        return m.head(scaled(m.conv(x)).mean((2, 3)))

    model = Custom(forward, **PARTS)
    for batch, score in zip((X, X + 1, X), scores(model, X, X + 1, X), strict=True):
        torch.testing.assert_close(score.double(), exact(model, batch), rtol=1e-5, atol=0)
    assert passes and all(made for made, _ in passes)
