"""Recurrent layers that are given packed sequences: the padding of a batch has no part in them."""

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import (
    pack_padded_sequence,
    pack_sequence,
    pad_packed_sequence,
    pad_sequence,
)

from fastgradnorm import SlowPathWarning, score_pool
from tests.support import oracle
from tests.support.asserts import assert_close_relative
from tests.support.cases import Custom, linear, perturb

LENGTHS = torch.tensor([5, 2, 4, 1, 3, 5])
X = torch.randn(6, 5, 4, generator=torch.Generator().manual_seed(0))


def packed(m, x, lengths):
    return pack_padded_sequence(x, lengths.cpu(), batch_first=True, enforce_sorted=False)


def last_state(m, x, lengths):
    _, state = m.body(packed(m, x, lengths))
    state = state[0] if isinstance(state, tuple) else state
    return m.head(state[-1])


def mean_of_steps(m, x, lengths):
    out, _ = pad_packed_sequence(m.body(packed(m, x, lengths))[0], batch_first=True, total_length=5)
    return m.head(out.sum(1) / lengths[:, None])


def as_they_end(m, x, lengths):
    """In the order that packing puts them, by hand."""
    lengths, order = lengths.sort(descending=True)
    steps = pack_padded_sequence(x[order].transpose(0, 1), lengths.cpu().tolist())
    out, sizes = pad_packed_sequence(m.body(steps)[0], padding_value=-1.0, total_length=5)
    last = out[sizes - 1, torch.arange(len(x))] + out.mean(0)
    return m.head(last[order.argsort()])


def by_hand(m, x, lengths):
    """Each cut, and packed or padded again."""
    cut = [row[: int(length)] for row, length in zip(x, lengths, strict=True)]
    _, state = m.body(pack_sequence(cut, enforce_sorted=False))
    padded = pad_sequence([row.tanh() for row in cut], batch_first=True, padding_value=0.0)
    return m.head(state[-1] + padded.sum((1, 2))[:, None])


def from_the_padding(m, x, lengths):
    return last_state(m, x, (torch.arange(5) < lengths[:, None]).sum(1))


MODELS = {
    "LSTM": (last_state, lambda: nn.LSTM(4, 5, batch_first=True)),
    "LSTM of two layers": (last_state, lambda: nn.LSTM(4, 5, 2, batch_first=True)),
    "GRU": (last_state, lambda: nn.GRU(4, 5, batch_first=True)),
    "RNN": (last_state, lambda: nn.RNN(4, 5, nonlinearity="relu", batch_first=True)),
    "both directions": (mean_of_steps, lambda: nn.LSTM(4, 5, bidirectional=True, batch_first=True)),
    "steps": (mean_of_steps, lambda: nn.GRU(4, 5, batch_first=True)),
    "cut by hand": (by_hand, lambda: nn.GRU(4, 5, batch_first=True)),
    "sorted by hand": (as_they_end, lambda: nn.LSTM(4, 5, batch_first=True)),
    "no biases": (last_state, lambda: nn.GRU(4, 5, bias=False, batch_first=True)),
    "lengths from the padding": (from_the_padding, lambda: nn.GRU(4, 5, batch_first=True)),
}


@pytest.mark.slow
@pytest.mark.parametrize("verify", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_are_scored_by_their_steps_alone(name, verify):
    torch.manual_seed(0)
    forward, make = MODELS[name]
    body = make()
    width = 10 if body.bidirectional else 5
    model = perturb(Custom(lambda m, given: forward(m, *given), body=body, head=linear(width, 3)))
    samples = list(zip(X.split(1), LENGTHS.split(1), strict=True))
    exact = oracle.scores(model, samples)
    found = score_pool(
        model, [(X, LENGTHS)], forward=lambda m, batch: m(batch), verify=verify, progress=False
    )
    assert_close_relative(found, exact, 1e-5)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:There is a performance drop")  # PyTorch's own, before that
def test_sequences_of_several_lengths_in_a_sample_are_slow():
    torch.manual_seed(0)

    def forward(m, given):
        x, lengths = given  # [N, 2, 5, 4] and [N, 2]
        state = m.body(packed(m, x.flatten(0, 1), lengths.flatten()))[1]
        return m.head(state[-1].unflatten(0, (-1, 2)).flatten(1))

    model = perturb(Custom(forward, body=nn.GRU(4, 5, batch_first=True), head=linear(10, 3)))
    x, lengths = torch.randn(4, 2, 5, 4), torch.tensor([[5, 2], [4, 1], [3, 5], [2, 2]])
    exact = oracle.scores(model, list(zip(x.split(1), lengths.split(1), strict=True)))
    with pytest.warns(SlowPathWarning, match="cannot run under vmap"):
        found = score_pool(model, [(x, lengths)], forward=lambda m, batch: m(batch), progress=False)
    assert_close_relative(found, exact, 1e-5)
