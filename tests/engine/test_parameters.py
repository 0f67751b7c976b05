"""Every trainable parameter that is used is counted exactly once; the rest counts zero."""

import pytest
import torch
import torch.nn.functional as F
from fastgradnorm_kernels import functorch
from torch import nn
from torch.nn.utils import parametrizations

from fastgradnorm import CoverageError, VerificationError, score_pool
from tests.support import oracle
from tests.support.asserts import assert_close_relative, assert_exact
from tests.support.cases import CASES, MLP, Custom, linear, perturb


class TestFrozenAndUnused:
    @pytest.mark.slow
    @pytest.mark.parametrize("name", ["mlp", "groupnorm-cnn", "transformer"])
    def test_frozen_parameters_drop_out(self, name):
        model, inputs = CASES[name].random()
        everything = score_pool(model, [inputs[:4]], progress=False)
        for i, p in enumerate(model.parameters()):
            p.requires_grad_(i % 2 == 0)
        assert_exact(model, inputs[:4])
        assert (score_pool(model, [inputs[:4]], progress=False) < everything).all()

    @pytest.mark.slow
    def test_frozen_weight_with_trainable_bias_and_the_reverse(self):
        model, inputs = CASES["padded-cnn"].random()
        model.grouped.weight.requires_grad_(False)
        model.wrapped.bias.requires_grad_(False)
        model.head.weight.requires_grad_(False)
        assert_exact(model, inputs[:4])

    @pytest.mark.slow
    def test_sum_over_disjoint_selections(self):
        """Squared norms of a partition of the parameters add up to those of all."""
        model, inputs = CASES["transformer"].random()
        parts = [
            score_pool(
                model, [inputs[:4]], scheme="entropy", progress=False,
                params=lambda name, _, rest=rest: len(name) % 3 == rest,
            ) for rest in range(3)
        ]  # fmt: skip
        whole = score_pool(model, [inputs[:4]], scheme="entropy", progress=False)
        assert_close_relative(sum(part**2 for part in parts).sqrt(), whole, 1e-6)

    @pytest.mark.slow
    def test_unused_parameters_count_zero(self):
        model, inputs = CASES["mlp"].random()
        expected = score_pool(model, [inputs[:4]], progress=False)
        model.never_called = nn.Sequential(nn.Linear(3, 3), nn.LSTM(2, 2), nn.BatchNorm1d(4))
        model.nobody = nn.Parameter(torch.ones(5))
        assert_close_relative(score_pool(model, [inputs[:4]], progress=False), expected, 1e-7)
        assert_exact(model, inputs[:4])

    @pytest.mark.slow
    def test_parameters_used_under_no_grad_count_zero(self):
        def function(m, x):
            with torch.no_grad():
                x = torch.tanh(m.body(x))
            return m.head(x)

        model = Custom(function, body=linear(4, 4), head=linear(4, 3))
        table = assert_exact(model, torch.randn(4, 4))
        assert table.label_norms[..., :2].eq(0).all()

    @pytest.mark.slow
    def test_used_under_no_grad_and_outside_of_it(self):
        def function(m, x):
            with torch.no_grad():
                gate = torch.sigmoid(m.body(x))
            return m.head(torch.tanh(m.body(x)) * gate)

        assert_exact(Custom(function, body=linear(4, 4), head=linear(4, 3)), torch.randn(4, 4))

    def test_detached_activations_cut_the_gradient(self):
        model = Custom(
            lambda m, x: m.head(torch.tanh(m.body(x)).detach() + x),
            body=linear(4, 4),
            head=linear(4, 3),
        )
        assert_exact(model, torch.randn(4, 4))


class TestTiedAndReused:
    @pytest.mark.slow
    def test_embedding_tied_to_the_head(self):
        def function(m, ids):
            return F.linear(torch.tanh(m.embed(ids).mean(1)), m.embed.weight)

        assert_exact(Custom(function, embed=nn.Embedding(7, 5)), torch.randint(0, 7, (4, 3)))

    @pytest.mark.slow
    def test_one_parameter_under_two_names(self):
        model = Custom(
            lambda m, x: m.head(torch.tanh(m.b(torch.tanh(m.a(x))))),
            a=linear(4, 4), b=linear(4, 4), head=linear(4, 3),
        )  # fmt: skip
        model.b.weight = model.a.weight
        table = assert_exact(model, torch.randn(4, 4))
        assert len(table.names) == 5

    @pytest.mark.slow
    def test_module_applied_twice(self):
        model = Custom(
            lambda m, x: m.head(m.norm(torch.tanh(m.body(m.norm(torch.tanh(m.body(x))))))),
            body=linear(4, 4), norm=perturb(nn.LayerNorm(4)), head=linear(4, 3),
        )  # fmt: skip
        assert_exact(model, torch.randn(4, 4))

    @pytest.mark.slow
    def test_convolution_applied_twice(self):
        model = Custom(
            lambda m, x: m.head(m.conv(torch.tanh(m.conv(x))).mean((2, 3))),
            conv=nn.Conv2d(2, 2, 3, padding=1), head=linear(2, 3),
        )  # fmt: skip
        assert_exact(model, torch.randn(4, 2, 5, 5))

    @pytest.mark.slow
    def test_weight_also_used_as_a_raw_tensor(self):
        model = Custom(
            lambda m, x: m.head(torch.tanh(m.body(x)) + x @ m.body.weight),
            body=linear(4, 4), head=linear(4, 3),
        )  # fmt: skip
        assert_exact(model, torch.randn(4, 4))

    def test_whole_head_reused_inside(self):
        model = Custom(lambda m, x: m.head(torch.tanh(m.head(x))), head=linear(4, 4))
        assert_exact(model, torch.randn(4, 4))

    def test_last_layer_that_is_also_used_inside(self):
        """The last layer's parameters count with all their uses, or the call refuses."""
        model = Custom(lambda m, x: m.head(torch.tanh(m.head(x))), head=linear(4, 4))
        x = torch.randn(4, 4)
        try:
            actual = score_pool(model, [x], params="last_layer", progress=False)
        except ValueError as error:
            assert "last_layer" in str(error) or "head" in str(error)
        else:
            assert_close_relative(actual, oracle.scores(model, oracle.ones(x)), 1e-5)


