"""Layers and models that rules get wrong: norms, positions, in-place changes, kept tensors."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fastgradnorm import naive_score_pool
from tests.support import oracle
from tests.support.asserts import assert_close_relative, assert_exact
from tests.support.cases import CASES, ChannelsLastGradient, Custom, by_sample, linear, perturb


class TestModelsThatKeepTensors:
    class Caching(nn.Module):
        """Keeps activations, and a table made from a parameter, on itself."""

        def __init__(self):
            super().__init__()
            self.body, self.head = linear(4, 4), linear(4, 3)
            self.scale = nn.Parameter(torch.rand(4))
            self.table = None
            self.kept = []
            self.register_buffer("calls", torch.zeros((), dtype=torch.long))

        def forward(self, x):
            if self.table is None:
                self.table = self.scale.exp()
            self.activations = torch.tanh(self.body(x))
            self.kept.append(self.activations)
            self.calls += 1
            return self.head(self.activations * self.table)

    @pytest.mark.slow
    def test_no_stale_value_is_used_and_nothing_stays_behind(self):
        model, x = self.Caching(), torch.randn(4, 4)
        assert_exact(model, x)
        assert model.table is None
        assert not hasattr(model, "activations")
        assert model.kept == []
        assert model.calls == 0
        with torch.no_grad():
            model.scale.add_(1.0)
        assert_exact(model, x)

    @pytest.mark.slow
    def test_hooks_that_keep_activations_on_a_module(self):
        model, inputs = CASES["mlp"].random()
        model.body.register_forward_hook(lambda m, args, out: setattr(m, "kept", out))
        assert_exact(model, inputs[:4])
        assert not hasattr(model.body, "kept")

    @pytest.mark.slow
    def test_hooks_that_change_activations(self):
        model, inputs = CASES["mlp"].random()
        model.body.register_forward_hook(lambda m, args, out: 2 * out)
        model.head.register_forward_pre_hook(lambda m, args: (args[0] + 0.5,))
        assert_exact(model, inputs[:4])

    @pytest.mark.slow
    def test_running_statistics_are_not_updated_and_eval_statistics_used(self):
        model, inputs = CASES["cnn3d"].random()
        model.train()
        before = {name: b.clone() for name, b in model.named_buffers()}
        assert_exact(model, inputs[:4])
        for name, b in model.named_buffers():
            assert torch.equal(b, before[name])


class TestInPlace:
    def test_activations_after_a_tapped_layer(self):
        model = Custom(
            lambda m, x: m.head(F.relu(m.body(x).mul_(2.0).add_(x), inplace=True)),
            body=linear(4, 4), head=linear(4, 3),
        )  # fmt: skip
        assert_exact(model, torch.randn(4, 4))

    @pytest.mark.slow
    def test_normalised_activations(self):
        model = Custom(
            lambda m, x: m.head(F.relu(m.norm(m.body(x)), inplace=True)),
            body=linear(4, 4),
            norm=perturb(nn.LayerNorm(4)),
            head=linear(4, 3),
        )
        assert_exact(model, torch.randn(4, 4))

    def test_logits_changed_in_place(self):
        model = Custom(lambda m, x: m.head(x).mul_(3.0), head=linear(4, 3))
        assert_exact(model, torch.randn(4, 4))

    @pytest.mark.slow
    def test_assignment_into_a_slice(self):
        def function(m, x):
            x = m.body(x)
            x[:, :2] = torch.tanh(x[:, 2:])
            return m.head(x)

        assert_exact(Custom(function, body=linear(4, 4), head=linear(4, 3)), torch.randn(4, 4))


class TestNormsAndPositions:
    @pytest.mark.slow
    @pytest.mark.parametrize(
        "norm, shape",
        [
            pytest.param(lambda: nn.LayerNorm(4, bias=False), (4,), id="layer-norm-no-bias"),
            pytest.param(lambda: nn.LayerNorm([3, 4]), (3, 4), id="layer-norm-2d"),
            pytest.param(lambda: nn.RMSNorm(4), (4,), id="rms-norm"),
            pytest.param(lambda: nn.BatchNorm1d(4), (4,), id="batch-norm-1d"),
            pytest.param(lambda: nn.BatchNorm1d(3), (3, 4), id="batch-norm-positions"),
            pytest.param(lambda: nn.InstanceNorm1d(3, affine=True), (3, 4), id="instance-norm"),
            pytest.param(
                lambda: nn.InstanceNorm1d(3, affine=True, track_running_stats=True),
                (3, 4),
                id="instance-norm-tracked",
            ),
            pytest.param(lambda: nn.GroupNorm(1, 4), (4, 3), id="group-norm"),
        ],
    )
    def test_norm_layers(self, norm, shape):
        model = Custom(
            lambda m, x: m.head(torch.tanh(m.norm(m.mix(x))).flatten(1)),
            mix=linear(shape[-1], shape[-1]), norm=perturb(norm()),
            head=linear(torch.Size(shape).numel(), 3),
        ).eval()  # fmt: skip
        assert_exact(model, torch.randn(4, *shape))

    @pytest.mark.slow
    @pytest.mark.parametrize(
        "norm",
        [nn.BatchNorm2d, lambda c: nn.InstanceNorm2d(c, affine=True)],
        ids=["batch", "instance"],
    )
    def test_norms_whose_gradient_has_the_channels_last(self, norm):
        model, x = perturb(ChannelsLastGradient(norm)).eval(), torch.randn(3, 4, 3, 3)
        assert_exact(model, x)  # verified against plain autograd by default
        assert_close_relative(
            naive_score_pool(model, [x]), oracle.scores(model, oracle.ones(x)), 1e-5
        )

    @pytest.mark.slow
    @pytest.mark.parametrize("shape", [(3, 4), (2, 3, 4), (2, 1, 3, 4)])
    def test_linear_at_many_positions(self, shape):
        model = Custom(
            lambda m, x: m.head(torch.tanh(m.body(x)).flatten(1, -2).mean(1)),
            body=linear(4, 4), head=linear(4, 3),
        )  # fmt: skip
        assert_exact(model, torch.randn(5, *shape))

    @pytest.mark.slow
    def test_token_gradients_that_nearly_cancel(self):
        """The gradient is a small difference of large terms: the Gram form alone loses it."""

        def function(m, x):
            y = m.body(torch.cat([x, x + 2**-10], 1))
            return m.head(torch.tanh(y[:, 0] - y[:, 1]) + 0.1 * x[:, 0])

        model = Custom(function, body=linear(64, 64), head=linear(64, 3))
        x = (64 * torch.randn(4, 1, 64)).round() / 64  # the sum with 2^-10 is exact
        assert_exact(model, x, only=lambda name: name == "body.weight")
        assert_exact(model, x)


def parameter(*shape):
    return nn.Parameter(torch.randn(shape))


WEIGHT = (5, 4)
BROADCAST = [
    pytest.param(lambda x, w, b: F.linear(x, w, b), WEIGHT, (1,), id="linear-bias-1"),
    pytest.param(lambda x, w, b: F.linear(x, w, b), WEIGHT, (), id="linear-bias-0d"),
    pytest.param(lambda x, w, b: F.linear(x, w) + b, (4,), (), id="linear-weight-1d"),
    pytest.param(lambda x, w, b: torch.addmm(b, x[0], w.T), WEIGHT, (1,), id="addmm-bias-1"),
    pytest.param(lambda x, w, b: torch.addmm(b, x[0], w.T), WEIGHT, (), id="addmm-bias-0d"),
    pytest.param(lambda x, w, b: torch.addmm(b, x[0], w.T), WEIGHT, (3, 1), id="addmm-bias-column"),
    pytest.param(
        lambda x, w, b: torch.einsum("nti,tio->nto", x, w) + b, (1, 4, 5), (), id="einsum-group"
    ),
    pytest.param(
        lambda x, w, b: torch.einsum("nti,io->nto", x, w) + b, (1, 5), (), id="einsum-input"
    ),
    pytest.param(lambda x, w, b: torch.matmul(x, w) + b, (1, 4, 5), (1, 5), id="matmul-group"),
]


@pytest.mark.parametrize("function, weight, bias", BROADCAST)
class TestParametersThatBroadcast:
    """Their gradient is a sum over what they are broadcast to."""

    @pytest.mark.slow
    def test_in_a_body(self, function, weight, bias):
        width = 3 * (5 if len(weight) > 1 else 1)
        model = Custom(
            by_sample(lambda m, x: m.head(torch.tanh(function(x, m.w, m.b)).reshape(1, -1))),
            w=parameter(*weight), b=parameter(*bias), head=linear(width, 3),
        )  # fmt: skip
        assert_exact(model, torch.randn(4, 3, 4))

    @pytest.mark.slow
    def test_in_a_head(self, function, weight, bias):
        model = Custom(
            by_sample(lambda m, x: function(torch.tanh(m.body(x)), m.w, m.b).reshape(1, -1)),
            body=linear(4, 4), w=parameter(*weight), b=parameter(*bias),
        )  # fmt: skip
        assert_exact(model, torch.randn(4, 3, 4))
