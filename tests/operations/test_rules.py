"""Rules: users can add one, and a wrong one does not go unnoticed."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fastgradnorm import (
    GradNormScorer,
    Rule,
    VerificationError,
    naive_score_pool,
    register_rule,
    score_pool,
)
from fastgradnorm._engine import tapped
from fastgradnorm._operations import table
from tests.support.asserts import assert_close_relative


class Model(nn.Module):
    """One layer under test, then a nonlinearity and a head."""

    def __init__(self, layer, width, ids=False):
        super().__init__()
        self.layer, self.head, self.ids = layer, nn.Linear(width, 3), ids

    def forward(self, x):
        y = torch.tanh(self.layer(x))
        while y.dim() > 2:
            y = y.mean(1) if self.ids or y.dim() == 3 else y.mean(-1)
        return self.head(y)


class Product(nn.Module):
    def __init__(self, product):
        super().__init__()
        self.weight, self.product = nn.Parameter(torch.randn(4, 5)), product

    def forward(self, x):
        return self.product(x, self.weight)


IMAGES = torch.randn(3, 4, 4, 4)
PLANTED = [
    pytest.param(F.linear, nn.Linear(4, 5), torch.randn(3, 4), 5, id="linear"),
    pytest.param(F.conv1d, nn.Conv1d(4, 4, 3), torch.randn(3, 4, 6), 4, id="conv1d"),
    pytest.param(F.conv2d, nn.Conv2d(4, 4, 3), IMAGES, 2, id="conv2d"),
    pytest.param(F.conv3d, nn.Conv3d(4, 4, 2), torch.randn(3, 4, 3, 3, 3), 2, id="conv3d"),
    pytest.param(
        F.conv_transpose2d, nn.ConvTranspose2d(4, 4, 3), IMAGES, 6, id="conv-transpose"
    ),
    pytest.param(F.batch_norm, nn.BatchNorm2d(4), IMAGES, 4, id="batch-norm"),
    pytest.param(F.layer_norm, nn.LayerNorm(4), torch.randn(3, 4), 4, id="layer-norm"),
    pytest.param(F.group_norm, nn.GroupNorm(2, 4), IMAGES, 4, id="group-norm"),
    pytest.param(
        F.instance_norm, nn.InstanceNorm2d(4, affine=True), IMAGES, 4, id="instance-norm"
    ),
    pytest.param(F.rms_norm, nn.RMSNorm(4), torch.randn(3, 4), 4, id="rms-norm"),
    pytest.param(F.embedding, nn.Embedding(7, 4), torch.randint(0, 7, (3, 5)), 4, id="embedding"),
    pytest.param(
        torch.matmul, Product(torch.matmul), torch.randn(3, 4), 5, id="matmul"
    ),
    pytest.param(
        torch.addmm, Product(lambda x, w: torch.addmm(x.new_zeros(5), x, w)),
        torch.randn(3, 4), 5, id="addmm",
    ),
    pytest.param(
        torch.einsum, Product(lambda x, w: torch.einsum("bi,io->bo", x, w)),
        torch.randn(3, 4), 5, id="einsum",
    ),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("func, layer, inputs, width", PLANTED)
def test_verification_catches_a_fault_in_any_rule(monkeypatch, func, layer, inputs, width):
    model = Model(layer, width).eval()
    for p in model.parameters():
        nn.init.normal_(p)
    score_pool(model, [inputs], progress=False)  # right without the fault
    entry = table.TABLE[func]

    def wrong(call, tracked):
        rule = entry.rule(call, tracked)

        def sq_norms(saved, g):
            return {slot: 1.05 * norm for slot, norm in rule.sq_norms(saved, g).items()}

        return replace(rule, sq_norms=sq_norms)

    monkeypatch.setitem(table.TABLE, func, replace(entry, rule=wrong))
    with pytest.raises(VerificationError, match=r"layer\.|head\."):
        score_pool(model, [inputs], progress=False)


@pytest.mark.slow
def test_verification_catches_a_fault_in_joined_uses(monkeypatch):
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.head = nn.Linear(4, 4), nn.Linear(4, 3)

        def forward(self, x):
            return self.head(torch.tanh(self.body(torch.tanh(self.body(x)))))

    right = tapped.joint_sq_norm
    monkeypatch.setattr(tapped, "joint_sq_norm", lambda *args: 1.05 * right(*args))
    with pytest.raises(VerificationError, match=r"body\.weight"):
        score_pool(Twice(), [torch.randn(3, 4)], progress=False)


@torch.overrides.wrap_torch_function(lambda x, gain: (x, gain))
def amplify(x, gain):
    """Not an operation of torch: what it does inside is hidden from modes."""
    return x * gain


class Amplifier(nn.Module):
    def __init__(self):
        super().__init__()
        self.gain, self.head = nn.Parameter(torch.tensor(0.7)), nn.Linear(4, 3)

    def forward(self, x):
        return self.head(torch.tanh(amplify(x, self.gain)))


def amplify_rule(call):
    def sq_norms(saved, g):
        return {"gain": (saved[0] * g).sum().square()}

    return Rule(slots=("gain",), saved=(call["x"],), sq_norms=sq_norms)


@pytest.mark.slow
def test_a_rule_of_the_users_own_is_used_and_exact(monkeypatch):
    model, x = Amplifier(), torch.randn(5, 4)
    expected = naive_score_pool(model, [x])
    assert_close_relative(score_pool(model, [x], progress=False), expected, 1e-5)
    found = {row.parameter: row.rule for row in GradNormScorer(model).explain(x).rows}
    assert found["gain"] == "leftover"
    monkeypatch.setattr(table, "TABLE", dict(table.TABLE))
    register_rule(amplify, amplify_rule, names=["x", "gain"])
    assert_close_relative(score_pool(model, [x], progress=False), expected, 1e-5)
    found = {row.parameter: row.rule for row in GradNormScorer(model).explain(x).rows}
    assert found["gain"] == "direct"


def test_register_rule_refuses_what_cannot_be_called():
    with pytest.raises(TypeError, match="`rule` must be"):
        register_rule(amplify, None, names=["x", "gain"])
