"""Layers and uses of parameters that engines before this one got wrong, one by one."""

import copy
import subprocess
import sys
import warnings

import oracle
import pytest
import torch
import torch.nn.functional as F
from asserts import assert_close_relative, assert_exact
from cases import Custom, linear, perturb
from torch import nn
from torch.nn.utils import parametrize
from torch.utils.checkpoint import checkpoint

from fastgradnorm import UnsupportedModelError, score_pool


def after(layer, outputs, function=None, before=None):
    """`layer` between a first layer and a head over the mean of its positions.

    Args:
        outputs: Features of `layer`, in dimension 1 of what it returns.
        function: From the layer and its input to its output; by default a plain call.
        before: The first layer.
    """
    call = function or (lambda layer, x: layer(x))

    def forward(m, x):
        y = call(m.layer, x if m.before is None else torch.tanh(m.before(x)))
        return m.head(torch.tanh(y.flatten(2).mean(2) if y.dim() > 2 else y))

    head = nn.Linear(outputs, 3)
    return perturb(Custom(forward, before=before, layer=layer, head=head))


class TestConvolutions:
    @pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
    @pytest.mark.parametrize("dims", [1, 2, 3])
    def test_padding_modes(self, dims, mode):
        kind = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1]
        layer = kind(4, 6, 3, padding=2, stride=2, groups=2, padding_mode=mode)
        assert_exact(after(layer, 6), torch.randn(4, 4, *(6, 5, 4)[:dims]))

    @pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
    @pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
    @pytest.mark.parametrize("kernel, dilation", [(2, 1), (4, 1), (2, 3), (3, 2), (4, 2)])
    def test_same_padding(self, kernel, dilation, mode):
        layer = nn.Conv2d(
            2, 4, (kernel, 3), padding="same", dilation=(dilation, 1), padding_mode=mode
        )
        assert_exact(after(layer, 4), torch.randn(4, 2, 7, 5))

    @pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
    @pytest.mark.parametrize("dims", [1, 3])
    def test_same_padding_of_even_kernels_in_other_dimensions(self, dims):
        kind = {1: nn.Conv1d, 3: nn.Conv3d}[dims]
        layer = kind(2, 4, 2, padding="same", dilation=3, groups=2)
        assert_exact(after(layer, 4), torch.randn(4, 2, *(6, 5, 4)[:dims]))

    @pytest.mark.parametrize("dims", [1, 2, 3])
    @pytest.mark.parametrize(
        "options",
        [
            pytest.param({}, id="plain"),
            pytest.param({"stride": 2, "output_padding": 1}, id="output-padding"),
            pytest.param({"groups": 2, "padding": 1}, id="grouped"),
            pytest.param(
                {"groups": 2, "stride": 3, "padding": 2, "output_padding": 2, "dilation": 2},
                id="everything",
            ),
            pytest.param({"groups": 2, "stride": 2, "bias": False}, id="no-bias"),
            pytest.param({"output_padding": 2, "dilation": 3}, id="output-padding-over-a-stride"),
            pytest.param(
                {"output_padding": 2, "padding": 2, "dilation": 3, "stride": 2},
                id="output-padding-of-a-stride",
            ),
        ],
    )
    def test_transposed(self, dims, options):
        kind = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)[dims - 1]
        assert_exact(after(kind(4, 6, 3, **options), 6), torch.randn(4, 4, *(4, 3, 3)[:dims]))

    def test_transposed_with_an_output_size(self):
        layer = nn.ConvTranspose2d(2, 4, 3, stride=2)
        model = after(layer, 4, lambda layer, x: layer(x, output_size=[8, 10]))
        assert_exact(model, torch.randn(4, 2, 3, 4))

    @pytest.mark.parametrize("multiplier", [1, 2])
    def test_depthwise(self, multiplier):
        layer = nn.Conv2d(4, 4 * multiplier, 3, padding=1, groups=4)
        assert_exact(after(layer, 4 * multiplier), torch.randn(4, 4, 5, 5))

    def test_without_a_batch_dimension(self):
        """A model that takes images apart and runs its convolution on each."""
        layer = nn.Conv2d(2, 4, 3)
        model = after(layer, 4, lambda layer, x: torch.stack([layer(image) for image in x]))
        assert_exact(model, torch.randn(4, 2, 5, 5))

    def test_frames_folded_into_the_batch(self):
        def forward(m, x):
            frames = torch.tanh(m.conv(x.flatten(0, 1))).mean((2, 3))
            return m.head(frames.unflatten(0, (len(x), -1)).amax(1))

        model = Custom(forward, conv=nn.Conv2d(2, 4, 3, groups=2), head=linear(4, 3))
        assert_exact(model, torch.randn(4, 3, 2, 5, 5))

    def test_inputs_in_channels_last_order(self):
        model = after(nn.Conv2d(2, 4, 3), 4)
        x = torch.randn(4, 2, 6, 5)
        assert_exact(model.to(memory_format=torch.channels_last), x)
        assert_exact(model, x.to(memory_format=torch.channels_last))

    def test_convolution_with_a_weight_made_by_the_model(self):
        """Weight standardisation, as in big-transfer networks."""

        def forward(m, x):
            w = m.conv.weight
            w = (w - w.mean((1, 2, 3), keepdim=True)) / w.std((1, 2, 3), keepdim=True)
            return m.head(F.conv2d(x, w, m.conv.bias, padding=1).tanh().mean((2, 3)))

        model = Custom(forward, conv=nn.Conv2d(2, 4, 3), head=linear(4, 3))
        assert_exact(model, torch.randn(4, 2, 5, 5))

    @pytest.mark.parametrize("layer", [nn.Fold((4, 4), 2, stride=2), nn.PixelShuffle(2)])
    def test_between_rearrangements(self, layer):
        def forward(m, x):
            y = m.conv(x)
            y = layer(y.flatten(2)) if isinstance(layer, nn.Fold) else layer(y)
            return m.head(F.unfold(torch.tanh(m.last(y)), 2).mean(2))

        model = Custom(
            forward, conv=nn.Conv2d(2, 8, 1), last=nn.Conv2d(2, 3, 2), head=linear(12, 3)
        )
        assert_exact(model, torch.randn(4, 2, 2, 2))

    @pytest.mark.parametrize("size", [1, 2, (1, None)])
    @pytest.mark.parametrize("pool", ["adaptive_avg_pool2d", "adaptive_max_pool2d"])
    def test_before_adaptive_pooling(self, pool, size):
        def forward(m, x):
            return m.head(getattr(F, pool)(torch.tanh(m.conv(x)), size).flatten(2).sum(2))

        model = Custom(forward, conv=nn.Conv2d(2, 4, 2), head=linear(4, 3))
        assert_exact(model, torch.randn(4, 2, 5, 4))

    def test_adaptive_pooling_of_transposed_activations(self):
        """Tokens to channels, as Swin pools: the layout of the input is not the usual one."""
        model = Custom(
            lambda m, x: m.head(m.pool(m.mix(x).tanh().transpose(1, 2)).flatten(1)),
            mix=linear(4, 6), pool=nn.AdaptiveAvgPool1d(1), head=linear(6, 3),
        )  # fmt: skip
        assert_exact(model, torch.randn(4, 5, 4))


