"""Normalisation layers, also those of the model's own, over activations of every layout."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fastgradnorm import score_pool
from tests.support import warm
from tests.support.asserts import assert_close_relative, assert_exact
from tests.support.cases import Custom, linear
from tests.support.shared_models import after


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
    @pytest.mark.slow
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

    @pytest.mark.slow
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

    @pytest.mark.slow
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
        found = warm.run(code)
        assert found.returncode == 0, found.stderr

    @pytest.mark.slow
    def test_over_one_position_more_than_samples(self):
        """Sizes that a wrong dimension would fit as well."""
        for n in (3, 4):
            model = after(nn.GroupNorm(3, 3), 3, before=nn.Conv2d(3, 3, 1))
            assert_exact(model, torch.randn(n, 3, 3, 3))

    @pytest.mark.slow
    def test_batch_norm_in_train_mode_scored_in_eval_mode(self):
        model = after(nn.BatchNorm2d(4), 4, before=nn.Conv2d(2, 4, 1)).train()
        assert_exact(model, torch.randn(4, 2, 3, 3))
        assert model.layer.training
        assert model.layer.num_batches_tracked == 0


@pytest.mark.slow
@pytest.mark.parametrize("eps", [1e-12, 0.3])
@pytest.mark.parametrize("make", [
    pytest.param(lambda eps: nn.LayerNorm((4, 3), eps), id="layer"),
    pytest.param(lambda eps: nn.RMSNorm(3, eps), id="rms"),
    pytest.param(lambda eps: nn.GroupNorm(2, 4, eps), id="group"),
    pytest.param(lambda eps: nn.BatchNorm1d(4, eps), id="batch"),
    pytest.param(lambda eps: nn.InstanceNorm1d(4, eps, affine=True), id="instance"),
    pytest.param(
        lambda eps: nn.InstanceNorm1d(4, eps, affine=True, track_running_stats=True),
        id="instance-with-statistics",
    ),
])  # fmt: skip
def test_an_eps_of_its_own(make, eps):
    """It matters where the variance is small."""
    model = Custom(
        lambda m, x: m.head(torch.tanh(m.norm(m.conv(x))).mean(2)),
        conv=nn.Conv1d(2, 4, 1), norm=make(eps), head=linear(4, 3),
    )  # fmt: skip
    assert_exact(model, 0.3 * torch.randn(4, 2, 3))
