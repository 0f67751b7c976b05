"""Models that cast, move, freeze or write to their parameters while they run.

Every one of these ended the process, or changed the caller's model, or was scored one by one.
"""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fastgradnorm import UnsupportedModelError, naive_score_pool, score_pool
from tests.support import oracle
from tests.support.agreement import Wide
from tests.support.asserts import assert_close_relative
from tests.support.cases import perturb
from tests.support.unchanged import assert_unchanged, snapshot


class Model(nn.Module):
    """Does something to itself first."""

    def __init__(self, action):
        super().__init__()
        self.action = action
        self.fc, self.norm, self.head = nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 3)
        self.frozen = nn.Linear(4, 4)
        self.frozen.requires_grad_(False)
        self.register_buffer("shift", torch.randn(4))

    def forward(self, x):
        self.action(self, x)
        x = self.norm(self.fc(x.to(self.fc.weight.dtype)).to(self.head.weight.dtype))
        return self.head(torch.tanh(x) + torch.tanh(self.frozen(x)) + self.shift)


def assign(parameter, value):
    parameter.data = value


def assign_each(model, x):
    for parameter in model.parameters():
        parameter.data = parameter.data.to(x.dtype)


def without_grad(function):
    def action(model, x):
        with torch.no_grad():
            function(model, x)

    return action


def freeze(parameter):
    parameter.requires_grad = False


# Nothing changes, or only a dtype, or what is not trained.
HARMLESS = {
    "module-to-dtype": lambda m, x: m.fc.to(x.dtype),
    "module-to-device": lambda m, x: m.fc.to(x.device),
    "module-to-tensor": lambda m, x: m.fc.to(x),
    "module-cpu": lambda m, x: m.fc.cpu(),
    "module-type": lambda m, x: m.fc.type(x.dtype),
    "module-memory-format": lambda m, x: m.to(memory_format=torch.channels_last),
    "whole-model-to-dtype": lambda m, x: m.to(x.dtype),
    "whole-model-to-device": lambda m, x: m.to(x.device),
    "apply": lambda m, x: m._apply(lambda t: t.clone()),
    "children": lambda m, x: [child.to(x.device) for child in m.children()],
    "head-and-buffers": lambda m, x: (m.head.to(x.dtype), m.norm.to(x.dtype)),
    "itself": lambda m, x: assign(m.fc.weight, m.fc.weight.data),
    "a-clone": lambda m, x: assign(m.fc.weight, m.fc.weight.data.clone()),
    "detached": lambda m, x: assign(m.head.bias, m.head.bias.detach()),
    "setattr": lambda m, x: setattr(m.fc.weight, "data", m.fc.weight.to(x.dtype)),
    "each-parameter": assign_each,
    "under-no_grad": without_grad(lambda m, x: assign(m.fc.weight, m.fc.weight.contiguous())),
    "vector": lambda m, x: nn.utils.vector_to_parameters(
        nn.utils.parameters_to_vector(m.parameters()), m.parameters()
    ),
    "clip": lambda m, x: nn.utils.clip_grad_norm_(m.parameters(), 1.0),
    "load": lambda m, x: m.fc.load_state_dict(m.fc.state_dict()),
    "data-times-one": lambda m, x: m.fc.weight.data.mul_(1.0),
    "data-clamped": lambda m, x: m.fc.weight.data.clamp_(-100, 100),
    "data-item": lambda m, x: m.fc.weight.data.__setitem__(0, m.fc.weight.data[0].clone()),
    "copied-to-itself": without_grad(lambda m, x: m.fc.weight.copy_(m.fc.weight)),
    "foreach": without_grad(lambda m, x: torch._foreach_mul_([*m.fc.parameters()], 1.0)),
    "out": without_grad(lambda m, x: torch.mul(m.fc.bias, 1.0, out=m.fc.bias)),
    "requires_grad_": lambda m, x: m.fc.requires_grad_(True),
    "requires_grad": lambda m, x: setattr(m.fc.weight, "requires_grad", True),
    "share_memory": lambda m, x: m.share_memory(),
    "zero_grad": lambda m, x: m.zero_grad(),
    "buffer-assigned": lambda m, x: assign(m.shift, m.shift + 1),
    "buffer-of-the-sample": lambda m, x: assign(m.shift, x[0] * 0.1),
    "frozen-assigned": lambda m, x: assign(m.frozen.weight, 0.9 * m.frozen.weight.data),
    "frozen-in-place": lambda m, x: m.frozen.weight.data.mul_(0.9).add_(0.1),
    "frozen-average": without_grad(lambda m, x: m.frozen.weight.lerp_(m.fc.weight, 0.1)),
    "frozen-copied": lambda m, x: m.frozen.weight.data.copy_(m.fc.weight.data),
}  # fmt: skip
# What the referee, in float64, must not be asked for.
CASTS = {
    "float": (lambda m, x: m.fc.float(), 1e-5),
    "double": (lambda m, x: m.fc.double(), 1e-5),
    "there-and-back": (lambda m, x: m.fc.double().float(), 1e-5),
    "bfloat16": (lambda m, x: m.fc.bfloat16(), 3e-2),
    "data-double": (lambda m, x: [assign(p, p.data.double()) for p in m.fc.parameters()], 1e-5),
}
# The parameters are others afterwards.
CHANGES = {
    "data-scaled": lambda m, x: assign(m.fc.weight, 0.9 * m.fc.weight.data),
    "data-normalised": lambda m, x: assign(m.fc.weight, F.normalize(m.fc.weight.data)),
    "data-of-the-sample": lambda m, x: assign(m.fc.weight, m.fc.weight.data * x.sum()),
    "data-in-place": lambda m, x: m.fc.weight.data.mul_(0.9),
    "data-item": lambda m, x: m.fc.weight.data.__setitem__(0, 0.0),
    "data-view": lambda m, x: m.fc.weight.data[0].zero_(),
    "data-copied": lambda m, x: m.fc.weight.data.copy_(m.head.weight.data[:1]),
    "detached-in-place": lambda m, x: m.fc.weight.detach().mul_(0.9),
    "in-place": without_grad(lambda m, x: m.fc.weight.mul_(0.9)),
    "augmented": without_grad(lambda m, x: m.fc.weight.__imul__(0.9)),
    "foreach": without_grad(lambda m, x: torch._foreach_mul_([*m.fc.parameters()], 0.9)),
    "out": without_grad(lambda m, x: torch.mul(m.fc.bias, 0.9, out=m.fc.bias)),
    "init": lambda m, x: nn.init.constant_(m.fc.bias, 0.3),
    "random": lambda m, x: m.fc.reset_parameters(),
    "empty": lambda m, x: m.fc.to_empty(device="cpu"),
    "vector": lambda m, x: nn.utils.vector_to_parameters(
        0.9 * nn.utils.parameters_to_vector(m.parameters()), m.parameters()
    ),
    "rounded": lambda m, x: assign(m.fc.weight, m.fc.weight.data.half().float()),
    "sample-into-frozen": lambda m, x: m.frozen.weight.data.copy_(x[0] * m.frozen.weight),
    "view-of-frozen": lambda m, x: m.frozen.weight.data[0].zero_(),
}  # fmt: skip