class Scaled(nn.LayerNorm):
    def forward(self, x):
        return 2.0 * super().forward(x) + 1.0


class ChannelsFirst(nn.LayerNorm):
    def forward(self, x):
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


class Flattened(nn.BatchNorm2d):
    def forward(self, x):
        return super().forward(x.flatten(2)[..., None]).reshape(x.shape)


class OwnGroups(nn.GroupNorm):
    def __init__(self):
        super().__init__(2, 4)


class OwnInstances(nn.InstanceNorm2d):
    def forward(self, x):
        return F.instance_norm(x, None, None, self.weight, self.bias, True, 0.1, 1e-3)


class OwnRMSNorm(nn.Module):
    """Written out by hand, as language models do."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4))

    def forward(self, x):
        x = x.movedim(1, -1)
        scale = torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)
        return (self.weight * (x * scale)).movedim(-1, 1)


class TestNorms:
    @pytest.mark.parametrize(
        "norm, shape",
        [
            pytest.param(lambda: nn.BatchNorm1d(4), (4,), id="batch-1d"),
            pytest.param(lambda: nn.BatchNorm2d(4), (4, 3, 2), id="batch-2d"),
            pytest.param(lambda: nn.BatchNorm3d(4), (4, 3, 2, 2), id="batch-3d"),
            pytest.param(lambda: nn.SyncBatchNorm(4), (4, 3, 2), id="batch-sync"),
            pytest.param(lambda: nn.BatchNorm2d(4, affine=False), (4, 3, 2), id="batch-not-affine"),
            pytest.param(lambda: nn.InstanceNorm2d(4, affine=True), (4, 3, 2), id="instance-2d"),
            pytest.param(lambda: nn.InstanceNorm3d(4, affine=True), (4, 3, 2, 2), id="instance-3d"),
            pytest.param(lambda: nn.GroupNorm(4, 4), (4, 3, 2), id="group"),
            pytest.param(lambda: nn.GroupNorm(2, 4, affine=False), (4, 3), id="group-not-affine"),
            pytest.param(lambda: nn.LayerNorm([4, 3, 2]), (4, 3, 2), id="layer-3d"),
            pytest.param(lambda: nn.LayerNorm([3, 2], bias=False), (4, 3, 2), id="layer-no-bias"),
            pytest.param(lambda: nn.RMSNorm([3, 2]), (4, 3, 2), id="rms"),
            pytest.param(lambda: Scaled([3, 2]), (4, 3, 2), id="subclass-of-layer"),
            pytest.param(lambda: ChannelsFirst(4), (4, 3, 2), id="channels-first-layer"),
            pytest.param(lambda: Flattened(4), (4, 3, 2), id="subclass-of-batch"),
            pytest.param(OwnGroups, (4, 3, 2), id="subclass-of-group"),
            pytest.param(lambda: OwnInstances(4, affine=True), (4, 3, 2), id="own-instance"),
            pytest.param(OwnRMSNorm, (4, 3, 2), id="rms-by-hand"),
            pytest.param(
                lambda: nn.Sequential(nn.Conv2d(4, 4, 1), nn.LocalResponseNorm(2)),
                (4, 3, 2),
                id="local-response",
            ),
        ],
    )  # fmt: skip
    def test_between_layers(self, norm, shape):
        before = None
        if len(shape) > 1:
            before = (None, nn.Conv1d, nn.Conv2d, nn.Conv3d)[len(shape) - 1](4, 4, 1)
        assert_exact(after(norm(), 4, before=before), torch.randn(4, *shape))

    @pytest.mark.parametrize("norm", [nn.GroupNorm(2, 4), nn.BatchNorm2d(4), nn.InstanceNorm2d(4)])
    def test_over_activations_with_channels_last_in_memory(self, norm):
        """PyTorch 2.13 crashes in GroupNorm's backward pass if its input needs no gradient, too."""
        model = Custom(
            lambda m, x: m.head(torch.tanh(m.norm(m.mix(x).movedim(-1, 1))).mean((2, 3))),
            mix=linear(4, 4), norm=norm, head=linear(4, 3),
        ).eval()  # fmt: skip
        x = torch.randn(4, 3, 2, 4)
        table = assert_exact(model, x)
        for skipped in ("mix", "norm"):
            scores = score_pool(
                model, [x], params=lambda n, p, s=skipped: not n.startswith(s), progress=False
            )
            expected = table.scores("expected", keep=lambda n, s=skipped: not n.startswith(s))
            assert_close_relative(scores, expected, 1e-5, f"without {skipped}")

    def test_group_norm_over_frozen_activations_with_channels_last(self):
        """PyTorch 2.13 ends the process in the plain backward pass of such a model."""
        code = """
import torch
from torch import nn
from fastgradnorm import naive_score_pool, score_pool
torch.manual_seed(0)
conv, norm, head = nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8), nn.Linear(8, 3)
tail = [norm, nn.Tanh(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), head]
model = nn.Sequential(conv.requires_grad_(False), *tail).double()
x = torch.randn(4, 3, 9, 9).double()
expected = naive_score_pool(model, [x])
model, x = (t.to(memory_format=torch.channels_last) for t in (model, x))
for score in (naive_score_pool, score_pool):
    torch.testing.assert_close(score(model, [x]), expected, rtol=1e-9, atol=0)
"""
        found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert found.returncode == 0, found.stderr

    def test_over_one_position_more_than_samples(self):
        """Sizes that a wrong dimension would fit as well."""
        for n in (3, 4):
            model = after(nn.GroupNorm(3, 3), 3, before=nn.Conv2d(3, 3, 1))
            assert_exact(model, torch.randn(n, 3, 3, 3))

    def test_batch_norm_in_train_mode_scored_in_eval_mode(self):
        model = after(nn.BatchNorm2d(4), 4, before=nn.Conv2d(2, 4, 1)).train()
        assert_exact(model, torch.randn(4, 2, 3, 3))
        assert model.layer.training
        assert model.layer.num_batches_tracked == 0


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

    def test_bags_with_weights(self):
        model = Custom(
            lambda m, ids: m.head(m.embed(ids, None, (0.5 + ids / 6).to(m.head.weight)).tanh()),
            embed=nn.EmbeddingBag(6, 4, mode="sum"), head=linear(4, 3),
        )  # fmt: skip
        assert_exact(model, torch.randint(0, 6, (5, 4)))

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

    def test_types_with_one_row(self):
        """The same row of a table for all positions, broadcast over them."""
        model = Custom(
            lambda m, ids: m.head(
                torch.tanh(m.embed(ids) + m.types(torch.zeros(1, 1).long()))[:, 0]
            ),
            embed=nn.Embedding(6, 4), types=nn.Embedding(2, 4), head=linear(4, 3),
        )  # fmt: skip
        assert_exact(model, torch.randint(0, 6, (4, 5)))