class TestRawParameters:
    @pytest.mark.slow
    @pytest.mark.parametrize("samples", [1, 4, 6])
    def test_layer_scale_position_table_and_gate(self, samples):
        """Also where the number of positions or features equals the number of samples."""

        class Raw(nn.Module):
            def __init__(self):
                super().__init__()
                self.scale = nn.Parameter(torch.rand(4))
                self.table = nn.Parameter(torch.randn(6, 4))
                self.gate = nn.Parameter(torch.randn(()))
                self.position = nn.Embedding(6, 4)
                self.matrix = nn.Parameter(torch.randn(4, 3))
                self.bias = nn.Parameter(torch.randn(3))

            def forward(self, x):
                x = x * self.scale + self.table + self.position(torch.arange(6))
                x = torch.tanh(x) * self.gate.sigmoid()
                return torch.einsum("ntd,dc->nc", x, self.matrix) / 6 + self.bias

        assert_exact(Raw(), torch.randn(samples, 6, 4))

    @pytest.mark.slow
    def test_weight_norm_and_spectral_parametrizations(self):
        model = Custom(
            lambda m, x: m.head(torch.tanh(m.body(x))),
            body=parametrizations.weight_norm(nn.Linear(4, 5)),
            head=parametrizations.spectral_norm(nn.Linear(5, 3)),
        ).eval()
        assert_exact(model, torch.randn(4, 4))

    @pytest.mark.slow
    def test_adapter_over_frozen_weights(self):
        def function(m, x):
            return m.head(torch.tanh(m.body(x) + 0.5 * m.up(m.down(x))))

        model = Custom(
            function, body=linear(4, 4), down=linear(4, 2, bias=False), up=linear(2, 4, bias=False),
            head=linear(4, 3),
        )  # fmt: skip
        model.body.requires_grad_(False)
        assert_exact(model, torch.randn(4, 4))

    def test_no_copy_of_a_parameter_escapes(self):
        """`x @ weight.T` and a slice of a parameter are uses of it."""
        model = Custom(
            lambda m, x: (x @ m.body.weight.T)[:, :3] + m.body.bias[1:4] * m.body.weight[0, 1],
            body=linear(4, 5),
        )
        assert_exact(model, torch.randn(4, 4))


@pytest.mark.parametrize("empty_first", [False, True])
def test_verification_catches_a_model_that_differs_under_the_engine(empty_first):
    """On the first samples there are, even if the first batch has none."""

    class Treacherous(MLP):
        def forward(self, x):
            wrapped = functorch.is_wrapped(x)
            return super().forward(x * 1.5 if wrapped else x)

    with pytest.raises(VerificationError) as caught:
        pool = torch.randn(4, 10).split([0, 4] if empty_first else [4])
        score_pool(Treacherous(), pool, progress=False)
    assert isinstance(caught.value, RuntimeError)


def test_coverage_error_is_a_value_error():
    assert issubclass(CoverageError, ValueError)


@pytest.mark.parametrize("pieces", [2, 4])
@pytest.mark.parametrize("reduction", oracle.REDUCTIONS)
def test_a_parameter_used_in_pieces_counts_once_and_whole(pieces, reduction):
    """Each piece by a rule of its own; as one tensor where norms of tensors are added up."""

    class Packed(nn.Module):
        def __init__(self):
            super().__init__()
            self.packed, self.head = nn.Parameter(torch.randn(6, 8)), nn.Linear(8 // pieces, 3)

        def forward(self, x):
            parts = self.packed.chunk(pieces, 1)
            return self.head(torch.tanh(sum((i + 1) * (x @ part) for i, part in enumerate(parts))))

    model, x = Packed(), torch.randn(5, 6)
    table = oracle.norms(model, oracle.ones(x))
    options = {"reduction": reduction, "verify": False, "progress": False}
    actual = score_pool(model, [x], scheme=oracle.SCHEMES, **options)
    for scheme in oracle.SCHEMES:
        assert_close_relative(actual[scheme], table.scores(scheme, reduction), 1e-5, scheme)