def one_by_one(model, x):
    """The referee: a copy of the caller's model for each sample, which may change it."""
    return torch.cat([oracle.scores(copy.deepcopy(model), [row]) for row in x.split(1)])


def make(action):
    model = perturb(Model(action))
    model.fc.weight.grad = torch.ones(4, 4)
    return model, torch.randn(5, 4)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::fastgradnorm.BatchDependenceWarning")
@pytest.mark.parametrize("action", HARMLESS.values(), ids=HARMLESS.keys())
def test_what_changes_nothing_is_exact_and_fast(action):
    model, x = make(action)
    expected, before = one_by_one(model, x), snapshot(model)
    for verify in (True, False):
        scores = score_pool(model, x.split(3), verify=verify, progress=False)
        assert_close_relative(scores, expected, 1e-5, f"verify={verify}")
    assert_close_relative(naive_score_pool(model, [x]), expected, 1e-5, "naive")
    assert_unchanged(before, model)


@pytest.mark.slow
@pytest.mark.parametrize("action, rtol", CASTS.values(), ids=CASTS.keys())
def test_a_cast_goes_on_being_the_parameter(action, rtol):
    model, x = make(action)
    plain = copy.deepcopy(model)
    plain.action = lambda m, x: None
    expected, before = oracle.scores(plain, oracle.ones(x)), snapshot(model)
    for verify in (True, False):
        scores = score_pool(model, [x], verify=verify, progress=False)
        assert_close_relative(scores, expected, rtol, f"verify={verify}")
    assert_unchanged(before, model)