class Attention(nn.Module):
    """Multi-head attention over tokens `[N, T, 8]`, the last of which may be padding (zeros)."""

    def __init__(self, masked=False, causal=False, weights=False, cross=False, **options):
        super().__init__()
        self.masked, self.causal, self.weights, self.cross = masked, causal, weights, cross
        self.mha = nn.MultiheadAttention(8, 2, **options)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        padding = (x == 0).all(-1) if self.masked else None
        mask = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1) if self.causal else None
        keys, values = x, x
        if self.cross:
            keys, values = x[..., : self.mha.kdim], x[..., : self.mha.vdim]
        if not self.mha.batch_first:
            x, keys, values = (t.transpose(0, 1) for t in (x, keys, values))
        out, _ = self.mha(
            x, keys, values, key_padding_mask=padding, attn_mask=mask, need_weights=self.weights
        )
        return self.head(torch.tanh(out).mean(1 if self.mha.batch_first else 0))


def tokens(samples=4, length=5, width=8, padded=False):
    """Tokens `[N, T, D]`, of which some at the end are zeros."""
    x = torch.randn(samples, length, width)
    if padded:
        lengths = torch.arange(samples) % (length - 1) + 2
        x = x * (torch.arange(length) < lengths[:, None])[..., None]
    return x


class TestAttention:
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

    @pytest.mark.parametrize("samples", [5, 2])
    def test_as_many_positions_as_samples_or_heads(self, samples):
        model = perturb(Attention(batch_first=False))
        assert_exact(model, tokens(samples, length=samples))

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

    def test_encoder_with_a_causal_mask(self):
        mask = nn.Transformer.generate_square_subsequent_mask(5)

        def forward(m, x):
            return m.head(m.layer(x, src_mask=mask, is_causal=True).mean(1))

        layer = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True)
        assert_exact(perturb(Custom(forward, layer=layer, head=nn.Linear(8, 3))), tokens())

    def test_encoder_and_decoder(self):
        def forward(m, x):
            return m.head(m.body(x, x[:, :3]).mean(1))

        body = nn.Transformer(8, 2, 1, 1, 12, batch_first=True)
        assert_exact(perturb(Custom(forward, body=body, head=nn.Linear(8, 3))), tokens())

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

    @pytest.mark.parametrize("kind", ["mask", "float", "causal", "grouped", "scale", "none"])
    def test_scaled_dot_product(self, kind):
        def forward(m, x):
            q = m.q(x).unflatten(-1, (4, 2)).transpose(1, 2)
            k = m.k(x).unflatten(-1, (2 if kind == "grouped" else 4, 2)).transpose(1, 2)
            keep = (x != 0).any(-1)[:, None, None, :]
            options = {
                "mask": {"attn_mask": keep},
                "float": {"attn_mask": torch.where(keep, 0.0, -9.0).to(x.dtype)},
                "causal": {"is_causal": True},
                "grouped": {"enable_gqa": True},
                "scale": {"scale": 2.0},
                "none": {},
            }[kind]  # fmt: skip
            x = F.scaled_dot_product_attention(q, k, torch.tanh(k), **options)
            return m.head(x.transpose(1, 2).flatten(2).mean(1))

        model = Custom(
            forward, q=linear(8, 8), k=linear(8, 4 if kind == "grouped" else 8), head=linear(8, 3)
        )
        assert_exact(model, tokens(padded=True))

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


