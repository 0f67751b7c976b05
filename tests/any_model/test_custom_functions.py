"""Custom autograd functions that know nothing of vmap: fast and exact, and nobody else's."""

import threading
import warnings

import pytest
import torch
from torch import nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from fastgradnorm import SlowPathWarning, mean_gradient, score_pool
from tests.support import oracle
from tests.support.asserts import assert_close_relative
from tests.support.cases import Custom, linear

# In a batch, what is picked from the first sample, or branched on, is the same for all: told.
pytestmark = pytest.mark.filterwarnings("ignore::fastgradnorm.BatchDependenceWarning")


class Gelu(Function):
    """As in Bloom: `forward` takes `ctx`, and the backward pass has a formula of its own."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * 0.5 * (1 + torch.tanh(0.79788456 * x * (1 + 0.044715 * x * x)))

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        t = torch.tanh(0.79788456 * x * (1 + 0.044715 * x * x))
        slope = 0.79788456 + 0.1070322243 * x * x
        return g * (0.5 * x * (1 - t * t) * slope + 0.5 * (1 + t))


class StraightThrough(Function):
    """Its derivative is none of its values'."""

    @staticmethod
    def forward(ctx, x, scale):
        ctx.scale = scale
        return (x * scale).round() / scale

    @staticmethod
    def backward(ctx, g):
        return g * ctx.scale / 8, None


class Dense(Function):
    """With parameters among its inputs, one of them absent."""

    @staticmethod
    def forward(ctx, x, weight, bias=None):
        y = x @ weight.t()
        ctx.save_for_backward(x, weight)
        return y if bias is None else y + bias

    @staticmethod
    @once_differentiable
    def backward(ctx, g):
        x, weight = ctx.saved_tensors
        by_x = g @ weight if ctx.needs_input_grad[0] else None
        return by_x, g.t() @ x, g.sum(0) if len(ctx.needs_input_grad) > 2 else None


class Split(Function):
    """Several outputs, one of them without a derivative; saves one of them and what it made."""

    @staticmethod
    def forward(ctx, x):
        y, sign = x.abs().sqrt(), x.sign()
        ctx.save_for_backward(y, sign + 0.0)
        ctx.mark_non_differentiable(sign)
        return y, sign, "told"

    @staticmethod
    def backward(ctx, g, *_):
        y, sign = ctx.saved_tensors
        return g * sign / (2 * y)


class Newer(Function):
    """`forward` does without `ctx`, and there is no rule for vmap."""

    @staticmethod
    def forward(x):
        return x.sin()

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, g):
        return 3 * g * ctx.saved_tensors[0].cos()


class InPlace(Function):
    """Keeps an attribute, and works in place on what it has made."""

    @staticmethod
    def forward(ctx, x):
        y = x.clone()
        y.mul_(2).sub_(0.1).tanh_()
        ctx.inside = y.abs() < 0.8
        return y

    @staticmethod
    def backward(ctx, g):
        return 2 * g.masked_fill(~ctx.inside, 0)


