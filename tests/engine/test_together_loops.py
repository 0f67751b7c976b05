"""Plain passes of models that go through steps: what each step calls is only called."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fastgradnorm import GradNormScorer
from tests.engine.test_together import exact
from tests.engine.test_together_watched import passes as passes
from tests.engine.test_together_watched import scores
from tests.support.cases import Custom, linear

X = torch.randn(6, 9, 4)


def in_cells(cell, m, x):
    state = x.new_zeros(len(x), 5)
    state = (state, state) if cell == "lstm" else state
    for t in range(x.shape[1]):
        state = m[cell](x[:, t], state)
    return m.head(state[0] if cell == "lstm" else state)


def in_steps(m, x):
    h = x.new_zeros(len(x), 5)
    for t in range(x.shape[1]):
        h = torch.tanh(m.rows(x[:, t, :]) + 0.5 * h)
    return m.head(h)


def from_behind(m, x):
    parts = [m.rows(x[..., -t - 1, None, :])[:, 0] for t in range(5)]
    return m.head(torch.stack(parts, 1)[:, 1:-1:2].sum(1))


FORMS = {
    "LSTM cell": lambda m, x: in_cells("lstm", m, x),
    "GRU cell": lambda m, x: in_cells("gru", m, x),
    "RNN cell": lambda m, x: in_cells("rnn", m, x),
    "RNN cell, ReLU": lambda m, x: in_cells("relu", m, x),
    "steps": in_steps,
    "from behind": from_behind,
    "pools": lambda m, x: m.head(
        torch.cat([F.adaptive_avg_pool1d(m.rows(x).mT, n).flatten(1) for n in (1, 2)], 1)[:, :5]
    ),
    "PReLU": lambda m, x: m.head(m.act(m.rows(x)).mean(1)),
}


class Parts(Custom):
    def __getitem__(self, name):
        return getattr(self, name)


def model_of(form):
    torch.manual_seed(0)
    return Parts(
        form, rows=linear(4, 5), head=linear(5, 3), lstm=nn.LSTMCell(4, 5), gru=nn.GRUCell(4, 5),
        rnn=nn.RNNCell(4, 5), relu=nn.RNNCell(4, 5, nonlinearity="relu"), act=nn.PReLU(),
    )  # fmt: skip


@pytest.mark.parametrize("name", FORMS)
def test_steps_are_only_called(passes, name):
    model, batches = model_of(FORMS[name]), (X, X + 1, X * 2)
    for batch, score in zip(batches, scores(model, *batches), strict=True):
        torch.testing.assert_close(score.double(), exact(model, batch), rtol=1e-5, atol=0)
    assert passes and all(made for made, _ in passes)
    # What is watched is the head, and a mean or another form of a batch: nothing of a step.
    assert passes[-1][1] <= 6


def test_a_step_that_is_picked_by_a_value(passes):
    """A tensor in an index is looked at as before."""

    def forward(m, x):
        return m.head(torch.tanh(m.rows(x[torch.arange(len(x)), x[:, :, 0].argmax(1)])))

    model, batches = model_of(forward), (X, X + 1, X.flip(1))
    for batch, score in zip(batches, scores(model, *batches), strict=True):
        torch.testing.assert_close(score.double(), exact(model, batch), rtol=1e-5, atol=0)


def test_a_row_of_the_last_layer_is_no_step():
    """An index of a parameter makes more of it than a view of numbers, in a later batch too."""

    def forward(m, x):
        h = m.rows(x).mean(1)
        logits = m.head(h)
        if x.shape[1] > 9:
            logits = logits + 0.1 * h @ m.head.weight[0, :, None]
        return logits

    model, longer = model_of(forward), torch.randn(6, 10, 4)
    scorer = GradNormScorer(model, params="last_layer")
    scorer.score_batch(X), scorer.score_batch(X + 1)
    with pytest.raises(ValueError, match="no single layer produced the logits"):
        scorer.score_batch(longer)
