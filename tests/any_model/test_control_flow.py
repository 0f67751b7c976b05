"""Models that branch on tensors: samples that agree run together, the others apart, in order."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fastgradnorm import UnsupportedModelError, naive_score_pool, score_pool
from tests.support import oracle
from tests.support.asserts import assert_close_relative, assert_exact
from tests.support.cases import Custom, linear
from tests.support.shared_models import Branching

# Samples that decide by values of their own decide for the whole batch in it: that is told.
_TOLD = pytest.mark.filterwarnings("ignore::fastgradnorm.BatchDependenceWarning")
pytestmark = [_TOLD, pytest.mark.slow]


def contains(x):
    return 1.0 in x.sign()


CONDITIONS = {
    "all": lambda x: (x > -1).all(),
    "any": lambda x: (x > 1).any(),
    "not": lambda x: not (x[:, 0] > 0).all(),
    "and": lambda x: (x[:, 0] > 0).all() and (x[:, 1] > 0).all(),
    "item": lambda x: x[:, 0].sign().sum().item() > 0,
    "int": lambda x: int(x[:, 0].sign().sum()) > 0,
    "float": lambda x: float(x[:, 0].sign().sum()) > 0,
    "bool": lambda x: bool(x[:, 0].sum() > 0),
    "index": lambda x: [False, True][(x[:, 0].sum() > 0).long()],
    "range": lambda x: len(range((x[:, 0].sum() > 0).long())) == 1,
    "is-nonzero": lambda x: torch.is_nonzero((x > 1).any()),
    "equal": lambda x: torch.equal(x[:, :2].sign(), x[:, 2:].sign()),
    "allclose": lambda x: torch.allclose(x[:, :2].sign(), x[:, 2:].sign()),
    "contains": contains,
    "tolist": lambda x: x[:, :1].sign().tolist()[0][0] > 0,
    "max-of-counts": lambda x: max((x > 0).sum(1)) > 2,
    "python-sum": lambda x: sum(x[0].sign()) > 0,
    "compared-with-a-parameter-free-tensor": lambda x: (x.sum() > torch.tensor(0.5)).any(),
}


class TestTwoBranches:
    @pytest.mark.slow
    @pytest.mark.parametrize("choose", CONDITIONS.values(), ids=CONDITIONS.keys())
    def test_samples_that_disagree_come_back_in_order_and_exact(self, choose):
        x = torch.randn(200, 4)
        x[::5, :2] = x[::5, 2:]
        taken = torch.tensor([bool(choose(row)) for row in x.split(1)])
        # Batches of three: one, the other, both.
        order = [*taken.nonzero()[:4, 0], *(~taken).nonzero()[:4, 0]]
        x = x[torch.stack(order)[torch.tensor([0, 4, 1, 2, 3, 5, 6, 7])]]
        assert_exact(Branching(choose), x)

    @pytest.mark.parametrize("choose", [CONDITIONS["any"], CONDITIONS["int"]])
    def test_batch_size_order_and_company_change_nothing(self, choose):
        model, x = Branching(choose).double(), torch.randn(12, 4).double()
        expected = oracle.scores(model, oracle.ones(x))
        for size in (1, 2, 5, 12):
            order = torch.randperm(12)
            scores = score_pool(model, x[order].split(size), verify=False, progress=False)
            assert_close_relative(scores, expected[order], 1e-12)

    @pytest.mark.parametrize("params", ["all", "last_layer"])
    def test_a_batch_of_which_the_first_sample_differs(self, params):
        """The plan is made from a sample that uses other layers than the rest do."""
        model, x = Branching(CONDITIONS["all"]), torch.randn(6, 4).abs()
        x[0] = -2.0
        expected = oracle.scores(
            model, oracle.ones(x), keep=lambda n: params == "all" or n.startswith("head")
        )
        scores = score_pool(model, [x], params=params, progress=False)
        assert_close_relative(scores, expected, 1e-5)
        scores = score_pool(model, x.split(1), params=params, progress=False)
        assert_close_relative(scores, expected, 1e-5)

    def test_logits_that_some_samples_change(self):
        """The last layer's output is the logits for the first sample, not for all of them."""

        def forward(m, x):
            z = m.head(torch.tanh(x))
            return z if (x[:, 0] > 0).all() else 2 * z + 1

        model, x = Custom(forward, head=linear(4, 3)), torch.randn(8, 4)
        x[0] = 1.0
        expected = oracle.norms(model, oracle.ones(x))
        for params in ("last_layer", "all"):
            scores = score_pool(model, [x], params=params, scheme=oracle.SCHEMES, progress=False)
            for scheme in oracle.SCHEMES:
                assert_close_relative(scores[scheme], expected.scores(scheme), 1e-5, scheme)

    def test_a_layer_that_some_samples_detach(self):
        def forward(m, x):
            y = torch.tanh(m.body(x))
            return m.head(y.detach() if (x[:, 0] > 0).all() else y)

        def quiet(m, x):
            with torch.set_grad_enabled(torch.is_grad_enabled() and not bool((x[:, 0] > 0).all())):
                y = torch.tanh(m.body(x) * m.scale.sum())
            return m.head(y)

        x = torch.randn(8, 4)
        x[0] = 1.0
        assert_exact(Custom(forward, body=linear(4, 4), head=linear(4, 3)), x)
        model = Custom(quiet, body=linear(4, 4), head=linear(4, 3))
        model.scale = nn.Parameter(torch.rand(4))
        assert_exact(model, x)

    @pytest.mark.parametrize("size", [1, 8])
    def test_the_plain_loop_counts_the_layers_of_every_sample(self, size):
        model, x = Branching(CONDITIONS["all"]), torch.randn(8, 4).abs()
        x[0] = -2.0
        expected = oracle.scores(model, oracle.ones(x))
        scores = naive_score_pool(model, x.split(size))
        assert_close_relative(scores, expected, 1e-5)

    @pytest.mark.slow
    def test_a_layer_used_twice_by_some_samples(self):
        def forward(m, x):
            x = torch.tanh(m.body(x))
            if (x[:, 0] > 0).all():
                x = torch.tanh(m.body(x))
            return m.head(x)

        x = torch.randn(8, 4)
        assert_exact(Custom(forward, body=linear(4, 4), head=linear(4, 3)), x)
        assert_exact(Custom(forward, body=linear(4, 4), head=linear(4, 3)), x.flip(0))

    def test_a_layer_that_some_samples_leave_out(self):
        """An early exit, whose logits come from another head."""

        def forward(m, x):
            x = torch.tanh(m.body(x))
            early = m.early(x)
            if early.softmax(-1).amax() > 0.5:
                return early
            return m.head(torch.tanh(m.deep(x)))

        model = Custom(
            forward, body=linear(4, 4), early=linear(4, 3), deep=linear(4, 4), head=linear(4, 3)
        )
        x = 2 * torch.randn(24, 4)
        with torch.no_grad():
            early = model.early(torch.tanh(model.body(x))).softmax(-1).amax(-1) > 0.5
        assert 0 < early.sum() < 24
        assert_exact(model, x)

    def test_a_branch_on_a_parameter_and_on_a_buffer(self):
        def forward(m, x):
            x = m.body(x) if (m.body.weight.sum() > 0) else torch.tanh(m.body(x))
            x = x if m.flag else torch.sin(x)
            return m.head(x * float(m.body.bias.sum() > 0))

        model = Custom(forward, body=linear(4, 4), head=linear(4, 3))
        nn.init.ones_(model.body.bias)
        model.register_buffer("flag", torch.tensor(False))
        assert_exact(model, torch.randn(5, 4))

    def test_classes_of_different_sizes_are_told(self):
        def forward(m, x):
            return m.head(x) if (x[:, 0] > 0).all() else m.other(x)

        model = Custom(forward, head=linear(4, 3), other=linear(4, 2))
        x = torch.randn(6, 4)
        try:
            scores = score_pool(model, [x], progress=False)
        except (UnsupportedModelError, ValueError, RuntimeError) as error:
            assert str(error)
        else:
            each = [oracle.scores(model, [sample]) for sample in oracle.ones(x)]
            assert_close_relative(scores, torch.cat(each), 1e-5)