class TestRecurrent:
    def check(self, layer, function, inputs, width):
        model = perturb(Custom(function, layer=layer, head=nn.Linear(width, 3)))
        assert_exact(model, inputs)

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

    def test_relu(self):
        layer = nn.RNN(4, 5, nonlinearity="relu", batch_first=True)
        self.check(layer, lambda m, x: m.head(m.layer(x)[0].mean(1)), tokens(4, 3, 4), 5)

    @pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
    def test_projection(self):
        layer = nn.LSTM(4, 5, proj_size=3, batch_first=True)
        self.check(layer, lambda m, x: m.head(m.layer(x)[0].mean(1)), tokens(4, 3, 4), 3)

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

    @pytest.mark.parametrize("kind", [nn.RNNCell, nn.GRUCell, nn.LSTMCell])
    def test_cells(self, kind):
        def forward(m, x):
            state = None
            for step in x.unbind(1):
                state = m.layer(step, state)
            return m.head(state[0] if isinstance(state, tuple) else state)

        self.check(kind(4, 5), forward, tokens(4, 3, 4), 5)

    def test_between_other_layers(self):
        def forward(m, ids):
            out, _ = m.layer(m.norm(m.embed(ids)))
            return m.head(torch.tanh(m.mix(out)).amax(1))

        model = Custom(
            forward, embed=nn.Embedding(6, 4), norm=nn.LayerNorm(4),
            layer=nn.LSTM(4, 5, batch_first=True), mix=nn.Linear(5, 4), head=nn.Linear(4, 3),
        )  # fmt: skip
        assert_exact(perturb(model), torch.randint(0, 6, (4, 3)))