class Nested(Function):
    """Calls another one in its `forward`."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return Gelu.apply(x) + 1

    @staticmethod
    def backward(ctx, g):
        return g * ctx.saved_tensors[0]


def split(m, x):
    y, sign, told = Split.apply(m.a(x))
    assert told == "told"
    return m.head(y * sign + sign)


# As files of models have them: bound when they are imported.
gelu, dense, newer = Gelu.apply, Dense.apply, Newer.apply
BOUND = {
    "bound": lambda m, x: m.head(gelu(m.a(x))),
    "bound, with parameters": lambda m, x: m.head(dense(x, m.a.weight, m.a.bias).tanh()),
    "bound, no rule": lambda m, x: m.head(newer(m.a(x))),
}

WAYS = {
    "formula": lambda m, x: m.head(Gelu.apply(m.a(x))),
    "straight through": lambda m, x: m.head(StraightThrough.apply(m.a(x), 4.0).square()),
    "parameters": lambda m, x: m.head(Dense.apply(x, m.a.weight, m.a.bias).tanh()),
    "without bias": lambda m, x: m.head(Dense.apply(x, m.a.weight).tanh()),
    "tied": lambda m, x: m.head(Dense.apply(m.a(x).tanh(), m.a.weight, m.a.bias)),
    "several outputs": split,
    "no rule": lambda m, x: m.head(Newer.apply(m.a(x))),
    "in place": lambda m, x: m.head(InPlace.apply(m.a(x))),
    "nested": lambda m, x: m.head(Nested.apply(m.a(x))),
    "of constants": lambda m, x: m.head(m.a(x).tanh() * Gelu.apply(x) + Gelu.apply(torch.ones(4))),
    "after branches": lambda m, x: m.head(Gelu.apply(m.a(x)) if x.sum() > 0 else m.a(x)),
    "in a checkpoint": lambda m, x: m.head(
        torch.utils.checkpoint.checkpoint(lambda y: Gelu.apply(m.a(y)), x, use_reentrant=False)
    ),
    # In PyTorch 2.15 `apply` is no Python: what is bound cannot be reached.
    **(BOUND if hasattr(vars(Function)["apply"], "__func__") else {}),
}


def model(way):
    torch.manual_seed(0)
    return Custom(WAYS[way], a=linear(4, 4), head=linear(4, 3)).double()


@pytest.mark.parametrize("reduction", oracle.REDUCTIONS)
@pytest.mark.parametrize("way", WAYS)
def test_fast_and_exact(way, reduction):
    net, x = model(way), torch.randn(5, 4, dtype=torch.float64)
    if way == "after branches":
        x = torch.cat([x, -x])
    options = {"scheme": oracle.SCHEMES, "reduction": reduction, "progress": False}
    with warnings.catch_warnings(), torch.random.fork_rng():
        warnings.simplefilter("error", SlowPathWarning)
        torch.set_default_dtype(torch.float64)
        try:
            table = oracle.norms(net, oracle.ones(x))
            scores = score_pool(net, [x], **options)
        finally:
            torch.set_default_dtype(torch.float32)
    for scheme in oracle.SCHEMES:
        assert_close_relative(scores[scheme], table.scores(scheme, reduction), 1e-9, scheme)


@pytest.mark.parametrize("way", [way for way in WAYS if way != "after branches"])
def test_their_means_are_fast_and_exact(way):
    made, x, labels = model(way), torch.randn(4, 4).double(), torch.tensor([0, 2, 1, 0])
    parameters = dict(made.named_parameters())
    total = {name: torch.zeros_like(p) for name, p in parameters.items()}
    for one, label in zip(x.split(1), labels.split(1), strict=True):
        loss = nn.functional.cross_entropy(made(one), label)
        found = torch.autograd.grad(loss, [*parameters.values()], allow_unused=True)
        for name, g in zip(parameters, found, strict=True):
            total[name] += 0 if g is None else g
    with warnings.catch_warnings():
        warnings.simplefilter("error", SlowPathWarning)
        means = mean_gradient(made, [(x, labels)], loss="cross_entropy", progress=False)
    size = sum(float(g.square().sum()) for g in total.values()) ** 0.5
    assert all(float((4 * means[n] - g).norm()) <= 1e-9 * size for n, g in total.items())


@pytest.mark.parametrize("options", [{"params": "last_layer"}, {"rtol": 0.5}], ids=str)
def test_forward_passes_without_gradients(options):
    net, x = model("formula"), torch.randn(5, 4, dtype=torch.float64)
    keep = (lambda n: n.startswith("head")) if "params" in options else (lambda n: True)
    with warnings.catch_warnings():
        warnings.simplefilter("error", SlowPathWarning)
        scores = score_pool(net, [x], progress=False, **options)
    expected = oracle.scores(net, oracle.ones(x), keep=keep)
    assert_close_relative(scores, expected, 1e-9 if "params" in options else 1)


def test_in_the_models_own_transforms_they_are_refused_as_ever():
    """There a derivative may be taken of what is pulled back: PyTorch has to know about it."""

    def forward(m, x):
        slope = torch.func.grad(lambda y: Gelu.apply(m.a(y)).sum())(x)
        return m.head(slope)

    net = Custom(forward, a=linear(4, 4), head=linear(4, 3))
    with pytest.raises(ValueError, match="setup_context"):
        score_pool(net, [torch.randn(3, 4)], progress=False)


def test_apply_is_what_it_was():
    before = vars(Function)["apply"]
    code = getattr(getattr(before, "__func__", None), "__code__", None)
    net, x = model("formula"), torch.randn(5, 4, dtype=torch.float64)
    seen = []

    def meanwhile(m, args, output):
        """Another thread differentiates twice through a function, and transforms another."""

        def work():
            y = torch.ones(2, requires_grad=True)
            Gelu.apply(y).sum().backward()
            seen.append(y.grad)
            with pytest.raises(RuntimeError, match="setup_context"):
                torch.func.vmap(torch.func.vmap(torch.func.vmap(Gelu.apply)))(torch.ones(1, 1, 1))

        if not seen:
            thread = threading.Thread(target=work)
            thread.start()
            thread.join()

    net.a.register_forward_hook(meanwhile)
    score_pool(net, [x], progress=False)
    y = torch.ones(2, requires_grad=True)
    Gelu.apply(y).sum().backward()
    assert len(seen) >= 1
    assert torch.equal(seen[0], y.grad)
    assert vars(Function)["apply"] is before
    with pytest.raises(ValueError, match="must run on one sample"):
        score_pool(Custom(lambda m, x: m.a(x) @ x, a=nn.Linear(4, 4)), [torch.ones(2, 4)])
    assert vars(Function)["apply"] is before
    assert getattr(getattr(before, "__func__", None), "__code__", None) is code


VIEWS = {
    "t": lambda w: w.t(),
    "view": lambda w: w.view(-1).view(4, 4),
    "slice": lambda w: w[:, :].mT,
    "unsqueezed": lambda w: w[None][0],
    "chunks": lambda w: torch.cat(w.chunk(2)),
}


@pytest.mark.parametrize("used", [False, True])
@pytest.mark.parametrize("way", VIEWS)
def test_a_view_made_under_no_grad_is_no_use(way, used):
    """And matches none of the others: here autograd has as many as there seem to be."""

    def forward(m, x):
        h = m.a(x)
        with torch.no_grad():
            v = VIEWS[way](m.b.weight)
        h = torch.tanh(h @ v + (m.b(h) if used else 0))
        return m.head(Dense.apply(h, m.b.weight) if used else h)

    torch.manual_seed(0)
    net = Custom(forward, a=linear(4, 4), b=linear(4, 4), head=linear(4, 3)).double()
    x = torch.randn(5, 4, dtype=torch.float64)
    scores = score_pool(net, [x], progress=False, verify=False)
    assert_close_relative(scores, oracle.scores(net, oracle.ones(x)), 1e-9)
