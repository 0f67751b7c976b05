"""Recurrent layers and cells."""

import warnings

import pytest
import torch
from torch import nn

from tests.support.asserts import assert_exact
from tests.support.cases import Custom, linear, perturb
from tests.support.shared_models import tokens


class TestRecurrent:
    def check(self, layer, function, inputs, width):
        model = perturb(Custom(function, layer=layer, head=nn.Linear(width, 3)))
        assert_exact(model, inputs)

    @pytest.mark.slow
    @pytest.mark.parametrize("batch_first", [True, False])
    @pytest.mark.parametrize(
        "options",
        [
            pytest.param({}, id="plain"),
            pytest.param({"num_layers": 2, "bidirectional": True, "dropout": 0.3}, id="deep"),
            pytest.param({"bias": False}, id="no-bias"),
        ],
    )
    @pytest.mark.parametrize("kind", [nn.RNN, nn.GRU, nn.LSTM])
    def test_layers(self, kind, options, batch_first):
        def forward(m, x):
            out, _ = m.layer(x if batch_first else x.transpose(0, 1))
            return m.head(out.mean(1 if batch_first else 0))

        layer = kind(4, 5, batch_first=batch_first, **options)
        self.check(layer, forward, tokens(4, 3, 4), 10 if "num_layers" in options else 5)

    @pytest.mark.slow
    def test_relu(self):
        layer = nn.RNN(4, 5, nonlinearity="relu", batch_first=True)
        self.check(layer, lambda m, x: m.head(m.layer(x)[0].mean(1)), tokens(4, 3, 4), 5)

    @pytest.mark.slow
    @pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
    @pytest.mark.parametrize("bias", [True, False])
    def test_projection(self, bias):
        layer = nn.LSTM(4, 5, proj_size=3, batch_first=True, bias=bias)
        self.check(layer, lambda m, x: m.head(m.layer(x)[0].mean(1)), tokens(4, 3, 4), 3)

    @pytest.mark.slow
    @pytest.mark.parametrize("kind", [nn.GRU, nn.LSTM])
    def test_last_state_and_a_learned_first_one(self, kind):
        class Stateful(nn.Module):
            def __init__(self):
                super().__init__()
                self.layer, self.head = kind(4, 5, batch_first=True), nn.Linear(5, 3)
                self.first = nn.Parameter(torch.randn(1, 1, 5))

            def forward(self, x):
                first = self.first.expand(-1, len(x), -1).contiguous()
                if kind is nn.LSTM:
                    _, (last, _) = self.layer(x, (first, torch.tanh(first)))
                else:
                    _, last = self.layer(x, first)
                return self.head(last[-1])

        assert_exact(perturb(Stateful()), tokens(4, 3, 4))

    @pytest.mark.slow
    @pytest.mark.parametrize("kind", [nn.RNNCell, nn.GRUCell, nn.LSTMCell])
    def test_cells(self, kind):
        def forward(m, x):
            state = None
            for step in x.unbind(1):
                state = m.layer(step, state)
            return m.head(state[0] if isinstance(state, tuple) else state)

        self.check(kind(4, 5), forward, tokens(4, 3, 4), 5)

    @pytest.mark.slow
    def test_between_other_layers(self):
        def forward(m, ids):
            out, _ = m.layer(m.norm(m.embed(ids)))
            return m.head(torch.tanh(m.mix(out)).amax(1))

        model = Custom(
            forward, embed=nn.Embedding(6, 4), norm=nn.LayerNorm(4),
            layer=nn.LSTM(4, 5, batch_first=True), mix=nn.Linear(5, 4), head=nn.Linear(4, 3),
        )  # fmt: skip
        assert_exact(perturb(model), torch.randint(0, 6, (4, 3)))


@pytest.mark.slow
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_weights_are_not_laid_out_anew_while_scores_are_made(kind, monkeypatch):
    """On a GPU `flatten_parameters` reads addresses, and tensors under transforms have none."""
    model = Custom(
        lambda m, x: m.head(m.rnn(x)[0].mean(1)),
        rnn=kind(4, 5, batch_first=True),
        head=linear(5, 3),
    ).eval()

    def flatten_parameters(self):
        for weight in self._flat_weights:
            weight.data_ptr()

    monkeypatch.setattr(nn.RNNBase, "flatten_parameters", flatten_parameters)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_exact(model, torch.randn(3, 6, 4))
