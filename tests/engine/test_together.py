"""Last layers by one plain forward pass of many samples, and models for which that is not right."""

import copy

import pytest
import torch
from torch import nn

from fastgradnorm import score_pool
from tests.support import oracle
from tests.support.cases import Custom, linear

X = torch.randn(12, 6, 4)
PARTS = {"body": linear(4, 8), "head": linear(8, 3)}


def last(model, x, **options):
    return score_pool(model, x.split(4), params="last_layer", progress=False, **options)


def exact(model, x):
    found = oracle.norms(copy.deepcopy(model).double().eval(), x.double().split(1))
    return found.scores("expected", keep=lambda name: name.startswith("head."))


FORMS = {
    "mean": lambda m, x: m.head(torch.relu(m.body(x)).mean(1)),
    "recurrent": lambda m, x: m.head(m.rnn(x)[1][0][-1]),
    "time-first": lambda m, x: m.head(m.body(x.transpose(0, 1)).amax(0)),
    "folded": lambda m, x: m.head(m.body(x.flatten(0, 1)).unflatten(0, (-1, 6)).sum(1)),
    "one-position": lambda m, x: m.head(m.body(x[:, :1])).squeeze(1),
    "images": lambda m, x: m.head(m.conv(x.reshape(-1, 1, 6, 4)).relu().mean((2, 3))),
}
MORE = {"rnn": nn.LSTM(4, 8, batch_first=True), "conv": nn.Conv2d(1, 8, 3, padding=1)}


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMS)
def test_exact(name, passes):
    model = Custom(FORMS[name], **PARTS, **MORE)
    found = last(model, X)
    assert passes and all(passes)
    torch.testing.assert_close(found.double(), exact(model, X), rtol=1e-5, atol=0)


def test_a_single_logit_squeezed(passes):
    def forward(m, x):
        return m.head(m.body(x).mean(1)).squeeze(-1)

    model = Custom(forward, body=linear(4, 8), head=linear(8, 1))
    found = last(model, X)
    assert passes and all(passes)
    torch.testing.assert_close(found, last(model, X, verify=False), rtol=1e-5, atol=0)


def sorted_within(m, x):
    """Rows reach the head in another order than they come and go."""
    order = x.sum((1, 2)).argsort()
    return m.head(m.body(x[order]).mean(1))[order.argsort()]


def reading(m, x):
    h = m.body(x).mean(1)
    return m.head(h if bool(h.abs().amax() < 100) else -h)


def reading_if_long(m, x):
    """The first batches, which are looked at, say nothing of what it does on others."""
    h = m.body(x).mean(1)
    return m.head(h if x.shape[1] < 7 or bool(h.sum() > 0) else -3 * h)


def scaled_if_long(m, x):
    h = m.body(x).mean(1)
    return m.head(h if x.shape[1] < 7 else h / float(h.detach().abs().amax()))


def counted_if_long(m, x):
    h = m.body(x).mean(1)
    return m.head(h if x.shape[1] < 7 or len((x > 2).nonzero()) == 0 else -3 * h)


def placed_if_long(m, x):
    h = m.body(x).mean(1)
    return m.head(h if x.shape[1] < 7 or len(torch.where(x > 2)[0]) < 3 else -3 * h)


def different_if_long(m, x):
    h = m.body(x).mean(1)
    return m.head(h if x.shape[1] < 7 or len((x > 2).unique()) == 1 else -3 * h)


LONG = [reading_if_long, scaled_if_long, counted_if_long, placed_if_long, different_if_long]


@pytest.mark.slow
@pytest.mark.parametrize("forward", LONG)
@pytest.mark.filterwarnings("ignore::fastgradnorm.SlowPathWarning")
@pytest.mark.filterwarnings("ignore::fastgradnorm.BatchDependenceWarning")
def test_left_where_only_later_batches_read_a_value(forward, passes):
    model, long = Custom(forward, **PARTS), torch.randn(12, 7, 4)
    found = score_pool(model, [X, long], params="last_layer", verify="first", progress=False)
    assert passes and not passes[-1]
    right = torch.cat([exact(model, X), exact(model, long)])
    torch.testing.assert_close(found.double(), right, rtol=1e-5, atol=0)


@pytest.mark.parametrize("forward", [sorted_within, reading])
def test_left_where_it_does_not_tell(forward, passes):
    model = Custom(forward, **PARTS)
    found = last(model, X)
    assert not any(passes)
    torch.testing.assert_close(found.double(), exact(model, X), rtol=1e-5, atol=0)


def test_only_where_it_was_verified(passes):
    last(Custom(FORMS["mean"], **PARTS), X, verify=False)
    assert not passes


def test_not_where_samples_mix(passes):
    model = Custom(lambda m, x: m.head((m.body(x) - m.body(x).mean(0)).mean(1)), **PARTS)
    with pytest.raises(ValueError, match="other values in a batch than alone"):
        last(model, X)
    assert not passes


def test_a_model_that_fails_on_more_samples_than_its_batches_have_is_run_apart(passes):
    def forward(m, x):
        if len(x) > 5:
            raise RuntimeError("five at most")
        return m.head(m.body(x).mean(1))

    model = Custom(forward, **PARTS)
    found = score_pool(model, [X[:5], X[5:8], X[8:]], params="last_layer", progress=False)
    assert passes == [False]  # three batches are scored at once
    torch.testing.assert_close(found.double(), exact(model, X), rtol=1e-5, atol=0)


@pytest.mark.slow
def test_a_resumed_run_gives_the_same_bits(tmp_path):
    model, path = Custom(FORMS["recurrent"], **PARTS, **MORE), tmp_path / "scores.ckpt"
    whole = last(model, X)

    class Stops(Exception):
        pass

    def stopping():
        yield X[:4]
        yield X[4:8]
        raise Stops

    with pytest.raises(Stops):
        score_pool(model, stopping(), params="last_layer", progress=False, checkpoint=path)
    assert torch.equal(last(model, X, checkpoint=path), whole)


@pytest.mark.parametrize("verify", [True, False])
def test_inputs_stay_as_they_are(verify):
    x = X.clone()
    last(Custom(lambda m, x: m.head(m.body(x.mul_(2)).mean(1)), **PARTS), x, verify=verify)
    assert torch.equal(x, X)