class Raw(nn.Module):
    """A raw parameter `[*shape]` used by a function of it and of the input."""

    def __init__(self, function, *shape, outputs=4):
        super().__init__()
        self.function = function
        self.weight = nn.Parameter(torch.randn(shape))
        self.body, self.head = linear(4, 4), linear(outputs, 3)

    def forward(self, x):
        return self.head(torch.tanh(self.function(torch.tanh(self.body(x)), self.weight)))


class TestParameters:
    @pytest.mark.parametrize(
        "function, shape",
        [
            pytest.param(lambda x, w: x @ w, (4, 4), id="matmul"),
            pytest.param(lambda x, w: x @ w.T, (4, 4), id="matmul-transposed"),
            pytest.param(lambda x, w: torch.mm(x, w), (4, 4), id="mm"),
            pytest.param(lambda x, w: (w @ x.T).T, (4, 4), id="from-the-left"),
            pytest.param(lambda x, w: torch.addmm(x, x, w), (4, 4), id="addmm"),
            pytest.param(lambda x, w: torch.addmm(w[0], x, w), (4, 4), id="addmm-twice"),
            pytest.param(lambda x, w: torch.stack([w.mv(row) for row in x]), (4, 4), id="mv"),
            pytest.param(lambda x, w: torch.einsum("ni,ij->nj", x, w), (4, 4), id="einsum"),
            pytest.param(
                lambda x, w: torch.einsum("ni,ijk,nj->nk", x, w, x), (4, 4, 4), id="einsum-cubic"
            ),
            pytest.param(lambda x, w: torch.tensordot(x, w, 1), (4, 4), id="tensordot"),
            pytest.param(lambda x, w: torch.chain_matmul(x, w, w), (4, 4), id="chain",
                         marks=pytest.mark.filterwarnings("ignore:torch.chain_matmul")),
            pytest.param(lambda x, w: torch.linalg.multi_dot([x, w, w]), (4, 4), id="multi-dot"),
            pytest.param(
                lambda x, w: torch.bmm(x[None].expand(2, -1, -1), w).sum(0), (2, 4, 4), id="bmm"
            ),
            pytest.param(
                lambda x, w: torch.baddbmm(x[None], x[None].expand(2, -1, -1), w).sum(0),
                (2, 4, 4),
                id="baddbmm",
            ),
            pytest.param(lambda x, w: F.linear(x, w.exp(), w[0]), (4, 4), id="computed-weight"),
            pytest.param(lambda x, w: F.linear(x, w[1:5, ::2]), (6, 8), id="slice-of-weight"),
            pytest.param(lambda x, w: F.bilinear(x, x, w), (4, 4, 4), id="bilinear"),
            pytest.param(lambda x, w: F.prelu(x, w), (1,), id="prelu-one"),
            pytest.param(lambda x, w: F.prelu(x, w), (4,), id="prelu-channels"),
            pytest.param(lambda x, w: x * w, (4,), id="scale"),
            pytest.param(lambda x, w: w * x + w, (), id="scalar"),
            pytest.param(lambda x, w: torch.addcmul(x, x, w), (4,), id="addcmul"),
            pytest.param(lambda x, w: torch.lerp(x, w, 0.3), (4,), id="lerp"),
            pytest.param(lambda x, w: torch.where(x > 0, x, w), (4,), id="where"),
            pytest.param(lambda x, w: x + w.expand(len(x), -1), (1, 4), id="expand"),
            pytest.param(lambda x, w: x + w.repeat(len(x), 1), (1, 4), id="repeat"),
            pytest.param(
                lambda x, w: torch.cat([x, w.expand(len(x), 2)], 1)[:, 2:], (2,), id="cat"
            ),
            pytest.param(lambda x, w: x + w[x.argmax(1)], (4, 4), id="index"),
            pytest.param(lambda x, w: x + w.index_select(0, x.argmax(1)), (4, 4), id="select"),
            pytest.param(lambda x, w: x + w.unbind()[1] + w.chunk(2)[0], (2, 4), id="unbind"),
            pytest.param(lambda x, w: torch.cdist(x, w), (4, 4), id="distances"),
            pytest.param(
                lambda x, w: F.cosine_similarity(x[:, None], w[None], -1), (4, 4), id="cosine"
            ),
            pytest.param(lambda x, w: F.normalize(x) @ F.normalize(w).T, (4, 4), id="normalised"),
            pytest.param(lambda x, w: x @ torch.linalg.inv(w), (4, 4), id="inverse"),
            pytest.param(lambda x, w: x @ torch.matrix_exp(w), (4, 4), id="matrix-exponential"),
            pytest.param(lambda x, w: x @ w.softmax(-1), (4, 4), id="softmax-of-weight"),
            pytest.param(lambda x, w: x @ (w.data + w), (4, 4), id="data-of-weight"),
            pytest.param(lambda x, w: x + (w.norm() + w.sum()), (4, 4), id="regulariser"),
            pytest.param(lambda x, w: F.layer_norm(x, (4,), w, w), (4,), id="scale-and-shift"),
            pytest.param(lambda x, w: F.linear(F.linear(x, w), w.T), (6, 4), id="autoencoder"),
            pytest.param(lambda x, w: F.linear(x, w.detach()) + x * w[0], (4, 4), id="detached"),
        ],
    )  # fmt: skip
    def test_raw(self, function, shape):
        assert_exact(Raw(function, *shape), torch.randn(4, 4))

    @pytest.mark.parametrize("parameters", [1, 4])
    def test_prelu_layers(self, parameters):
        model = after(nn.PReLU(parameters), 4, before=nn.Conv2d(2, 4, 1))
        assert_exact(model, torch.randn(4, 2, 3, 3))

    def test_bilinear_layer(self):
        model = Custom(
            lambda m, x: m.head(torch.tanh(m.layer(x, m.mix(x)))),
            layer=nn.Bilinear(4, 3, 5), mix=linear(4, 3), head=linear(5, 3),
        )  # fmt: skip
        assert_exact(model, torch.randn(4, 4))
        assert_exact(model, torch.randn(4, 4))

    @pytest.mark.parametrize("kind", [nn.ParameterList, nn.ParameterDict])
    def test_in_containers(self, kind):
        values = [torch.randn(4), torch.randn(4, 4)]
        held = kind(values) if kind is nn.ParameterList else kind({"a": values[0], "b": values[1]})
        a, b = (0, 1) if kind is nn.ParameterList else ("a", "b")
        model = Custom(
            lambda m, x: m.head(torch.tanh(x * m.held[a] @ m.held[b])), held=held, head=linear(4, 3)
        )
        assert_exact(model, torch.randn(4, 4))

    def test_reached_past_the_module_tree(self):
        """A parameter in a closure and in a plain list, registered elsewhere."""
        body, head = linear(4, 4), linear(4, 3)
        kept = [body.weight]
        past = Custom(lambda m, x: head(torch.tanh(F.linear(x, kept[0]))), body=body, head=head)
        plain = Custom(
            lambda m, x: m.head(torch.tanh(F.linear(x, m.body.weight))), body=body, head=head
        )
        x = torch.randn(4, 4)
        expected = oracle.scores(plain, oracle.ones(x))
        assert_close_relative(score_pool(past, [x], progress=False), expected, 1e-5)

    def test_experts_with_stacked_weights(self):
        """Weights `[experts, i, o]`, of which each token takes those of the highest gate."""

        class Experts(nn.Module):
            def __init__(self):
                super().__init__()
                self.gate, self.head = linear(4, 3), linear(4, 3)
                self.weight = nn.Parameter(torch.randn(3, 4, 4))

            def forward(self, x):
                gate = self.gate(x).softmax(-1)
                best, index = gate.max(-1)
                out = torch.einsum("nti,ntio->nto", x, self.weight[index])
                return self.head(torch.tanh(out * best[..., None]).mean(1))

        assert_exact(Experts(), torch.randn(4, 5, 4))

    @pytest.mark.parametrize("samples", [1, 2, 4])
    def test_class_token_and_layer_scale(self, samples):
        class Tokens(nn.Module):
            def __init__(self):
                super().__init__()
                self.cls = nn.Parameter(torch.randn(1, 1, 4))
                self.scale = nn.Parameter(torch.rand(4))
                self.positions = nn.Parameter(torch.randn(1, 4, 4))
                self.body, self.head = linear(4, 4), linear(4, 3)

            def forward(self, x):
                x = torch.cat([self.cls.expand(len(x), -1, -1), x], 1) + self.positions
                return self.head(torch.tanh(x + self.scale * self.body(x))[:, 0])

        assert_exact(Tokens(), torch.randn(samples, 3, 4))


