"""Losses that read what the model has stored on itself while it ran, and what they leave behind.

Passes run on copies of the module tree: such a loss read what an earlier call had left, or failed.
A loss that calls the model again left wrappers of a transform on it, which ended later calls.
"""

import copy
import warnings
from collections.abc import Mapping

import pytest
import torch
from fastgradnorm_kernels.functorch import is_wrapped
from torch import nn
from torch.nn import functional as F

from fastgradnorm import (
    BatchDependenceWarning,
    UnsupportedModelError,
    gradient_dots,
    gradient_sketch,
    mean_gradient,
    score_pool,
)
from tests.support.asserts import assert_close_relative
from tests.support.losses import RTOL, score, truth


class Storing(nn.Module):
    """It keeps features, and losses of its own, in several ways."""

    def __init__(self):
        super().__init__()
        self.body, self.drop, self.head = nn.Linear(3, 8), nn.Dropout(0.5), nn.Linear(8, 5)
        self.features, self.losses, self.named = None, [], {}
        self.register_buffer("kept", torch.zeros(()))
        self.body.register_forward_hook(lambda module, args, out: setattr(module, "seen", out))

    def forward(self, x):
        h = torch.tanh(self.body(x))
        self.features, self.kept = h, h.square().mean()
        self.losses.clear()
        self.losses.append(h.square().mean())
        self.named["features"] = h
        return self.head(self.drop(h))


READ = {
    "attribute": lambda model: model.features.square().mean(),
    "list": lambda model: sum(model.losses),
    "dict": lambda model: model.named["features"].abs().sum(),
    "buffer": lambda model: model.kept,
    "hook": lambda model: model.body.seen.square().sum(),
}
BEFORE = {
    "nothing": lambda model, x: None,
    "without gradients": lambda model, x: torch.no_grad()(model)(x),
    "in training": lambda model, x: model(x).sum().backward(),
    "one sample": lambda model, x: model(x[:1]),
}


def pool(count=5):
    return torch.randn(count, 3), torch.randint(0, 5, (count,))


def total(read, output, model, y):
    return F.cross_entropy(output, y) + 0.3 * read(model)


def expected(model, batches, read):
    fresh = type(model)()
    fresh.load_state_dict(model.state_dict())
    return truth(fresh, batches, lambda m, s: total(read, m(s[0]), m, s[1]))


@pytest.mark.parametrize("read", READ.values(), ids=READ.keys())
@pytest.mark.parametrize("before", BEFORE.values(), ids=BEFORE.keys())
@pytest.mark.parametrize("verify", [True, False])
def test_what_a_model_stores_is_that_of_the_pass(read, before, verify):
    torch.manual_seed(0)
    model, batch = Storing(), pool()
    exact = expected(model, [batch], read)
    before(model, batch[0])
    held = model.features, model.kept, model.named.get("features"), [*model.losses]
    found = score(model, [batch], loss=lambda o, b: total(read, o, model, b[1]), verify=verify)
    assert_close_relative(found, exact, RTOL)
    now = model.features, model.kept, model.named.get("features"), [*model.losses]
    assert all(a is b for a, b in zip(held[:3], now[:3], strict=True))
    assert all(a is b for a, b in zip(held[3], now[3], strict=True))
    assert model.training


@pytest.mark.slow
@pytest.mark.parametrize("read", READ.values(), ids=READ.keys())
def test_other_functions_too(read):
    torch.manual_seed(1)
    model, batch = Storing(), pool()
    norms = expected(model, [batch], read)
    torch.no_grad()(model)(batch[0])
    options = {"loss": lambda o, b: total(read, o, model, b[1]), "progress": False}
    mean = mean_gradient(model, [batch], **options)
    products = gradient_dots(model, [batch], mean, **options)[:, 0]
    sizes = gradient_sketch(model, [batch], 16, norms=True, **options)[1]
    assert_close_relative(sizes.double(), norms, RTOL)
    square = sum(v.double().square().sum() for v in mean.values())
    assert_close_relative(products.double().mean(), square, RTOL)


def calls_again(model, teacher, output, batch):
    return F.cross_entropy(output, batch[1]) + F.mse_loss(model(2 * batch[0]), output)


def by_a_teacher(model, teacher, output, batch):
    return F.cross_entropy(output, batch[1]) + F.mse_loss(teacher(batch[0]), output)


@pytest.mark.slow
@pytest.mark.parametrize("loss", [calls_again, by_a_teacher])
@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize("training", [True, False])
def test_a_loss_that_calls_what_stores(loss, verify, training):
    torch.manual_seed(2)
    model, teacher, batch = Storing().train(training), Storing().eval(), pool()
    double = copy.deepcopy(teacher).double()
    exact = truth(model, [batch], lambda m, s: loss(m, double, m(s[0]), s))
    for _ in range(2):
        found = score(model, [batch], loss=lambda o, b: loss(model, teacher, o, b), verify=verify)
        assert_close_relative(found, exact, RTOL)
    assert model.features is None and not model.losses and model.training is training
    stored = [teacher.features, teacher.kept, *teacher.losses, *teacher.named.values()]
    assert not any(is_wrapped(each) for each in stored if each is not None)


