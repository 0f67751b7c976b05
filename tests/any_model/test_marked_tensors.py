"""Attributes and methods that callers give tensors themselves: what stands in for them had none.

Such models failed with an `AttributeError` of their own.
"""

import pytest
import torch
from torch import nn

from fastgradnorm import gradient_dots, naive_score_pool, score_pool
from tests.support.asserts import assert_close_relative
from tests.support.cases import Custom, linear, perturb


class Scaled(nn.Parameter):
    """A parameter with a class of its own."""

    def scaled(self):
        return self * self.scale

    @property
    def half(self):
        return 0.5


def weight(m):
    return m.body.weight


def put(holder, name, value):
    def mark(m):
        setattr(holder(m), name, value(m) if callable(value) else value)

    return mark


def of_class(m):
    m.body.weight = Scaled(m.body.weight.detach())
    m.body.weight.scale = 3.0


def shared(m):
    m.body.weight.is_shared = True


def body(m, x, scale):
    return m.head(torch.tanh(m.body(x)) * scale)


# How tensors are marked, and what reads the marks.
MARKS = {
    "number": (put(weight, "scale", 3.0), lambda m, x: body(m, x, m.body.weight.scale)),
    "asked-for": (shared, lambda m, x: body(m, x, 1 + hasattr(m.body.weight, "is_shared"))),
    "in-its-mapping": (
        put(weight, "scale", 3.0), lambda m, x: body(m, x, vars(m.body.weight).get("scale", 1.0))),
    "tensor": (
        put(weight, "scale", torch.full((4,), 3.0)),
        lambda m, x: body(m, x, m.body.weight.scale.to(x.dtype))),
    "another-parameter": (
        put(weight, "peer", lambda m: m.gain), lambda m, x: body(m, x, m.body.weight.peer)),
    "module": (
        put(weight, "act", lambda m: nn.Softplus()),
        lambda m, x: m.head(m.body.weight.act(m.body(x)))),
    "of-a-bias": (
        put(lambda m: m.body.bias, "scale", 3.0), lambda m, x: body(m, x, m.body.bias.scale)),
    "of-a-frozen-one": (
        put(lambda m: m.frozen, "scale", 3.0), lambda m, x: body(m, x, m.frozen * m.frozen.scale)),
    "of-a-buffer": (
        put(lambda m: m.shift, "scale", 3.0), lambda m, x: body(m, x, m.shift * m.shift.scale)),
    "method-of-a-class": (
        of_class, lambda m, x: body(m, x, m.body.weight.scaled().mean() + m.body.weight.half)),
    "class": (
        of_class, lambda m, x: body(m, x, 2.0 if isinstance(m.body.weight, Scaled) else 1.0)),
}  # fmt: skip


def make(name):
    mark, forward = MARKS[name]
    torch.manual_seed(0)
    m = perturb(Custom(forward, body=linear(4, 4), head=linear(4, 3)))
    m.gain = nn.Parameter(torch.randn(4))
    m.frozen = nn.Parameter(torch.randn(4), requires_grad=False)
    m.register_buffer("shift", torch.randn(4))
    mark(m)
    return m, torch.randn(5, 4)


@pytest.mark.slow
@pytest.mark.parametrize("name", MARKS)
def test_marks_are_there_and_stay(name):
    m, x = make(name)
    marks = {key: dict(vars(p)) for key, p in [*m.named_parameters(), *m.named_buffers()]}
    expected = []
    parameters = [p for p in m.parameters() if p.requires_grad]
    for row in x.split(1):
        logs = m(row)[0].log_softmax(-1)
        norms = [
            torch.cat([g.flatten() for g in gradients(-log, parameters)]).norm() for log in logs
        ]
        expected.append(sum(p * n for p, n in zip(logs.exp().detach(), norms, strict=True)))
    for verify in (True, False):
        scores = score_pool(m, [x], verify=verify, progress=False)
        assert_close_relative(scores, torch.stack(expected), 1e-5, f"verify={verify}")
    assert_close_relative(naive_score_pool(m, [x]), torch.stack(expected), 1e-5, "naive")
    zero = {"head.bias": torch.zeros(3)}
    options = {"scheme": "predicted", "progress": False}
    assert (gradient_dots(m, [x], zero, **options) == 0).all()
    for key, p in [*m.named_parameters(), *m.named_buffers()]:
        assert vars(p) == marks[key]


def gradients(value, parameters):
    found = torch.autograd.grad(value, parameters, retain_graph=True, allow_unused=True)
    return [torch.zeros(1) if g is None else g for g in found]
