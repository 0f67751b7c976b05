"""Embeddings and bags: padding, repeated words, tables of positions."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fastgradnorm import UnsupportedModelError, score_pool
from tests.support import oracle
from tests.support.asserts import assert_close_relative, assert_exact
from tests.support.cases import Custom, linear


class TestEmbeddings:
    @staticmethod
    def model(**options):
        return Custom(
            lambda m, ids: m.head(torch.tanh(m.embed(ids)).mean(1)),
            embed=nn.Embedding(6, 4, **options), head=linear(4, 3),
        )  # fmt: skip

    @pytest.mark.parametrize("padding", [0, 5, -1, -6])
    def test_padding_does_not_count_and_repeated_words_add_up(self, padding):
        ids = torch.tensor([[0, 5, 1, 1], [5, 5, 0, 0], [2, 2, 2, 2], [5, 5, 5, 5]])
        model = self.model(padding_idx=padding)
        nn.init.normal_(model.embed.weight)  # a padding row that would show
        table = assert_exact(model, ids)
        assert (table.label_norms[..., 0] == 0).all(1).tolist() == [
            False,
            False,
            False,
            padding in (5, -1),
        ]

    @pytest.mark.parametrize("padding", [-1, -2, 3])
    def test_padding_counted_from_the_end_by_the_function(self, padding):
        """Which `nn.Embedding` turns around before it is called."""

        def forward(m, ids):
            return m.head(torch.tanh(F.embedding(ids, m.words, padding_idx=padding)).mean(1))

        model = Custom(forward, head=linear(4, 3))
        model.words = nn.Parameter(torch.randn(6, 4))
        assert_exact(model, torch.tensor([[5, 4, 3, 3], [5, 5, 5, 5], [0, 4, 1, 2]]))

    @pytest.mark.slow
    @pytest.mark.parametrize("padding", [None, 0, 2])
    def test_tied_to_the_head(self, padding):
        """Cross terms of the padding row are none of the lookup's, and all of the head's."""

        def forward(m, ids):
            return F.linear(torch.tanh(m.mix(m.embed(ids))).mean(1), m.embed.weight)

        model = Custom(forward, embed=nn.Embedding(6, 4, padding_idx=padding), mix=linear(4, 4))
        nn.init.normal_(model.embed.weight)
        assert_exact(model, torch.tensor([[0, 0, 2, 1], [2, 2, 2, 2], [0, 0, 0, 0], [1, 5, 3, 4]]))

    def test_sparse_gradients(self):
        ids = torch.randint(0, 6, (4, 5))
        sparse, dense = self.model(sparse=True), self.model()
        dense.load_state_dict(sparse.state_dict())
        expected = oracle.scores(dense, oracle.ones(ids))
        assert_close_relative(score_pool(sparse, [ids], progress=False), expected, 1e-5)

    @pytest.mark.parametrize(
        "name, options",
        [("max_norm", {"max_norm": 1.0}), ("scale_grad_by_freq", {"scale_grad_by_freq": True})],
    )
    @pytest.mark.parametrize("params", ["all", "last_layer"])
    def test_what_is_no_function_of_one_sample_is_right_or_refused_by_name(
        self, name, options, params
    ):
        model, ids = self.model(**options), torch.randint(0, 6, (4, 5))
        weight = model.embed.weight.clone()
        try:
            actual = score_pool(model, [ids], params=params, progress=False)
        except UnsupportedModelError as error:
            assert name in str(error)
            assert "embed" in str(error)
        else:
            keep = (lambda n: n.startswith("head")) if params == "last_layer" else (lambda n: True)
            expected = oracle.scores(model, oracle.ones(ids), keep=keep)
            assert_close_relative(actual, expected, 1e-5)
        assert torch.equal(model.embed.weight, weight)

    @pytest.mark.parametrize("mode", ["sum", "mean", "max"])
    @pytest.mark.parametrize("padding", [None, 0, -1])
    def test_bags(self, mode, padding):
        model = Custom(
            lambda m, ids: m.head(torch.tanh(m.embed(ids))),
            embed=nn.EmbeddingBag(6, 4, mode=mode, padding_idx=padding), head=linear(4, 3),
        )  # fmt: skip
        nn.init.normal_(model.embed.weight)
        assert_exact(model, torch.randint(0, 6, (5, 4)))

    @pytest.mark.parametrize("mode", ["sum", "mean", "max"])
    def test_bags_by_the_function_with_padding_from_the_end(self, mode):
        def forward(m, ids):
            return m.head(F.embedding_bag(ids, m.words, mode=mode, padding_idx=-2).tanh())

        model = Custom(forward, head=linear(4, 3))
        model.words = nn.Parameter(torch.randn(6, 4))
        assert_exact(model, torch.tensor([[4, 4, 1, 2], [5, 4, 4, 4], [0, 1, 2, 3]]))

    @pytest.mark.slow
    def test_bags_with_weights(self):
        model = Custom(
            lambda m, ids: m.head(m.embed(ids, None, (0.5 + ids / 6).to(m.head.weight)).tanh()),
            embed=nn.EmbeddingBag(6, 4, mode="sum"), head=linear(4, 3),
        )  # fmt: skip
        assert_exact(model, torch.randint(0, 6, (5, 4)))

    @pytest.mark.slow
    @pytest.mark.parametrize("samples", [1, 4, 5])
    @pytest.mark.parametrize("lookup", ["arange", "buffer", "slice", "expanded", "cumulated"])
    def test_positions_looked_up_without_a_batch_dimension(self, lookup, samples):
        """Also where there are as many positions as samples."""

        class Positions(nn.Module):
            def __init__(self):
                super().__init__()
                self.words, self.positions = nn.Embedding(6, 4), nn.Embedding(7, 4)
                self.mix, self.head = linear(4, 4), linear(4, 3)
                self.register_buffer("ids", torch.arange(7)[None], persistent=False)

            def forward(self, ids):
                n, t = ids.shape
                position = {
                    "arange": lambda: self.positions(torch.arange(t)),
                    "buffer": lambda: self.positions(self.ids[:, :t]),
                    "slice": lambda: self.positions.weight[:t],
                    "expanded": lambda: self.positions(torch.arange(t).expand(n, t)),
                    "cumulated": lambda: self.positions(((ids > 0).cumsum(1) * (ids > 0)).long()),
                }[lookup]()
                return self.head(torch.tanh(self.mix(self.words(ids) + position)).mean(1))

        assert_exact(Positions(), torch.randint(0, 6, (samples, 4)))

    @pytest.mark.slow
    def test_types_with_one_row(self):
        """The same row of a table for all positions, broadcast over them."""
        model = Custom(
            lambda m, ids: m.head(
                torch.tanh(m.embed(ids) + m.types(torch.zeros(1, 1).long()))[:, 0]
            ),
            embed=nn.Embedding(6, 4), types=nn.Embedding(2, 4), head=linear(4, 3),
        )  # fmt: skip
        assert_exact(model, torch.randint(0, 6, (4, 5)))