class TestParametrizations:
    class Symmetric(nn.Module):
        def forward(self, w):
            return w.triu() + w.triu(1).mT

    class LowRank(nn.Module):
        """Adds a low-rank change, trained over the frozen weight."""

        def __init__(self, o, i):
            super().__init__()
            self.up, self.down = nn.Parameter(torch.randn(o, 2)), nn.Parameter(torch.randn(2, i))

        def forward(self, w):
            return w + 0.3 * self.up @ self.down

    @staticmethod
    def model():
        return Custom(
            lambda m, x: m.head(torch.tanh(m.body(x))), body=linear(4, 4), head=linear(4, 3)
        )

    def test_symmetric(self):
        model = self.model()
        parametrize.register_parametrization(model.body, "weight", self.Symmetric())
        assert_exact(model, torch.randn(4, 4))

    def test_low_rank_over_a_frozen_weight(self):
        model = self.model()
        parametrize.register_parametrization(model.body, "weight", self.LowRank(4, 4))
        model.body.parametrizations.weight.original.requires_grad_(False)
        assert_exact(model, torch.randn(4, 4))

    def test_several_on_one_weight(self):
        model = self.model()
        parametrize.register_parametrization(model.body, "weight", self.LowRank(4, 4))
        parametrize.register_parametrization(model.body, "weight", self.Symmetric())
        assert_exact(model, torch.randn(4, 4))

    def test_cached(self):
        """A cache filled before, or by the engine, is neither used nor left behind."""
        model, x = self.model(), torch.randn(4, 4)
        parametrize.register_parametrization(model.body, "weight", self.Symmetric())
        expected = oracle.scores(model, oracle.ones(x))
        with parametrize.cached():
            kept = model.body.weight
            for _ in range(2):
                scores = score_pool(model, [x], progress=False)
                assert_close_relative(scores, expected, 1e-5)
            assert model.body.weight is kept
        assert_exact(model, x)

    def test_orthogonal(self):
        model = self.model()
        nn.utils.parametrizations.orthogonal(model.body)
        assert_exact(model, torch.randn(4, 4))

    @pytest.mark.parametrize("dim", [0, 1, None])
    def test_weight_norm_of_convolutions(self, dim):
        layer = nn.utils.parametrizations.weight_norm(nn.Conv1d(4, 6, 3, groups=2), dim=dim)
        model = Custom(
            lambda m, x: m.head(torch.tanh(m.layer(x)).mean(2)), layer=layer, head=linear(6, 3)
        )
        assert_exact(model, torch.randn(4, 4, 6))

    @pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated:FutureWarning")
    @pytest.mark.parametrize("make", [nn.utils.weight_norm, nn.utils.spectral_norm])
    def test_by_hooks(self, make):
        """The older kind: a hook sets the weight on the module before each call."""
        model = self.model()
        make(model.body)
        model.eval()
        with torch.no_grad():
            model(torch.randn(2, 4))  # the hook leaves a tensor without a graph behind
        x = torch.randn(4, 4)
        table = oracle.norms(_plain_copy(model), oracle.ones(x))
        scores = score_pool(model, [x], scheme=oracle.SCHEMES, progress=False)
        for scheme in oracle.SCHEMES:
            assert_close_relative(scores[scheme], table.scores(scheme), 1e-5, scheme)


