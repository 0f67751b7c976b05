"""Equations and determinants of one matrix a sample, each against the loop over samples."""

import pytest
import torch
from torch import nn
from torch.linalg import LinAlgError

from fastgradnorm import VerificationError, gradient_sketch, score_pool
from fastgradnorm._operations.linalg import det, logdet, lu_solve, slogdet, solve, tensorsolve
from tests.support import oracle
from tests.support.asserts import assert_close_relative
from tests.support.cases import Custom, linear, perturb

LA = torch.linalg


def covariance(a):
    return a @ a.mT + torch.eye(a.shape[-1], dtype=a.dtype)


def by_factors(a, b, **options):
    return LA.lu_solve(*LA.lu_factor(a), b, **options)


# From a matrix [1, 3, 3] of the sample, and the model, to a tensor.
OPERATIONS = {
    # Equations
    "solve": lambda m, a: LA.solve(a, a[..., :2].tanh()),
    "solve-one-side": lambda m, a: LA.solve(a, a[..., 0].tanh()),
    "solve-from-the-right": lambda m, a: LA.solve(a, a[:, :2].tanh(), left=False),
    "solve-for-a-weight": lambda m, a: LA.solve(a, m.square.weight),
    "solve-with-a-weight": lambda m, a: LA.solve(m.square.weight, a[..., :2]),
    "solve-several-sides": lambda m, a: LA.solve(a, torch.stack([a[0], a[0].tanh()])),
    "solve-several-matrices": lambda m, a: LA.solve(torch.cat([covariance(a), a]), a[0, :, :2]),
    "solve_ex": lambda m, a: LA.solve_ex(a, a.tanh()).result,
    "solve-named": lambda m, a: LA.solve(A=a, B=a.tanh()),
    "solve-operator": lambda m, a: torch.ops.aten.linalg_solve(a, a.tanh()),
    "solve-complex": lambda m, a: torch.view_as_real(
        LA.solve(torch.complex(a, a.sin()), torch.complex(a, a.cos())[..., :2])
    ),
    "solve-under-vmap": lambda m, a: torch.func.vmap(LA.solve)(torch.cat([a, a]), a.tile(2, 1, 1)),
    "ridge": lambda m, a: LA.solve(covariance(a.mT), a.mT @ a[..., :1].tanh()),
    "newton": lambda m, a: a[..., 0] - LA.solve(covariance(a), LA.solve(a, a[..., :1]))[..., 0],
    "cayley": lambda m, a: LA.solve(
        torch.eye(3, dtype=a.dtype) + a - a.mT, torch.eye(3, dtype=a.dtype) - a + a.mT
    ),
    "tensorsolve": lambda m, a: LA.tensorsolve(a[0], a[0, 0]),
    "tensorsolve-dims": lambda m, a: LA.tensorsolve(covariance(a)[0, ..., None], a[0, 0], (0,)),
    "lu_solve": lambda m, a: by_factors(a, a[..., :2].tanh()),
    "lu_solve-adjoint": lambda m, a: by_factors(a, a[..., :2].tanh(), adjoint=True),
    "lu_solve-from-the-right": lambda m, a: by_factors(a, a[:, :2].tanh(), left=False),
    "lu_solve-several-sides": lambda m, a: by_factors(a, torch.stack([a[0], a[0].tanh()])),
    # Determinants
    "det": lambda m, a: LA.det(a),
    "det-method": lambda m, a: a.det(),
    "det-of-a-weight": lambda m, a: a * m.square.weight.det(),
    "det-singular": lambda m, a: LA.det(a[..., :1] @ a[:, :1] + a.new_tensor([0, 0, 1]).diag()),
    "det-operator": lambda m, a: torch.ops.aten.det(a),
    "det-complex": lambda m, a: torch.view_as_real(LA.det(torch.complex(a, a.sin()))),
    "logdet": lambda m, a: torch.logdet(covariance(a)),
    "logdet-method": lambda m, a: covariance(a).logdet(),
    "slogdet": lambda m, a: LA.slogdet(a).logabsdet,
    "slogdet-sign": lambda m, a: torch.slogdet(a)[0] * torch.slogdet(a)[1],
    "gaussian": lambda m, a: (
        LA.slogdet(covariance(a))[1] + a[:, 0] @ LA.solve(covariance(a), a[..., 1:])[0]
    ),
    # Right all along, and to stay so
    "inv": lambda m, a: LA.inv(a),
    "pinv": lambda m, a: LA.pinv(a),
    "cholesky_solve": lambda m, a: torch.cholesky_solve(a, LA.cholesky(covariance(a))),
    "cholesky_inverse": lambda m, a: torch.cholesky_inverse(LA.cholesky(covariance(a))),
    "solve_triangular": lambda m, a: LA.solve_triangular(a.tril(), a.tanh(), upper=False),
    "lstsq": lambda m, a: LA.lstsq(a, a.tanh()).solution,
    "eigvalsh": lambda m, a: LA.eigvalsh(covariance(a)),
    "svdvals": lambda m, a: LA.svdvals(a),
    "qr": lambda m, a: LA.qr(a).R,
    "matrix_exp": lambda m, a: LA.matrix_exp(a),
    "matrix_power": lambda m, a: LA.matrix_power(a, -2),
    "lu_factor": lambda m, a: LA.lu_factor(a).LU,
    "normal": lambda m, a: torch.distributions.MultivariateNormal(
        a[:, 0], covariance(a)
    ).log_prob(a[:, 1]),
}  # fmt: skip
WRONG_BEFORE = ["solve", "lu_solve", "tensorsolve", "ridge", "slogdet", "logdet", "gaussian"]


