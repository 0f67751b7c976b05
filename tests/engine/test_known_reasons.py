"""Samples are scored one by one where the model cannot run otherwise; all else is raised."""

import warnings

import pytest
import torch
from fastgradnorm_kernels.functorch import current_level
from torch import nn

from fastgradnorm import (
    KernelError,
    Rule,
    SlowPathWarning,
    gradient_sketch,
    naive_score_pool,
    register_rule,
    score_pool,
)
from fastgradnorm._engine import outcome, tapped
from fastgradnorm._operations import norms
from fastgradnorm._schemes import objective
from tests.support.cases import MLP

X = torch.ones(3, 10) * torch.arange(1.0, 4.0)[:, None]
ERRORS = {
    "runtime": RuntimeError("wrong shape"),
    "in vmap's words": RuntimeError("vmap: it looks like you are calling .item() on a Tensor."),
    "not implemented": NotImplementedError("no such kernel"),
}
errors = pytest.mark.parametrize("error", ERRORS.values(), ids=ERRORS)


def raising(error):
    def function(*args, **kwargs):
        raise error

    return function


def scored(model, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("error", SlowPathWarning)
        return score_pool(model, [X], progress=False, **options)


@errors
@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize(
    "owner, name",
    [
        (objective, "posterior"),
        (objective, "unit_sized"),
        (outcome, "total_norms"),
        (tapped.TappedPass, "_by_parameter"),
        (tapped.TappedPass, "_zeros"),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_errors_of_the_engine_are_raised(owner, name, verify, error, monkeypatch):
    monkeypatch.setattr(owner, name, raising(error))
    with pytest.raises(type(error)) as caught:
        scored(MLP(), verify=verify)
    assert caught.value is error


@errors
@pytest.mark.parametrize("options", [{"params": "last_layer"}, {"rtol": 0.1}], ids=str)
def test_also_of_closed_forms_and_of_rounds(options, error, monkeypatch):
    monkeypatch.setattr("fastgradnorm._engine.outcome.head_scores", raising(error))
    monkeypatch.setattr("fastgradnorm._engine.rtol.posterior", raising(error))
    with pytest.raises(type(error)) as caught:
        scored(MLP(), verify=False, **options)
    assert caught.value is error


@torch.overrides.wrap_torch_function(lambda x, gain: (x, gain))
def amplify(x, gain):
    return x * gain


class Amplified(MLP):
    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(()))

    def forward(self, x):
        return super().forward(amplify(x, self.gain))


@errors
@pytest.mark.parametrize("verify", [True, False])
def test_errors_of_a_rule_name_it(verify, error):
    def rule(call):
        return Rule(slots=("gain",), saved=(call["x"],), sq_norms=raising(error))

    register_rule(amplify, rule, names=["x", "gain"])
    with pytest.raises(KernelError, match=r"rule of `amplify` failed") as caught:
        scored(Amplified(), verify=verify)
    assert caught.value.__cause__ is error


def test_errors_of_our_own_rules_name_them_too(monkeypatch):
    normalize = raising(RuntimeError("mixed dtypes"))
    monkeypatch.setattr(norms.kernels, "batch_norm_sq_norm", normalize)  # what the rule calls
    model = nn.Sequential(nn.Linear(10, 4), nn.BatchNorm1d(4), nn.Linear(4, 3)).eval()
    with pytest.raises(KernelError, match=r"rule of `batch_norm` failed.*mixed dtypes"):
        scored(model)


class Failing(MLP):
    """Fails where it does not run alone: forward, or back."""

    def __init__(self, where, error):
        super().__init__()
        self.where, self.error = where, error

    def forward(self, x):
        nested = current_level() is not None
        if nested and self.where == "forward":
            raise self.error
        if nested and self.where == "backward":
            return self.hooked(super().forward(x))
        return super().forward(x)

    def hooked(self, x):
        error = self.error

        class Backwards(torch.autograd.Function):
            generate_vmap_rule = True

            @staticmethod
            def forward(x):
                return x.clone()

            @staticmethod
            def setup_context(ctx, inputs, output):
                pass

            @staticmethod
            def backward(ctx, g):
                raise error

        return Backwards.apply(x)


@pytest.mark.slow
@pytest.mark.parametrize("error", [*ERRORS.values(), IndexError("no such place")], ids=repr)
@pytest.mark.parametrize("where", ["forward", "backward"])
def test_errors_of_the_model_lead_to_the_loop(where, error):
    model = Failing(where, error)
    with pytest.warns(SlowPathWarning, match="one by one"):
        actual = score_pool(model, [X], progress=False)
    torch.testing.assert_close(actual, naive_score_pool(model, [X]), rtol=1e-5, atol=0)
    with pytest.warns(SlowPathWarning, match="sketched one by one"):
        sketches = gradient_sketch(model, [X], 4, progress=False)
    plain = MLP()
    plain.load_state_dict(model.state_dict())
    torch.testing.assert_close(sketches, gradient_sketch(plain, [X], 4, progress=False))


def test_other_errors_of_the_model_are_its_own():
    with pytest.raises(ZeroDivisionError):
        scored(Failing("forward", ZeroDivisionError()), verify=False)
