"""Attention: packed projections, masks, fast paths, tables of relative positions."""

import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fastgradnorm import score_pool
from tests.support import oracle
from tests.support.asserts import assert_close_relative, assert_exact
from tests.support.cases import Custom, linear, perturb
from tests.support.shared_models import CALLS, Attention, calling, tokens


class TestAttention:
    @pytest.mark.slow
    @pytest.mark.parametrize("batch_first", [True, False])
    @pytest.mark.parametrize("weights", [True, False])
    @pytest.mark.parametrize(
        "options",
        [
            pytest.param({}, id="packed"),
            pytest.param({"bias": False}, id="no-bias"),
            pytest.param({"kdim": 6, "vdim": 4, "cross": True}, id="separate"),
            pytest.param({"add_bias_kv": True}, id="bias-kv"),
            pytest.param({"add_zero_attn": True}, id="zero-attention"),
            pytest.param({"masked": True}, id="padded"),
            pytest.param({"causal": True}, id="causal"),
            pytest.param({"masked": True, "causal": True, "dropout": 0.5}, id="padded-causal"),
        ],
    )
    def test_multi_head(self, options, weights, batch_first):
        model = perturb(Attention(weights=weights, batch_first=batch_first, **options))
        assert_exact(model, tokens(padded=options.get("masked", False)))

    @pytest.mark.slow
    @pytest.mark.parametrize("samples", [5, 2])
    def test_as_many_positions_as_samples_or_heads(self, samples):
        model = perturb(Attention(batch_first=False))
        assert_exact(model, tokens(samples, length=samples))

    @pytest.mark.slow
    @pytest.mark.parametrize("train", [True, False])
    @pytest.mark.parametrize("masked", [True, False])
    @pytest.mark.parametrize("batch_first", [True, False])
    @pytest.mark.parametrize("norm_first", [True, False])
    def test_encoder_and_its_fast_path(self, norm_first, batch_first, masked, train):
        """In eval mode and without gradients PyTorch takes a fused path that skips modules."""

        def forward(m, x):
            padding = (x == 0).all(-1) if masked else None
            x = m.encoder(x if batch_first else x.transpose(0, 1), src_key_padding_mask=padding)
            return m.head(x.mean(1 if batch_first else 0))

        layer = nn.TransformerEncoderLayer(
            8, 2, 12, dropout=0.1, batch_first=batch_first, norm_first=norm_first
        )
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "enable_nested_tensor is True")
            encoder = nn.TransformerEncoder(layer, 2)
        model = perturb(Custom(forward, encoder=encoder, head=nn.Linear(8, 3))).train(train)
        x = tokens(padded=masked)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The PyTorch API of nested tensors")
            assert_exact(model, x)
            with torch.no_grad():
                scores = score_pool(model, [x], progress=False)
                last = score_pool(model, [x], progress=False, params="last_layer")
        model.eval()
        assert_close_relative(scores, oracle.scores(model, oracle.ones(x)), 1e-5)
        expected = oracle.scores(model, oracle.ones(x), keep=lambda name: "head" in name)
        assert_close_relative(last, expected, 1e-5)

    @pytest.mark.slow
    def test_encoder_with_a_causal_mask(self):
        mask = nn.Transformer.generate_square_subsequent_mask(5)

        def forward(m, x):
            return m.head(m.layer(x, src_mask=mask, is_causal=True).mean(1))

        layer = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True)
        assert_exact(perturb(Custom(forward, layer=layer, head=nn.Linear(8, 3))), tokens())

    @pytest.mark.slow
    def test_encoder_and_decoder(self):
        def forward(m, x):
            return m.head(m.body(x, x[:, :3]).mean(1))

        body = nn.Transformer(8, 2, 1, 1, 12, batch_first=True)
        assert_exact(perturb(Custom(forward, body=body, head=nn.Linear(8, 3))), tokens())

    @pytest.mark.slow
    @pytest.mark.parametrize("samples", [2, 4, 5])
    @pytest.mark.parametrize("lookup", ["index", "embedding", "gather"])
    def test_relative_position_tables(self, lookup, samples):
        class Relative(nn.Module):
            def __init__(self):
                super().__init__()
                self.qkv, self.head = linear(8, 24), linear(8, 3)
                self.table = nn.Parameter(torch.randn(9, 2))
                self.embed = nn.Embedding(9, 2)
                offsets = torch.arange(5)[:, None] - torch.arange(5) + 4
                self.register_buffer("offsets", offsets)

            def forward(self, x):
                q, k, v = self.qkv(x).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4)
                if lookup == "embedding":
                    bias = self.embed(self.offsets).permute(2, 0, 1)[None]
                elif lookup == "index":
                    bias = self.table[self.offsets.view(-1)].view(5, 5, 2).permute(2, 0, 1)[None]
                else:
                    flat = self.offsets.view(-1, 1).expand(-1, 2)
                    bias = self.table.gather(0, flat).view(5, 5, 2).permute(2, 0, 1)[None]
                x = F.scaled_dot_product_attention(q, k, v, bias)
                return self.head(x.transpose(1, 2).flatten(2).mean(1))

        assert_exact(Relative(), tokens(samples))

    @pytest.mark.slow
    @pytest.mark.parametrize("kind", CALLS)
    def test_scaled_dot_product(self, kind):
        assert_exact(calling(kind), tokens(padded=True))

    @pytest.mark.slow
    def test_windows(self):
        """Positions folded into the batch, shifted and put back."""

        def forward(m, x):
            x = x.roll(-1, 1).unflatten(1, (3, 2)).flatten(0, 1)  # [N * windows, 2, 8]
            q, k, v = m.qkv(x).chunk(3, -1)
            x = (q @ k.mT).softmax(-1) @ v
            x = m.norm(x).unflatten(0, (-1, 3)).flatten(1, 2).roll(1, 1)
            return m.head(torch.tanh(x).mean(1))

        model = Custom(forward, qkv=linear(8, 24), norm=perturb(nn.LayerNorm(8)), head=linear(8, 3))
        for samples in (2, 3, 6):
            assert_exact(model, tokens(samples, length=6))