class TestNested:
    class Deep(nn.Module):
        """A branch in each layer, on what the layer before it returned."""

        def __init__(self, layers=4):
            super().__init__()
            self.layers = nn.ModuleList(Branching(self.positive) for _ in range(layers))
            for layer in self.layers:
                layer.head = linear(4, 4)
            self.head = linear(4, 3)

        @staticmethod
        def positive(x):
            return x[:, 0].sum() > 0

        def forward(self, x):
            for layer in self.layers:
                x = layer(x)
            return self.head(x)

    @pytest.mark.slow
    def test_branches_of_every_layer(self):
        x = torch.randn(24, 4)
        model = self.Deep()
        expected = oracle.scores(model, oracle.ones(x))
        assert_close_relative(score_pool(model, [x], progress=False), expected, 1e-5)
        assert_exact(model, x[:9])

    def test_a_branch_within_a_branch(self):
        def forward(m, x):
            if (x[:, 0] > 0).all():
                x = m.a(x) if (x[:, 1] > 0).any().item() else m.b(x)
            elif int((x > 0).sum()) > 1:
                x = m.c(x)
            return m.head(torch.tanh(x))

        model = Custom(forward, a=linear(4, 4), b=linear(4, 4), c=linear(4, 4), head=linear(4, 3))
        x = torch.randn(20, 4)
        expected = oracle.scores(model, oracle.ones(x))
        assert_close_relative(score_pool(model, [x], progress=False), expected, 1e-5)

    def test_a_number_of_steps_that_depends_on_the_sample(self):
        """Rows of three steps, of two, and of one: three groups."""

        def forward(m, x):
            for _ in range(int((x > 0).sum())):
                x = torch.tanh(m.body(x))
            return m.head(x)

        model = Custom(forward, body=linear(4, 4), head=linear(4, 3))
        x = torch.randn(20, 4)
        expected = oracle.scores(model, oracle.ones(x))
        assert_close_relative(score_pool(model, [x], progress=False), expected, 1e-5)

    def test_slices_whose_length_depends_on_the_sample(self):
        """Padding cut off by the longest text, as some models do themselves."""

        def forward(m, ids):
            length = int((ids != 0).sum(1).max())
            return m.head(torch.tanh(m.embed(ids[:, :length])).mean(1))

        model = Custom(forward, embed=nn.Embedding(6, 4), head=linear(4, 3))
        ids = torch.randint(1, 6, (9, 5)) * (torch.arange(5) < torch.randint(1, 6, (9, 1)))
        assert_exact(model, ids)


