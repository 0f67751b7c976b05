"""`.grad` of the caller's tensors, where a model calls `backward()` itself, is left as it was."""

import threading

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from fastgradnorm import GradNormScorer, naive_score_pool
from tests.support import oracle
from tests.support.asserts import assert_close_relative

pytestmark = pytest.mark.filterwarnings("ignore::fastgradnorm.SlowPathWarning")


class RunAgain(torch.autograd.Function):
    """A checkpoint as it is often written."""

    @staticmethod
    def forward(ctx, x, function):
        ctx.function = function
        ctx.save_for_backward(x)
        return function(x)

    @staticmethod
    def backward(ctx, g):
        with torch.enable_grad():
            x = ctx.saved_tensors[0].detach().requires_grad_()
            y = ctx.function(x)
        torch.autograd.backward(y, g)
        return x.grad, None


class Net(nn.Module):
    def __init__(self, middle):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.part, self.head = nn.Linear(4, 3), nn.Linear(3, 3), nn.Linear(3, 3)
        self.register_buffer("asked", torch.ones(3, requires_grad=True), persistent=False)
        part, asked = self.part, self.asked
        self.closed = lambda x: part(x) * asked  # reaches the caller's own past a copy
        self.middle = middle

    def forward(self, x):
        return self.head(self.middle(self, self.first(x).tanh()))


def in_forward(m, h):
    with torch.enable_grad():
        point = h.detach().requires_grad_()
        m.part(point).square().sum().backward()
    return h - 0.1 * point.grad


def of_its_graph(m, h):
    if h.requires_grad:
        m.part(h).square().sum().backward(retain_graph=True)
    return m.part(h)


def by_hook(m, h):
    if h.requires_grad:
        weight = m.part.weight

        def write(g):
            weight.grad = torch.full_like(weight, 7.0)

        h.register_hook(write)
    return m.part(h)


MIDDLES = {
    "custom function": lambda m, h: RunAgain.apply(h, m.part),
    "of the caller's own": lambda m, h: RunAgain.apply(h, m.closed),
    "reentrant checkpoint": lambda m, h: checkpoint(m.part, h, use_reentrant=True),
    "backward in forward": in_forward,
    "backward through its own graph": of_its_graph,
    "hook that assigns": by_hook,
}
PLAIN = {  # the same, as the referee can ask for its gradients
    "of the caller's own": lambda m, h: F.linear(h, m.part.weight.detach(), m.part.bias.detach()),
    "reentrant checkpoint": lambda m, h: m.part(h),
}
WAYS = {
    "verified": lambda m, x: GradNormScorer(m, progress=False).score([x]).values,
    "unverified": lambda m, x: GradNormScorer(m, verify=False).score_batch(x),
    "naive": lambda m, x: naive_score_pool(m, [x]),
}


def tensors(model, x):
    return [*model.parameters(), model.asked, x]


def given(model, x, some):
    """Gradients of before; each with a copy of its values."""
    for tensor in tensors(model, x):
        tensor.grad = torch.full_like(tensor, 0.5) if some else None
    return [t.grad for t in tensors(model, x)]


def assert_kept(model, x, before):
    after = [t.grad for t in tensors(model, x)]
    assert all(a is b for a, b in zip(after, before, strict=True))
    assert all(g is None or bool((g == 0.5).all()) for g in after)


@pytest.mark.parametrize("some", [False, True], ids=["none before", "some before"])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("middle", MIDDLES)
def test_gradients_of_before_are_kept(middle, way, some):
    model = Net(MIDDLES[middle]).eval()
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(1)).requires_grad_()
    before = given(model, x, some)
    scores = WAYS[way](model, x)
    assert_kept(model, x, before)
    model.middle = PLAIN.get(middle, model.middle)
    with torch.enable_grad():
        wanted = oracle.scores(model, oracle.ones(x.detach()))
    assert_close_relative(scores, wanted, 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_those_of_before_the_second_time_are_kept(way):
    model = Net(MIDDLES["of the caller's own"]).eval()
    x = torch.randn(3, 4).requires_grad_()
    for some in (True, False, True):  # as where each round zeroes them and trains
        before = given(model, x, some)
        WAYS[way](model, x)
        assert_kept(model, x, before)


def test_gradients_of_before_are_kept_after_an_exception():
    def fails(m, h):
        if h.requires_grad:
            m.part(h.detach()).sum().backward()
            raise ArithmeticError
        return m.part(h)

    model, x = Net(fails).eval(), torch.randn(3, 4).requires_grad_()
    before = given(model, x, True)
    for way in WAYS.values():
        with pytest.raises(ValueError, match="ArithmeticError"):
            way(model, x)
        assert_kept(model, x, before)


def test_gradients_of_before_are_kept_after_an_interrupt():
    def stops(m, h):
        if h.requires_grad:
            h.register_hook(lambda g: m.closed(g).sum().backward())
            m.closed(h.detach()).sum().backward()
            raise KeyboardInterrupt
        return m.part(h)

    model, x = Net(stops).eval(), torch.randn(3, 4).requires_grad_()
    before = given(model, x, True)
    for way in WAYS.values():
        with pytest.raises(KeyboardInterrupt):
            way(model, x)
        assert_kept(model, x, before)


def test_gradients_of_before_are_kept_by_threads_that_score_at_once():
    model, x = Net(MIDDLES["of the caller's own"]).eval(), torch.randn(3, 4).requires_grad_()
    before = given(model, x, True)
    threads = [threading.Thread(target=WAYS["naive"], args=(model, x)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert_kept(model, x, before)
