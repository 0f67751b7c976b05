"""Whole models of several kinds of layers."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.support.asserts import assert_exact
from tests.support.cases import Custom, linear, perturb


class TestOtherModels:
    @pytest.mark.slow
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

    @pytest.mark.slow
    def test_resized_feature_maps(self):
        def forward(m, x):
            y = F.interpolate(m.conv(x), scale_factor=2, mode="bilinear", align_corners=False)
            return m.head(torch.tanh(m.last(F.interpolate(y, size=(3, 3)))).mean((2, 3)))

        model = Custom(
            forward, conv=nn.Conv2d(2, 4, 2), last=nn.Conv2d(4, 4, 2), head=nn.Linear(4, 3)
        )
        assert_exact(perturb(model), torch.randn(4, 2, 4, 4))

    @pytest.mark.slow
    def test_mixer(self):
        """Linear layers over features, then over positions."""
        model = Custom(
            lambda m, x: m.head(m.b(torch.tanh(m.a(x)).mT).mT.mean(1)),
            a=linear(4, 4), b=linear(4, 4), head=linear(4, 3),
        )  # fmt: skip
        for samples in (3, 4):
            assert_exact(model, torch.randn(samples, 4, 4))

    @pytest.mark.slow
    def test_siamese(self):
        """A module run on two parts of the sample, and their distance classified."""
        model = Custom(
            lambda m, x: m.head((m.body(x[:, 0]) - m.body(x[:, 1])).abs()),
            body=nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 4)), head=nn.Linear(4, 3),
        )  # fmt: skip
        assert_exact(perturb(model), torch.randn(4, 2, 4))
