"""Parameters outside of layers, in containers, shared, or made from others."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrize

from fastgradnorm import score_pool
from tests.support import oracle
from tests.support.asserts import assert_close_relative, assert_exact
from tests.support.cases import Custom, linear
from tests.support.shared_models import after


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
    @pytest.mark.slow
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

    @pytest.mark.slow
    @pytest.mark.parametrize(
        "function, shape",
        [
            pytest.param(lambda x, w: w @ x, (6, 4), id="operator"),
            pytest.param(torch.Tensor.matmul, (6, 4), id="method"),
            pytest.param(lambda x, w: torch.stack([w.mm(row) for row in x]), (6, 4), id="mm"),
            pytest.param(lambda x, w: w @ x[:, None], (1, 6, 4), id="with-groups-of-one"),
            pytest.param(lambda x, w: torch.einsum("oi,nit->not", w, x), (6, 4), id="einsum"),
            pytest.param(
                lambda x, w: torch.stack([torch.bmm(w, row.view(2, 2, 5)) for row in x]),
                (2, 3, 2), id="bmm",
            ),
        ],
    )  # fmt: skip
    def test_from_the_left_of_several_positions(self, function, shape):
        def forward(m, x):
            out = (
                function(m.weight, x) if function is torch.Tensor.matmul else function(x, m.weight)
            )
            return m.head(torch.tanh(out).reshape(len(x), 6, 5).amax(2))

        model = Custom(forward, head=linear(6, 3))
        model.weight = nn.Parameter(torch.randn(shape))
        assert_exact(model, torch.randn(3, 4, 5))

    @pytest.mark.slow
    @pytest.mark.parametrize("parameters", [1, 4])
    def test_prelu_layers(self, parameters):
        model = after(nn.PReLU(parameters), 4, before=nn.Conv2d(2, 4, 1))
        assert_exact(model, torch.randn(4, 2, 3, 3))

    @pytest.mark.slow
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

    @pytest.mark.slow
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

    @pytest.mark.slow
    def test_low_rank_over_a_frozen_weight(self):
        model = self.model()
        parametrize.register_parametrization(model.body, "weight", self.LowRank(4, 4))
        model.body.parametrizations.weight.original.requires_grad_(False)
        assert_exact(model, torch.randn(4, 4))

    @pytest.mark.slow
    def test_several_on_one_weight(self):
        model = self.model()
        parametrize.register_parametrization(model.body, "weight", self.LowRank(4, 4))
        parametrize.register_parametrization(model.body, "weight", self.Symmetric())
        assert_exact(model, torch.randn(4, 4))

    @pytest.mark.slow
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

    @pytest.mark.slow
    def test_orthogonal(self):
        model = self.model()
        nn.utils.parametrizations.orthogonal(model.body)
        assert_exact(model, torch.randn(4, 4))

    @pytest.mark.slow
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
