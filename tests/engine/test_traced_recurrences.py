"""Recurrent layers in traced passes: one operator each, whatever their number of steps."""

import pytest
import torch
from torch import nn

from fastgradnorm._engine import traces
from tests.support.tracing import as_they_are, eager, replayed, scores  # noqa: F401

X = torch.randn(9, 40, 3, generator=torch.Generator().manual_seed(0))
KINDS = {
    "lstm": lambda: nn.LSTM(3, 5, batch_first=True),
    "gru": lambda: nn.GRU(3, 5, 2, batch_first=True, bidirectional=True),
    "rnn": lambda: nn.RNN(3, 5, batch_first=True, bias=False),
    "relu": lambda: nn.RNN(3, 5, batch_first=True, nonlinearity="relu"),
    "projected": lambda: nn.LSTM(3, 6, batch_first=True, proj_size=2, bidirectional=True),
}


class Recurrent(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.rnn = KINDS[kind]()
        self.head = nn.LazyLinear(3)
        self(X[:1])

    def forward(self, x):
        out, state = self.rnn(x)
        cell = state[1].mean(0).mean(1, keepdim=True) if isinstance(state, tuple) else 0
        return self.head(out.mean(1) + cell)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("options", [{"scheme": "entropy"}, {"params": "last_layer"}], ids=str)
def test_replays_give_the_same_bits_in_few_operators(monkeypatch, kind, options):
    sizes = []

    class Traced(traces.Traced):
        def __init__(self, *args):
            super().__init__(*args)
            sizes.append(len(self))

    monkeypatch.setattr(traces, "Traced", Traced)
    model, batches = Recurrent(kind).eval(), X.split(3)
    options = {**options, "verify": True}
    expected = as_they_are(monkeypatch, model, batches, **options)
    assert torch.equal(scores(model, batches, **options), expected)
    assert replayed() >= 1
    limit = 100 + 110 * model.rnn.num_layers * (1 + model.rnn.bidirectional)
    assert sizes and max(sizes) < limit  # where each step is some, they are thousands