@pytest.mark.parametrize("also_outside", [False, True])
def test_a_model_that_calls_vmap_itself(also_outside):
    """Over heads that share a weight, which may be used outside of it too."""

    def forward(m, x):
        heads = x.unflatten(-1, (3, 4))  # [B, H, D]
        each = torch.func.vmap(lambda h: F.linear(h, m.body.weight, m.body.bias), 1, 1)(heads)
        if also_outside:
            each = each + m.body(heads.sin())
        return m.head(each.tanh().flatten(1))

    model = Custom(forward, body=linear(4, 4), head=linear(12, 3))
    assert_exact(model, torch.randn(6, 12))


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("width", [8, 1100], ids=["small", "large"])
def test_a_model_that_takes_derivatives_itself(frozen, width):
    """An energy's gradient by the input, moved along; its parameters count, or are behind no_grad.

    In the second width the linear layer is large enough for a product of its own.
    """

    def forward(m, x):
        def energy(x):
            return m.scale * torch.tanh(m.body(x)).sum()

        with torch.set_grad_enabled(not frozen):
            moved = torch.func.grad(energy)(x)
        return m.head(x + moved)

    inputs = 8 if width == 8 else 1000
    modules = {"body": linear(inputs, width), "head": linear(inputs, 3)}
    model = Custom(forward, **modules, scale=nn.Parameter(torch.tensor(0.1)))
    if frozen:
        model.body.requires_grad_(False)
        model.scale.requires_grad_(False)
    assert_exact(model, torch.randn(4, inputs))


def test_a_model_that_forbids_hooks_in_its_own_words():
    """What forbids the hooks that measure memory is told by what happens, not by what it says."""

    def forward(m, x):
        with torch.autograd.graph.disable_saved_tensors_hooks("not in this house"):
            return m.head(torch.tanh(m.body(x)))

    assert_exact(Custom(forward, body=linear(4, 5), head=linear(5, 3)), torch.randn(4, 4))


def test_a_model_that_fails_with_or_without_hooks_is_named():
    class Failing(nn.Module):
        def forward(self, x):
            raise RuntimeError("this model does not support saved tensor hooks")

    model = Custom(lambda m, x: m.body(m.head(x)), head=linear(4, 3), body=Failing())
    with pytest.raises(ValueError, match=r"failed in `model\.body` \(Failing\)"):
        score_pool(model, [torch.randn(2, 4)], progress=False)