def model_of(operation):
    def one(m, x):
        made = operation(m, m.body(x).view(1, 3, 3)).reshape(1, -1)
        return m.head(torch.tanh(m.widen(made)))

    def forward(m, x):
        return torch.cat([one(m, row) for row in x.split(1)])

    body, square = linear(4, 9), linear(3, 3)
    with torch.no_grad():
        body.weight.mul_(0.5)
        body.bias.copy_((2 * torch.eye(3) + 0.3 * torch.randn(3, 3)).flatten())
        square.weight.add_(2 * torch.eye(3))
    model = Custom(forward, body=body, square=square, head=linear(5, 3))
    with torch.no_grad():
        model.widen = nn.Identity()
        made = operation(model, body(torch.randn(1, 4)).view(1, 3, 3)).numel()
    model.widen = linear(made, 5)
    return model.double()


@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")
@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS.keys())
def test_three_samples_at_once(operation):
    model, x = model_of(operation), torch.randn(3, 4).double()
    expected = oracle.norms(model, oracle.ones(x))
    scores = score_pool(model, [x], scheme=oracle.SCHEMES, verify=False, progress=False)
    for scheme in oracle.SCHEMES:
        assert_close_relative(scores[scheme], expected.scores(scheme), 1e-10, scheme)


@pytest.mark.slow
@pytest.mark.parametrize("name", WRONG_BEFORE)
def test_a_first_batch_of_one_sample_and_float32(name):
    model, x = model_of(OPERATIONS[name]).float(), torch.randn(7, 4)
    expected = oracle.scores(model, oracle.ones(x))
    scores = score_pool(model, [x[:1], x[1:]], progress=False)
    assert_close_relative(scores, expected, 1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", WRONG_BEFORE)
def test_a_sketch_does_not_depend_on_the_batch(name):
    model, x = model_of(OPERATIONS[name]), torch.randn(4, 4).double()
    alone = gradient_sketch(model, x.split(1), dim=16, progress=False)
    together = gradient_sketch(model, [x], dim=16, progress=False)
    assert torch.allclose(alone, together, rtol=1e-9, atol=1e-12)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::fastgradnorm.SlowPathWarning")
@pytest.mark.parametrize("operation", [
    lambda a: torch.func.vmap(torch.func.jacrev(lambda t: LA.solve(t, t[:, :1].tanh())))(a),
    lambda a: torch.func.grad(lambda t: torch.logdet(covariance(t)).sum())(a),
    lambda a: torch.func.grad(LA.det)(a[0]),
])  # fmt: skip
def test_derivatives_of_the_models_own(operation):
    model, x = model_of(lambda m, a: operation(a)), torch.randn(3, 4).double()
    expected = oracle.scores(model, oracle.ones(x))
    assert_close_relative(score_pool(model, [x], progress=False), expected, 1e-10)


class TestForms:
    """What stands for PyTorch's, outside of transforms."""

    @pytest.mark.parametrize("shapes", [
        ((3, 3), (3, 2)), ((3, 3), (3,)), ((2, 3, 3), (2, 3)), ((2, 3, 3), (3, 2)),
        ((3, 3), (4, 3, 2)), ((2, 1, 3, 3), (4, 3, 5)),
    ], ids=str)  # fmt: skip
    @pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
    def test_solve(self, shapes, dtype):
        a, b = (torch.randn(shape, dtype=dtype) for shape in shapes)
        assert torch.allclose(solve(a, b), LA.solve(a, b))
        given = a.requires_grad_(), b.requires_grad_()
        actual = torch.autograd.grad(solve(a, b).abs().sum(), given)
        expected = torch.autograd.grad(LA.solve(a, b).abs().sum(), given)
        assert all(torch.allclose(x, y) for x, y in zip(actual, expected, strict=True))

    @pytest.mark.parametrize("left", [True, False])
    @pytest.mark.parametrize("adjoint", [True, False])
    @pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
    def test_lu_solve(self, left, adjoint, dtype):
        a, b = torch.randn(2, 3, 3, dtype=dtype), torch.randn(2, 3, 3, dtype=dtype)
        options = {"left": left, "adjoint": adjoint}
        expected = LA.lu_solve(*LA.lu_factor(a), b, **options)
        assert torch.allclose(lu_solve(*LA.lu_factor(a), b, **options), expected)

    def test_tensorsolve(self):
        a, b = torch.randn(2, 3, 6).double(), torch.randn(2, 3).double()
        assert torch.allclose(tensorsolve(a, b), LA.tensorsolve(a, b))
        a, b = torch.randn(2, 6, 3).double(), torch.randn(6).double()
        assert torch.allclose(tensorsolve(a, b, (0, 2)), LA.tensorsolve(a, b, (0, 2)))

    @pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
    def test_determinants(self, dtype):
        a = torch.randn(4, 3, 3, dtype=dtype).requires_grad_()
        pairs = [(det, LA.det), (slogdet, LA.slogdet), (logdet, torch.logdet)]
        for ours, theirs in pairs:
            actual, expected = ours(a), theirs(a)
            if ours is slogdet:
                assert torch.allclose(actual.sign, expected.sign)
                actual = actual.sign * actual.logabsdet
                expected = expected.sign * expected.logabsdet
            assert torch.allclose(actual, expected, equal_nan=True)
            keep = ~expected.isnan()  # logdet has no value where the determinant is negative
            assert keep.any()
            (actual,), (expected,) = (
                torch.autograd.grad((z[keep] * (1 + z[keep].detach())).abs().sum(), a)
                for z in (actual, expected)
            )
            assert torch.allclose(actual, expected)

    def test_a_singular_matrix_is_refused_as_pytorch_refuses_it(self):
        model = Custom(
            lambda m, x: m.head(LA.solve(m.body(x).view(1, 1, 1) * 0 + torch.zeros(3, 3), x.mT).mT),
            body=linear(3, 1), head=linear(3, 2),
        )  # fmt: skip
        with pytest.raises((ValueError, LinAlgError), match=r"[Ss]ingular"):
            score_pool(model, [torch.randn(2, 3)], progress=False)


class TestVerification:
    """A rule that is right for one sample alone."""

    @pytest.fixture
    def model(self, monkeypatch):
        from fastgradnorm._engine.passes import Passes

        exact = Passes.each

        def wrong(passes, name, plan, batch, function, *given):
            found = exact(passes, name, plan, batch, function, *given)
            made = lambda t: 1.5 * t if len(batch) > 1 else t  # noqa: E731
            return torch.utils._pytree.tree_map_only(torch.Tensor, made, found)

        monkeypatch.setattr(Passes, "each", wrong)
        return perturb(nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 3)))

    @pytest.mark.parametrize("sizes", [[4, 4], [1, 7], [1, 1, 2, 4], [1, 0, 3, 4]], ids=str)
    def test_it_rests_on_two_samples_as_soon_as_there_are(self, model, sizes):
        with pytest.raises(VerificationError, match="disagrees"):
            score_pool(model, torch.randn(8, 4).split(sizes), progress=False)

    def test_batches_of_one_are_verified_with_a_second_sample(self, model):
        with pytest.raises(VerificationError, match="disagrees"):
            score_pool(model, torch.randn(8, 4).split(1), progress=False)