@pytest.mark.parametrize("action", CHANGES.values(), ids=CHANGES.keys())
@pytest.mark.parametrize("verify", [True, False])
def test_what_changes_a_parameter_is_refused_by_name_before_it_does(action, verify):
    model, x = make(action)
    before = snapshot(model)
    with pytest.raises(UnsupportedModelError, match=r"Got `(fc|norm|frozen|head)\.\w+`, changed"):
        score_pool(model, [x], verify=verify, progress=False)
    assert_unchanged(before, model)


@pytest.mark.parametrize("function", [
    lambda w: w.set_(2 * w), lambda w: torch.utils.swap_tensors(w, nn.Parameter(2 * w)),
])  # fmt: skip
def test_what_pytorch_shows_to_no_mode_is_refused_too(function):
    model, x = make(without_grad(lambda m, x: function(m.fc.weight)))
    weight, before = model.fc.weight, model.fc.weight.detach().clone()
    with pytest.raises(UnsupportedModelError, match=r"Got `fc.weight`, changed"):
        score_pool(model, [x], progress=False)
    assert model.fc.weight is weight
    assert torch.equal(weight, before)


@pytest.mark.parametrize("first", [True, False])
def test_a_change_that_some_samples_make(first):
    def action(m, x):
        if (x[:, 0] > 0).all():
            m.fc.weight.data.mul_(0.9)

    model, x = make(action)
    x[:, 0] = -1.0
    x[0 if first else 3, 0] = 1.0
    before = snapshot(model)
    for params in ("all", "last_layer"):
        with pytest.raises(UnsupportedModelError, match=r"Got `fc.weight`, changed"):
            score_pool(model, [x], params=params, verify=False, progress=False)
        assert_unchanged(before, model)


@pytest.mark.slow
@pytest.mark.parametrize("action", [
    lambda m, x: m.fc.requires_grad_(False), lambda m, x: freeze(m.fc.weight),
    lambda m, x: m.fc.weight.detach_(), lambda m, x: [freeze(p) for p in m.fc.parameters()],
    without_grad(lambda m, x: m.norm.requires_grad_(False)),
])  # fmt: skip
def test_what_is_frozen_while_the_model_runs_counts_no_more(action):
    model, x = make(action)
    frozen = copy.deepcopy(model)
    action(frozen, x)
    frozen.action = lambda m, x: None
    expected, before = oracle.scores(frozen, oracle.ones(x)), snapshot(model)
    assert_close_relative(score_pool(model, [x], progress=False), expected, 1e-5)
    assert_unchanged(before, model)


@pytest.mark.slow
def test_activations_whose_data_are_assigned_to():
    class Scaled(nn.Sequential):
        def forward(self, x):
            h = self[0](x)
            h.data = 2 * h.data
            return self[1](torch.tanh(h))

    model, x = perturb(Scaled(nn.Linear(4, 4), nn.Linear(4, 3))), torch.randn(5, 4)
    expected = oracle.scores(model, oracle.ones(x))
    with pytest.warns(UserWarning, match="one by one"):
        assert_close_relative(score_pool(model, [x], progress=False), expected, 1e-5)


class Router(nn.Module):
    """A gate in float32 in a model of half precision, as Switch Transformers have it."""

    def __init__(self):
        super().__init__()
        self.body, self.gate, self.head = nn.Linear(6, 6), nn.Linear(6, 2), nn.Linear(6, 3)

    def forward(self, x):
        x = torch.tanh(self.body(x))
        self.gate = self.gate.to(torch.float32)
        p = self.gate(x.to(torch.float32)).softmax(-1).to(x.dtype)
        return self.head(torch.tanh(x * p[:, :1] + x.flip(-1) * p[:, 1:]))


@pytest.mark.slow
@pytest.mark.parametrize("dtype, rtol", [(torch.float32, 1e-5), (torch.bfloat16, 5e-2)])
def test_a_router_in_float32(dtype, rtol):
    model, x = perturb(Router()), torch.randn(6, 6)
    model = model.to(dtype)
    with Wide():  # asks for float32 give float64 where the model has it
        expected = oracle.scores(model, oracle.ones(x.to(dtype)))
    before = snapshot(model)
    for verify in (True, False):
        scores = score_pool(model, [x.to(dtype)], verify=verify, progress=False)
        assert_close_relative(scores, expected, rtol)
    assert_unchanged(before, model)
