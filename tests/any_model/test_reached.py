"""A pass that leaves out what its plan counts is an error, whatever hid it."""

import pytest
import torch
from fastgradnorm_kernels import functorch
from torch import nn

from fastgradnorm import CoverageError, Options, VerificationError, score_pool
from fastgradnorm._model.batches import as_batch
from fastgradnorm._pool import make_engine
from tests.any_model.test_casts import CASTS, PLACES
from tests.support import oracle
from tests.support.asserts import assert_close_relative
from tests.support.cases import Custom, linear

# Samples that decide by values of their own decide for the whole batch in it: that is told.
pytestmark = pytest.mark.filterwarnings("ignore::fastgradnorm.BatchDependenceWarning")


class TestEveryTapIsReached:
    """What a pass leaves out is an error, whatever hid it."""

    @pytest.fixture
    def hidden(self, monkeypatch):
        """A cast that the engine knows nothing of."""
        from fastgradnorm._engine import taps
        from fastgradnorm._model import handed

        monkeypatch.setattr(handed, "_CASTS", frozenset())
        monkeypatch.setattr(taps, "constant", lambda func, args, kwargs, output: (output,))

    @pytest.mark.parametrize("build", PLACES[:5])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    @pytest.mark.parametrize("verify", [True, False])
    def test_a_lost_parameter_is_refused(self, hidden, build, dtype, verify):
        model, x = build(CASTS["to-its-dtype"]).to(dtype), torch.randn(5, 4, dtype=dtype)
        with pytest.raises((CoverageError, VerificationError), match=r"parameters|disagrees"):
            score_pool(model, [x], verify=verify, progress=False)

    def test_a_pull_back_that_does_not_come_by(self):
        """A tap whose output the logits depend on when the model is planned, but not later."""
        calls = []

        def forward(m, x):
            calls.append(1)
            y = torch.tanh(m.body(x))
            return m.head(y if len(calls) == 1 else y.detach())

        model, x = Custom(forward, body=linear(4, 4), head=linear(4, 3)), torch.randn(5, 4)
        engine = make_engine(model, Options(progress=False))
        engine.plan(as_batch(x, torch.device("cpu")))
        assert len(engine._plans) == 1
        engine.score(as_batch(x, torch.device("cpu")))
        (known,) = engine._plans.values()
        assert [plan.coverage.reached for plan in known] == [{0, 1}, {0}]  # body and head; head

    def test_a_leftover_that_is_not_reached(self):
        def forward(m, x):
            y = torch.tanh(m.body(x) * m.scale.exp())
            planning = functorch.current_level() is None
            return m.head(y if planning else y.detach())

        model, x = Custom(forward, body=linear(4, 4), head=linear(4, 3)), torch.randn(5, 4)
        model.scale = nn.Parameter(torch.randn(4))
        with pytest.raises(CoverageError, match="differently each time"):
            score_pool(model, [x], verify=False, progress=False)

    @pytest.mark.slow
    def test_samples_that_use_less_are_no_error(self):
        def forward(m, x):
            for _ in range(1 + int((x[:, 0] > 0).all()) + int((x[:, 1] > 0).all())):
                x = torch.tanh(m.body(x))
            with torch.set_grad_enabled(torch.is_grad_enabled() and bool((x[:, 2] > 0).all())):
                y = m.other(x)
            return m.head(y + x)

        model = Custom(forward, body=linear(4, 4), other=linear(4, 4), head=linear(4, 3))
        x = torch.randn(20, 4)
        expected = oracle.scores(model, oracle.ones(x))
        assert_close_relative(score_pool(model, [x], progress=False), expected, 1e-5)

    def test_what_uses_less_is_noticed_before_anything_is_pulled_back(self, monkeypatch):
        from fastgradnorm._engine import coverage

        found, check = [], coverage.Coverage.check_pulled
        monkeypatch.setattr(
            coverage.Coverage,
            "check_pulled",
            lambda coverage, reached: (found.append(reached), check(coverage, reached)),
        )

        def forward(m, x):
            y = torch.tanh(m.body(x))
            return m.head(y + torch.tanh(m.body(y)) if (x[:, 0] > 0).all() else y)

        model, x = Custom(forward, body=linear(4, 4), head=linear(4, 3)), torch.randn(4, 4)
        x[:2, 0], x[2:, 0] = 1.0, -1.0
        score_pool(model, x.split(2), verify=False, scheme="entropy", progress=False)
        # The bias of both uses has no rule; samples of both branches are gathered, and then split.
        assert sorted(found, key=len) == [{0, 1}, {0, 1, 2, "body.bias"}]

    @pytest.mark.slow
    @pytest.mark.parametrize("kind", [torch.float64, torch.float16])
    def test_the_same_call_with_a_gradient_for_some_samples(self, kind):
        """Casts to integers have none."""

        def forward(m, x):
            to = torch.long if (x[:, 0] > 0).all() else kind
            return m.head(torch.tanh(m.body(x))) * m.body.weight.to(to).sum().to(x.dtype)

        model, x = Custom(forward, body=linear(4, 4), head=linear(4, 3)), torch.randn(6, 4)
        x[:3, 0], x[3:, 0] = 1.0, -1.0
        with torch.no_grad():
            model.body.weight.add_(1.5)
        expected = oracle.scores(model, oracle.ones(x))
        scores = score_pool(model, x.split(3), progress=False)
        assert_close_relative(scores, expected, 1e-5 if kind == torch.float64 else 3e-3)


class TestTheSecondLook:
    """Verification in float64, after a disagreement in float32."""

    @pytest.mark.slow
    def test_it_does_not_excuse_a_gradient_that_is_missing(self, monkeypatch):
        """Right in float64, where the fault is not."""
        from fastgradnorm._engine.tapped import TappedPass

        exact = TappedPass.pull

        def lacking(run, cotangents):
            found = exact(run, cotangents)
            wide = run.logits.dtype == torch.float64
            return found if wide else found * (torch.arange(found.shape[-1]) > 0)

        monkeypatch.setattr(TappedPass, "pull", lacking)
        model, x = nn.Sequential(linear(4, 4), nn.Tanh(), linear(4, 3)).eval(), torch.randn(3, 4)
        with pytest.raises(VerificationError, match=r"`0.weight` has .*, the engine computed 0\."):
            score_pool(model, [x], progress=False)