def _plain_copy(model):
    """A model whose hooks left a tensor with a graph on it cannot be copied as it is."""
    del model.body.weight
    double = copy.deepcopy(model)
    with torch.no_grad():
        model(torch.randn(2, 4))
    return double


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
        assert_close_relative(score_pool(model, [x], progress=False), expected, 1e-5)

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
                table.index_fill_(1, place[:1], 1.0)
            else:
                table[x > 0] = 1.0
            return m.head(torch.tanh(m.body(x)) * (0.5 + table))

        assert_exact(Custom(forward, body=linear(4, 4), head=linear(4, 3)), torch.randn(4, 4))

    def test_complex_numbers(self):
        def forward(m, x):
            spectrum = torch.fft.rfft(m.body(x), dim=-1)
            return m.head(torch.fft.irfft(spectrum * torch.view_as_complex(m.filter), n=4, dim=-1))

        model = Custom(forward, body=linear(4, 4), head=linear(4, 3))
        model.filter = nn.Parameter(torch.randn(3, 2))
        assert_exact(model, torch.randn(4, 4))

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

    def test_no_samples_one_sample_and_one_position(self):
        model = perturb(Attention(batch_first=True))
        assert len(score_pool(model, [tokens(0), tokens(1)], progress=False)) == 1
        assert_exact(model, tokens(1))
        assert_exact(model, tokens(4, length=1))


