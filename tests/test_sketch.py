"""Sketches of whole gradients: one linear map of all samples, exact gradients under it."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fastgradnorm import NonFiniteScoreError, gradient_sketch
from tests.support import oracle
from tests.support.cases import CASES, MLP, Custom, perturb


def entropy(z):
    """Mean entropy of logits [1, C, ...]."""
    return -(z.softmax(1) * z.log_softmax(1)).sum(1).mean()


def predicted(z):
    """Mean loss of the most probable class."""
    return F.cross_entropy(z, z.argmax(1))


LOSSES = {"entropy": entropy, "predicted": predicted}


def gradients(model, inputs, loss):
    """Gradients [N, P] over all parameters, by a float64 autograd loop."""
    model = copy.deepcopy(model).double().eval()
    parameters = [p for p in model.parameters() if p.requires_grad]
    rows = []
    for x in oracle.ones(oracle.in_float64(inputs)):
        found = torch.autograd.grad(loss(model(x)), parameters, allow_unused=True)
        both = zip(found, parameters, strict=True)
        rows.append(torch.cat([(g if g is not None else 0 * p).flatten() for g, p in both]))
    return torch.stack(rows)


def sketch(model, inputs, dim, seed=0, **options):
    options = {"verify": False, "progress": False, **options}
    return gradient_sketch(model, [inputs], dim, seed=seed, **options).double()


def assert_count_sketch(grads, sketches, dim):
    """`sketches = grads @ S`, with one entry ±1 in each row of S: every element counted once."""
    solution = torch.linalg.lstsq(grads, sketches, driver="gelsd").solution
    scale = sketches.abs().max()
    assert (grads @ solution - sketches).abs().max() < 1e-5 * scale
    return solution


def assert_signed_selection(solution):
    assert torch.allclose(solution, solution.round(), atol=2e-3)
    assert (solution.abs().sum(1) - 1).abs().max() < 1e-2


class Tied(nn.Module):
    """One square weight used twice, and by its transpose."""

    def __init__(self):
        super().__init__()
        self.inner, self.head = nn.Linear(3, 3, bias=False), nn.Linear(3, 2, bias=False)

    def forward(self, x):
        x = torch.tanh(self.inner(torch.tanh(self.inner(x))))
        return self.head(torch.tanh(x @ self.inner.weight))


class TestLinearMap:
    """With more samples than parameters the map can be read off."""

    @pytest.mark.slow
    @pytest.mark.parametrize("scheme", LOSSES)
    @pytest.mark.parametrize("classes", [2, 3])
    def test_every_element_has_one_bucket_and_sign(self, scheme, classes):
        model = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, classes)).double()
        inputs = 3 * torch.randn(400, 3).double()
        grads = gradients(model, inputs, LOSSES[scheme])
        solution = assert_count_sketch(grads, sketch(model, inputs, 5, scheme=scheme), 5)
        # The head's gradient has no component along equal logits: its elements are known only up
        # to that. The inner layer's are independent.
        assert_signed_selection(solution[:12])

    @pytest.mark.slow
    def test_tied_weights_are_added_up_first(self):
        model, inputs = Tied().double(), 2 * torch.randn(300, 3).double()
        grads = gradients(model, inputs, entropy)
        solution = assert_count_sketch(grads, sketch(model, inputs, 4), 4)
        assert_signed_selection(solution[:9])

    @pytest.mark.slow
    def test_frozen_parameters_and_selections(self):
        model, inputs = MLP().double(), torch.randn(500, 10).double()
        model.body[0].weight.requires_grad_(False)
        grads = gradients(model, inputs, entropy)
        assert_count_sketch(grads, sketch(model, inputs, 6), 6)
        head = grads[:, -85:]
        assert_count_sketch(head, sketch(model, inputs, 6, params="last_layer"), 6)
        by_name = sketch(model, inputs, 6, params=lambda name, p: name.startswith("head"))
        assert torch.equal(by_name, sketch(model, inputs, 6, params="last_layer"))


class TestProjection:
    @pytest.mark.slow
    def test_inner_products_are_unbiased(self):
        model, inputs = CASES["mlp"].random()
        inputs = inputs[:6]
        grads = gradients(model, inputs, predicted)
        exact = grads @ grads.T
        rows = [sketch(model, inputs, 16, seed, scheme="predicted") for seed in range(150)]
        found = torch.stack([y @ y.T for y in rows])
        error = found.std(0) / len(rows) ** 0.5
        assert ((found.mean(0) - exact).abs() < 4 * error + 1e-6 * exact.abs().max()).all()

    @pytest.mark.slow
    @pytest.mark.parametrize("name", ["mlp", "groupnorm-cnn"])
    def test_errors_shrink_with_the_root_of_dim(self, name):
        model, inputs = CASES[name].random()
        inputs = inputs[:8]
        exact = gradients(model, inputs, entropy).square().sum(1)
        rms = {}
        for dim in (32, 512):
            found = [sketch(model, inputs, dim, seed).square().sum(1) for seed in range(30)]
            rms[dim] = float((torch.stack(found) / exact - 1).square().mean().sqrt())
            assert rms[dim] < 1.3 * (2 / dim) ** 0.5
        assert 2.5 < rms[32] / rms[512] < 6.5

    @pytest.mark.slow
    @pytest.mark.parametrize("name", ["padded-cnn", "transformer", "cnn3d", "embedding-bag"])
    def test_norms_of_models(self, name):
        model, inputs = CASES[name].random()
        inputs = inputs[:3]
        exact = oracle.scores(model, oracle.ones(inputs), "entropy")
        found = gradient_sketch(model, [inputs], 2048, progress=False).double().norm(dim=1)
        assert (found / exact - 1).abs().max() < 5 * (0.5 / 2048) ** 0.5

    @pytest.mark.slow
    @pytest.mark.parametrize("scheme", LOSSES)
    def test_confident_samples_keep_their_gradients(self, scheme):
        model, inputs = CASES["mlp"].confident()
        logits = model(inputs).detach()
        table = oracle.norms(model, oracle.ones(inputs), logits=logits)
        exact = table.scores("entropy")
        if scheme == "predicted":
            at = torch.arange(len(inputs)), logits.argmax(1)
            exact = table.label_norms[at].square().sum(1).sqrt()
        found = sketch(model, inputs, 4096, scheme=scheme).norm(dim=1)
        assert exact.min() < 1e-25
        assert (found / exact - 1).abs().max() < 5 * (0.5 / 4096) ** 0.5


class TestDependsOnItsSampleAlone:
    @pytest.mark.slow
    def test_batches(self):
        model, inputs = CASES["groupnorm-cnn"].random()
        whole = gradient_sketch(model, [inputs], 64)
        assert torch.equal(whole, gradient_sketch(model, [inputs], 64))
        for size in (1, 7):
            parts = gradient_sketch(model, inputs.split(size), 64)
            errors = (parts - whole).norm(dim=1) / whole.norm(dim=1)
            assert errors.max() < 1e-5
        other = gradient_sketch(model, [inputs], 64, seed=1)
        assert not torch.allclose(other, whole, rtol=0.1)

    @pytest.mark.slow
    @pytest.mark.filterwarnings("ignore::fastgradnorm.BatchDependenceWarning")
    def test_samples_that_take_different_branches(self):
        def branch(self, x):
            if x.sum() > 0:
                x = torch.tanh(self.inner(x))
            return self.head(x)

        model = perturb(Custom(branch, inner=nn.Linear(4, 4), head=nn.Linear(4, 3)))
        inputs = torch.randn(9, 4)
        alone = torch.cat([gradient_sketch(model, [x], 32) for x in inputs.split(1)])
        assert torch.allclose(gradient_sketch(model, [inputs], 32), alone, rtol=1e-5)

    @pytest.mark.slow
    @pytest.mark.filterwarnings("ignore::fastgradnorm.BatchDependenceWarning")
    def test_samples_that_each_take_a_branch_of_their_own(self):
        model = perturb(Custom(lambda m, x: m.head(x * x.sum().item()), head=nn.Linear(4, 3)))
        inputs = torch.randn(5, 4)
        alone = torch.cat([gradient_sketch(model, [x], 32) for x in inputs.split(1)])
        assert torch.allclose(gradient_sketch(model, [inputs], 32), alone, rtol=1e-5)


class TestOutputs:
    @pytest.mark.parametrize("scheme", LOSSES)
    def test_dense(self, scheme):
        model = nn.Conv1d(2, 3, 2).double()
        inputs = torch.randn(40, 2, 6).double()
        grads = gradients(model, inputs, LOSSES[scheme])
        assert_count_sketch(grads, sketch(model, inputs, 4, scheme=scheme), 4)

    def test_masked_positions_do_not_count(self):
        model, inputs = nn.Conv1d(2, 3, 1).double(), torch.randn(40, 2, 6).double()
        valid = torch.arange(6) < 4
        found = sketch(model, inputs, 4, mask=lambda x: valid.expand(len(x), 6))
        assert torch.allclose(found, sketch(model, inputs[..., :4], 4))

    @pytest.mark.parametrize("scheme", LOSSES)
    def test_nor_do_they_of_several_labels_a_position(self, scheme):
        model, inputs = nn.Conv1d(2, 3, 1).double(), torch.randn(40, 2, 6).double()
        options = {"scheme": scheme, "likelihood": "bernoulli"}
        valid = torch.arange(6) < 4
        found = sketch(model, inputs, 4, mask=lambda x: valid.expand(len(x), 6), **options)
        assert torch.allclose(found, sketch(model, inputs[..., :4], 4, **options))

    def test_multi_label(self):
        model, inputs = nn.Linear(4, 3).double(), torch.randn(40, 4).double()

        def loss(z):
            p = z.sigmoid()
            return -(p * F.logsigmoid(z) + (1 - p) * F.logsigmoid(-z)).mean()

        found = sketch(model, inputs, 5, likelihood="bernoulli")
        solution = assert_count_sketch(gradients(model, inputs, loss), found, 5)
        assert_signed_selection(solution)

    def test_one_logit(self):
        model, inputs = nn.Linear(4, 1).double(), torch.randn(40, 4).double()

        def loss(z):
            return F.binary_cross_entropy_with_logits(z, (z > 0).double())

        found = sketch(model, inputs, 5, scheme="predicted")
        assert_signed_selection(assert_count_sketch(gradients(model, inputs, loss), found, 5))


class TestErrors:
    def test_arguments(self):
        model, batches = nn.Linear(3, 2), [torch.ones(1, 3)]
        with pytest.raises(ValueError, match="`dim` must be an integer >= 1"):
            gradient_sketch(model, batches, 0)
        with pytest.raises(ValueError, match="`scheme` must be"):
            gradient_sketch(model, batches, scheme="expected")
        with pytest.raises(ValueError, match="`reduction` must be 'global' for sketches"):
            gradient_sketch(model, batches, reduction="per_tensor")
        with pytest.raises(ValueError, match="at least one sample"):
            gradient_sketch(model, [])
        with pytest.raises(TypeError, match="`dims` is not an option"):
            gradient_sketch(model, batches, dims=3)
        with pytest.raises(ValueError, match="`subset` must be None for `gradient_sketch`"):
            gradient_sketch(model, batches, subset=1)

    def test_nan_is_told(self):
        inputs = torch.ones(3, 3)
        inputs[1] = torch.nan
        with pytest.raises(NonFiniteScoreError, match="1 of 3 sketches") as caught:
            gradient_sketch(nn.Linear(3, 2), [inputs], 4, verify=False)
        assert caught.value.indices == [1]
        kept = gradient_sketch(nn.Linear(3, 2), [inputs], 4, verify=False, on_nonfinite="keep")
        assert kept.isfinite().all(1).tolist() == [True, False, True]
        with pytest.warns(UserWarning, match="1 of 3 sketches are NaN or infinite: samples 1"):
            gradient_sketch(nn.Linear(3, 2), [inputs], 4, verify=False, on_nonfinite="warn")


@pytest.mark.parametrize("loss", ["cross_entropy", nn.CrossEntropyLoss(), "mse"])
def test_sketches_of_labelled_samples(loss):
    torch.manual_seed(5)
    model, x = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3)).eval(), torch.randn(40, 3)
    y = torch.randn(40, 3) if loss == "mse" else torch.randint(0, 3, (40,))
    wide, rows = copy.deepcopy(model).double(), []
    for one, label in zip(x.double(), y, strict=True):
        function = F.mse_loss if loss == "mse" else F.cross_entropy
        label = label.double() if loss == "mse" else label  # PyTorch 2.11 casts none
        value = function(wide(one[None]), label[None])
        rows.append(
            torch.cat([g.flatten() for g in torch.autograd.grad(value, [*wide.parameters()])])
        )
    given = {"loss": loss, "progress": False, "seed": 1}
    sketches = gradient_sketch(model, [(x[:25], y[:25]), (x[25:], y[25:])], 8, **given).double()
    solution = assert_count_sketch(torch.stack(rows), sketches, 8)
    if loss == "mse":  # gradients of the cross-entropy add up to zero over the classes
        assert_signed_selection(solution)
    with pytest.raises(ValueError, match="`scheme` must be 'loss' with a `loss`"):
        gradient_sketch(model, [(x, y)], 8, scheme="entropy", **given)
    with pytest.raises(ValueError, match="`scheme` must be 'loss' with a `loss`"):
        gradient_sketch(model, [x], 8, scheme="loss")
