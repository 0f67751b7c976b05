"""What models do while they run: caches, checkpoints, changes in place, graphs of their own."""

import contextlib

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from fastgradnorm import DoubtfulScoresWarning, score_pool
from tests.support import oracle
from tests.support.asserts import assert_close_relative, assert_exact
from tests.support.cases import Custom, linear, perturb
from tests.support.shared_models import Attention, tokens


class TestExecution:
    @pytest.mark.parametrize("reentrant", [False, True])
    def test_checkpointed_blocks(self, reentrant):
        def forward(m, x):
            x = checkpoint(lambda x: torch.tanh(m.first(x)), x, use_reentrant=reentrant)
            x = checkpoint(m.second, x, use_reentrant=reentrant)
            return m.head(torch.tanh(x))

        model = Custom(forward, first=linear(4, 4), second=linear(4, 4), head=linear(4, 3))
        plain = Custom(
            lambda m, x: m.head(torch.tanh(m.second(torch.tanh(m.first(x))))),
            first=model.first, second=model.second, head=model.head,
        )  # fmt: skip
        x = torch.randn(4, 4)
        expected = oracle.scores(plain, oracle.ones(x))
        told = pytest.warns(DoubtfulScoresWarning, match="use_reentrant=True, and none of")
        with told if reentrant else contextlib.nullcontext():  # the input needs no gradient
            scores = score_pool(model, [x], progress=False)
        assert_close_relative(scores, expected, 1e-5)

    @pytest.mark.slow
    def test_rotary_tables_kept_for_the_longest_input_so_far(self):
        class Rotary(nn.Module):
            def __init__(self):
                super().__init__()
                self.mix, self.head = linear(4, 4), linear(4, 3)
                self.frequency = nn.Parameter(torch.rand(2))
                self.table, self.kept = None, {}

            def rotation(self, length):
                if self.table is None or len(self.table) < length:
                    self.table = torch.arange(length)[:, None] * self.frequency
                self.kept.setdefault(length, self.table[:length].cos())
                return self.kept[length], self.table[:length].sin()

            def forward(self, x):
                a, b = self.mix(x).chunk(2, -1)
                cos, sin = self.rotation(x.shape[1])
                return self.head(
                    torch.cat([a * cos - b * sin, a * sin + b * cos], -1).tanh().mean(1)
                )

        model = Rotary()
        for length in (3, 5, 2):
            assert_exact(model, torch.randn(4, length, 4))
        assert model.table is None
        assert model.kept == {}
        model(torch.randn(1, 4, 4))  # a call of the caller's own, whose table has a graph
        kept = {length: id(table) for length, table in model.kept.items()}
        x = torch.randn(4, 3, 4)
        # The table's gradient is that of `frequency`: counted, or refused by name.
        try:
            scores = score_pool(model, [x], progress=False)
        except ValueError as error:
            assert "frequency" in str(error)
            assert {length: id(table) for length, table in model.kept.items()} == kept
        else:
            assert {length: id(table) for length, table in model.kept.items()} == kept
            model.table, model.kept = None, {}
            assert_close_relative(scores, oracle.scores(model, oracle.ones(x)), 1e-5)

    @pytest.mark.slow
    def test_attention_biases_kept_in_eval_mode(self):
        """As LeViT does: a table indexed once and kept on the module until it is trained again."""

        class Kept(nn.Module):
            def __init__(self):
                super().__init__()
                self.table, self.head = nn.Parameter(torch.randn(2, 5)), linear(4, 3)
                self.register_buffer("index", torch.randint(0, 5, (3, 3)), persistent=False)
                self.kept = {}

            def train(self, mode=True):
                super().train(mode)
                if mode:
                    self.kept = {}
                return self

            def bias(self):
                if self.training:
                    return self.table[:, self.index]
                if "cpu" not in self.kept:
                    self.kept["cpu"] = self.table[:, self.index]
                return self.kept["cpu"]

            def forward(self, x):
                q = x.unflatten(-1, (2, 2)).transpose(1, 2)
                x = F.scaled_dot_product_attention(q, q, q, self.bias())
                return self.head(x.transpose(1, 2).flatten(2).mean(1))

        model, x = Kept().eval(), torch.randn(4, 3, 4)
        assert_exact(model, x)
        assert model.kept == {}
        with torch.no_grad():
            model(x)  # keeps a table without a graph: the caller's own gradients would miss it
        kept = model.kept["cpu"]
        try:
            scores = score_pool(model, [x], progress=False)
        except ValueError as error:
            assert "table" in str(error)
        else:
            model.kept = {}
            expected = [
                oracle.scores(model, oracle.ones(x)),
                oracle.scores(model, oracle.ones(x), keep=lambda name: name != "table"),
            ]
            close = [torch.allclose(scores.double(), e, 1e-5, 0) for e in expected]
            assert any(close), "neither with a gradient for the table nor without one"
            model.kept = {"cpu": kept}
        assert model.kept == {"cpu": kept}

    @pytest.mark.slow
    def test_lengths_that_change_from_batch_to_batch(self):
        """Long enough for one way to compute a norm, then short enough for another, and back."""

        def forward(m, ids):
            x = m.norm(m.embed(ids)) + m.positions[: ids.shape[1]]
            return m.head(m.attention(x, x, x)[0].mean(1))

        class Texts(Custom):
            def __init__(self):
                super().__init__(
                    forward, embed=nn.Embedding(6, 4), norm=nn.LayerNorm(4),
                    attention=nn.MultiheadAttention(4, 2, batch_first=True), head=nn.Linear(4, 3),
                )  # fmt: skip
                self.positions = nn.Parameter(torch.randn(70, 4))

        model = perturb(Texts())
        pool = [torch.randint(0, 6, (2, length)) for length in (3, 64, 1, 7, 64, 3, 2)]
        actual = score_pool(model, pool, scheme=oracle.SCHEMES, progress=False)
        tables = [oracle.norms(model, oracle.ones(batch)) for batch in pool]
        for scheme in oracle.SCHEMES:
            expected = torch.cat([table.scores(scheme) for table in tables])
            assert_close_relative(actual[scheme], expected, 1e-5, scheme)

    def test_cancelling_gradients_of_a_convolution_and_a_norm(self):
        """Two halves of an image whose gradients differ in the last digits only."""

        def forward(m, x):
            y = m.norm(m.conv(torch.cat([x, x + 2**-8], -1)))
            left, right = y.chunk(2, -1)
            return m.head((left - right).flatten(1) + 0.1 * x.mean((1, 2, 3))[:, None])

        model = perturb(
            Custom(forward, conv=nn.Conv2d(8, 8, 1), norm=nn.BatchNorm2d(8), head=nn.Linear(32, 3))
        ).double()
        x = (64 * torch.randn(4, 8, 2, 2)).round().double() / 64
        table = oracle.norms(model, oracle.ones(x))
        for name in ("conv.weight", "norm.weight"):
            actual = score_pool(
                model, [x], params=lambda n, p, name=name: n == name, verify=False, progress=False
            )
            expected = table.scores("expected", keep=lambda n, name=name: n == name)
            assert_close_relative(actual, expected, 1e-8, name)

    @pytest.mark.slow
    @pytest.mark.parametrize("mode", ["branch", "residual", "buffer", "copy"])
    def test_in_place_changes(self, mode):
        def forward(m, x):
            y = m.body(x)
            if mode == "branch":
                y[:, 0].mul_(2.0)
            elif mode == "residual":
                y += x
            elif mode == "buffer":
                z = torch.zeros_like(x)
                z[:, 1:] = y[:, :-1]
                y = z
            else:
                z = torch.empty(len(x), 4, dtype=x.dtype)
                z.copy_(y)
                y = z
            return m.head(F.silu(y, inplace=True))

        assert_exact(Custom(forward, body=linear(4, 4), head=linear(4, 3)), torch.randn(4, 4))

    @pytest.mark.slow
    @pytest.mark.parametrize("fill", ["setitem", "index_put", "scatter", "index_fill", "masked"])
    def test_tables_filled_at_places_that_depend_on_the_sample(self, fill):
        """A constant that the model makes, written to in place where the sample says."""

        def forward(m, x):
            place, rows = x.argmax(1), torch.arange(len(x))
            table = torch.zeros(len(x), 4)
            if fill == "setitem":
                table[rows, place] = 1.0
            elif fill == "index_put":
                table.index_put_((rows, place), torch.ones(()))
            elif fill == "scatter":
                table.scatter_(1, place[:, None], 1.0)
            elif fill == "index_fill":
                for row, at in zip(table.split(1), place.split(1), strict=True):
                    row.index_fill_(1, at, 1.0)
            else:
                table[x > 0] = 1.0
            return m.head(torch.tanh(m.body(x)) * (0.5 + table))

        assert_exact(Custom(forward, body=linear(4, 4), head=linear(4, 3)), torch.randn(4, 4))

    @pytest.mark.slow
    def test_complex_numbers(self):
        def forward(m, x):
            spectrum = torch.fft.rfft(m.body(x), dim=-1)
            return m.head(torch.fft.irfft(spectrum * torch.view_as_complex(m.filter), n=4, dim=-1))

        model = Custom(forward, body=linear(4, 4), head=linear(4, 3))
        model.filter = nn.Parameter(torch.randn(3, 2))
        assert_exact(model, torch.randn(4, 4))

    @pytest.mark.slow
    def test_autograd_functions_of_the_models_own(self):
        """With and without a vmap rule; those without one take the slow path, and say so."""

        class Square(torch.autograd.Function):
            generate_vmap_rule = True

            @staticmethod
            def forward(x):
                return x * x

            @staticmethod
            def setup_context(ctx, inputs, output):
                ctx.save_for_backward(*inputs)

            @staticmethod
            def backward(ctx, g):
                return 2 * g * ctx.saved_tensors[0]

        model = Custom(
            lambda m, x: m.head(Square.apply(m.body(x))), body=linear(4, 4), head=linear(4, 3)
        )
        assert_exact(model, torch.randn(4, 4))

    @pytest.mark.slow
    def test_no_samples_one_sample_and_one_position(self):
        model = perturb(Attention(batch_first=True))
        assert len(score_pool(model, [tokens(0), tokens(1)], progress=False)) == 1
        assert_exact(model, tokens(1))
        assert_exact(model, tokens(4, length=1))