class TestOtherModels:
    @pytest.mark.parametrize("kind", ["squeeze-excite", "dense", "inception", "unet", "shuffle"])
    def test_convolutional_blocks(self, kind):
        class Block(nn.Module):
            def __init__(self):
                super().__init__()
                self.a, self.b = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 1)
                self.c, self.up = nn.Conv2d(8, 4, 1), nn.ConvTranspose2d(4, 4, 2, 2)
                self.head = nn.Linear(4, 3)

            def forward(self, x):
                y = F.gelu(self.a(x))
                if kind == "squeeze-excite":
                    y = y * torch.sigmoid(self.b(F.adaptive_avg_pool2d(y, 1)))
                elif kind == "dense":
                    y = self.c(torch.cat([x, y], 1))
                elif kind == "inception":
                    y = self.c(torch.cat([self.b(x), F.avg_pool2d(y, 3, 1, 1)], 1))
                elif kind == "unet":
                    y = self.c(torch.cat([x, self.up(F.max_pool2d(y, 2))], 1))
                else:
                    y = y.unflatten(1, (2, 2)).transpose(1, 2).flatten(1, 2)
                    y = self.c(torch.cat(y.chunk(2, 1) + x.chunk(2, 1), 1))
                return self.head(F.hardswish(y).mean((2, 3)))

        assert_exact(perturb(Block()), torch.randn(4, 4, 4, 4))

    def test_resized_feature_maps(self):
        def forward(m, x):
            y = F.interpolate(m.conv(x), scale_factor=2, mode="bilinear", align_corners=False)
            return m.head(torch.tanh(m.last(F.interpolate(y, size=(3, 3)))).mean((2, 3)))

        model = Custom(
            forward, conv=nn.Conv2d(2, 4, 2), last=nn.Conv2d(4, 4, 2), head=nn.Linear(4, 3)
        )
        assert_exact(perturb(model), torch.randn(4, 2, 4, 4))

    def test_mixer(self):
        """Linear layers over features, then over positions."""
        model = Custom(
            lambda m, x: m.head(m.b(torch.tanh(m.a(x)).mT).mT.mean(1)),
            a=linear(4, 4), b=linear(4, 4), head=linear(4, 3),
        )  # fmt: skip
        for samples in (3, 4):
            assert_exact(model, torch.randn(samples, 4, 4))

    def test_siamese(self):
        """A module run on two parts of the sample, and their distance classified."""
        model = Custom(
            lambda m, x: m.head((m.body(x[:, 0]) - m.body(x[:, 1])).abs()),
            body=nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 4)), head=nn.Linear(4, 3),
        )  # fmt: skip
        assert_exact(perturb(model), torch.randn(4, 2, 4))
