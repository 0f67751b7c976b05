"""Convolutions: padding, groups, transposed ones, and what stands around them."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.support.asserts import assert_exact
from tests.support.cases import Custom, linear
from tests.support.shared_models import after


class TestConvolutions:
    @pytest.mark.slow
    @pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
    @pytest.mark.parametrize("dims", [1, 2, 3])
    def test_padding_modes(self, dims, mode):
        kind = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1]
        layer = kind(4, 6, 3, padding=2, stride=2, groups=2, padding_mode=mode)
        assert_exact(after(layer, 6), torch.randn(4, 4, *(6, 5, 4)[:dims]))

    @pytest.mark.slow
    @pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
    @pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
    @pytest.mark.parametrize("kernel, dilation", [(2, 1), (4, 1), (2, 3), (3, 2), (4, 2)])
    def test_same_padding(self, kernel, dilation, mode):
        layer = nn.Conv2d(
            2, 4, (kernel, 3), padding="same", dilation=(dilation, 1), padding_mode=mode
        )
        assert_exact(after(layer, 4), torch.randn(4, 2, 7, 5))

    @pytest.mark.slow
    @pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
    @pytest.mark.parametrize("dims", [1, 3])
    def test_same_padding_of_even_kernels_in_other_dimensions(self, dims):
        kind = {1: nn.Conv1d, 3: nn.Conv3d}[dims]
        layer = kind(2, 4, 2, padding="same", dilation=3, groups=2)
        assert_exact(after(layer, 4), torch.randn(4, 2, *(6, 5, 4)[:dims]))

    @pytest.mark.slow
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

    @pytest.mark.slow
    def test_transposed_with_an_output_size(self):
        layer = nn.ConvTranspose2d(2, 4, 3, stride=2)
        model = after(layer, 4, lambda layer, x: layer(x, output_size=[8, 10]))
        assert_exact(model, torch.randn(4, 2, 3, 4))

    @pytest.mark.slow
    @pytest.mark.parametrize("multiplier", [1, 2])
    def test_depthwise(self, multiplier):
        layer = nn.Conv2d(4, 4 * multiplier, 3, padding=1, groups=4)
        assert_exact(after(layer, 4 * multiplier), torch.randn(4, 4, 5, 5))

    @pytest.mark.slow
    def test_without_a_batch_dimension(self):
        """A model that takes images apart and runs its convolution on each."""
        layer = nn.Conv2d(2, 4, 3)
        model = after(layer, 4, lambda layer, x: torch.stack([layer(image) for image in x]))
        assert_exact(model, torch.randn(4, 2, 5, 5))

    @pytest.mark.slow
    @pytest.mark.parametrize("bias", [True, False])
    @pytest.mark.parametrize("dims", [1, 2, 3])
    @pytest.mark.parametrize("kind", ["Conv", "ConvTranspose"])
    def test_frames_folded_into_the_batch(self, kind, dims, bias):
        def forward(m, x):
            frames = torch.tanh(m.conv(x.flatten(0, 1))).flatten(2).mean(2)
            return m.head(frames.unflatten(0, (len(x), -1)).amax(1))

        layer = getattr(nn, f"{kind}{dims}d")(2, 4, 3, groups=2, bias=bias)
        model = Custom(forward, conv=layer, head=linear(4, 3))
        assert_exact(model, torch.randn(4, 3, 2, *(5, 4, 3)[:dims]))

    @pytest.mark.slow
    def test_inputs_in_channels_last_order(self):
        model = after(nn.Conv2d(2, 4, 3), 4)
        x = torch.randn(4, 2, 6, 5)
        assert_exact(model.to(memory_format=torch.channels_last), x)
        assert_exact(model, x.to(memory_format=torch.channels_last))

    @pytest.mark.slow
    def test_convolution_with_a_weight_made_by_the_model(self):
        """Weight standardisation, as in big-transfer networks."""

        def forward(m, x):
            w = m.conv.weight
            w = (w - w.mean((1, 2, 3), keepdim=True)) / w.std((1, 2, 3), keepdim=True)
            return m.head(F.conv2d(x, w, m.conv.bias, padding=1).tanh().mean((2, 3)))

        model = Custom(forward, conv=nn.Conv2d(2, 4, 3), head=linear(4, 3))
        assert_exact(model, torch.randn(4, 2, 5, 5))

    @pytest.mark.slow
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

    @pytest.mark.slow
    @pytest.mark.parametrize("size", [1, 2, (1, None)])
    @pytest.mark.parametrize("pool", ["adaptive_avg_pool2d", "adaptive_max_pool2d"])
    def test_before_adaptive_pooling(self, pool, size):
        def forward(m, x):
            return m.head(getattr(F, pool)(torch.tanh(m.conv(x)), size).flatten(2).sum(2))

        model = Custom(forward, conv=nn.Conv2d(2, 4, 2), head=linear(4, 3))
        assert_exact(model, torch.randn(4, 2, 5, 4))

    @pytest.mark.slow
    def test_adaptive_pooling_of_transposed_activations(self):
        """Tokens to channels, as Swin pools: the layout of the input is not the usual one."""
        model = Custom(
            lambda m, x: m.head(m.pool(m.mix(x).tanh().transpose(1, 2)).flatten(1)),
            mix=linear(4, 6), pool=nn.AdaptiveAvgPool1d(1), head=linear(6, 3),
        )  # fmt: skip
        assert_exact(model, torch.randn(4, 5, 4))