@pytest.mark.parametrize("verify", [True, False])
def test_a_forward_that_calls_the_callers_own(verify):
    torch.manual_seed(3)
    model, batch = Storing().train(), pool()
    exact = truth(model, [batch], lambda m, s: F.cross_entropy(m(s[0]), s[1]))
    options = {"loss": "cross_entropy", "forward": lambda m, b: model(b[0]), "verify": verify}
    found = score_pool(model, [batch], progress=False, **options)
    assert_close_relative(found.double(), exact, RTOL)
    assert model.features is None and not model.losses and model.training


class Centred(nn.Module):
    """It keeps a moving mean, as an attribute, and in a list."""

    def __init__(self):
        super().__init__()
        self.mean, self.means = None, []

    def forward(self, output, label):
        mean = output.detach().mean(0)
        self.mean = mean if self.mean is None else 0.9 * self.mean + 0.1 * mean
        self.means.append(mean)
        return F.cross_entropy(output - 0.5 * self.mean, label) * len(self.means)


class Counting(nn.Module):
    """It writes to a buffer and to an attribute, in place."""

    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))
        self.means = torch.zeros(5)

    def forward(self, output, label):
        self.calls += 1
        self.means.mul_(0.9).add_(self.calls)
        return F.cross_entropy(output - self.means * torch.arange(5), label) * self.calls


class Noting:
    """No module, and keeps what it was given."""

    def __init__(self):
        self.last, self.calls = None, 0

    def __call__(self, output, batch):
        self.last, self.calls = [output], self.calls + 1
        return F.cross_entropy(output, batch[1])


@pytest.mark.parametrize("verify", [True, False])
def test_a_loss_that_keeps_something_begins_anew(verify):
    torch.manual_seed(4)
    model, (x, y) = Storing().train(), pool(8)
    loss, pairs = Centred(), list(zip(x.split(2), y.split(2), strict=True))
    exact = truth(model, pairs, lambda m, s: Centred()(m(s[0]), s[1]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", BatchDependenceWarning)  # as of means over a batch
        found = score(model, pairs, loss=loss, verify=verify)
    assert_close_relative(found, exact, RTOL)
    assert loss.mean is None and loss.means == []


@pytest.mark.slow
@pytest.mark.parametrize("verify", [True, False])
def test_what_a_loss_writes_to_is_a_copy(verify):
    torch.manual_seed(7)
    model, (x, y) = Storing().train(), pool(8)
    loss, pairs = Counting(), list(zip(x.split(2), y.split(2), strict=True))
    before = loss.calls, loss.means
    exact = truth(model, pairs, lambda m, s: Counting().double()(m(s[0]), s[1]))
    for _ in range(2):
        assert_close_relative(score(model, pairs, loss=loss, verify=verify), exact, RTOL)
    assert loss.calls is before[0] and loss.means is before[1]
    assert loss.calls == 0 and bool((loss.means == 0).all())


def test_what_changes_otherwise_is_told_of_the_loss():
    model, teacher, batch, calls = Storing(), Storing().eval(), pool(), []

    def counted(output, batch):
        calls.append(1)
        return F.cross_entropy(output, batch[1]) * len(calls)

    def teaching(output, batch):
        with torch.no_grad():
            for own, other in zip(teacher.parameters(), model.parameters(), strict=True):
                own.mul_(0.9).add_(other, alpha=0.1)
        return F.mse_loss(teacher(batch[0]).detach(), output)

    for loss in (counted, teaching):
        with pytest.raises(UnsupportedModelError, match="`loss` must give a sample the same loss"):
            score(model, [batch], loss=loss)


@pytest.mark.parametrize("verify", [True, False])
def test_an_object_that_notes_what_it_was_given(verify):
    torch.manual_seed(5)
    model, batch, loss = Storing().train(), pool(), Noting()
    exact = truth(model, [batch], lambda m, s: F.cross_entropy(m(s[0]), s[1]))
    assert_close_relative(score(model, [batch], loss=loss, verify=verify), exact, RTOL)
    assert loss.last is None or not is_wrapped(loss.last[0])


class Files(Mapping):
    """What is in it is read from files."""

    def __getitem__(self, key):
        raise AssertionError("read")

    def __iter__(self):
        raise AssertionError("read")

    def __len__(self):
        return 1


@pytest.mark.parametrize("made", [Files, lambda: [Files()], lambda: {"files": Files()}])
def test_what_cannot_be_looked_into_is_left_alone(made):
    torch.manual_seed(6)
    model, batch, beside = Storing(), pool(), made()

    def loss(output, batch, beside=beside):
        return total(READ["list"], output, model, batch[1])

    assert_close_relative(
        score(model, [batch], loss=loss, verify=False),
        expected(model, [batch], READ["list"]),
        RTOL,
    )
