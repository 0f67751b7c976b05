"""Predictions and scores of a whole pool that tell samples apart by nothing."""

import pytest
import torch
from torch import nn

from fastgradnorm._witness.scores import judge_scores
from tests.support.cases import CASES, MLP, Custom, linear, perturb
from tests.support.doubts import findings, warned


def pool(samples=96, size=16):
    return torch.randn(samples, 10).split(size)


def headed(change, classes=5):
    model = perturb(MLP(10, 16, classes))
    with torch.no_grad():
        change(model.head)
    return model


def fill(value):
    def change(head):
        head.weight.zero_()
        head.bias.fill_(value)

    return change


def favour(by, which=2):
    def change(head):
        head.bias[which] += by

    return change


CERTAIN = {
    "huge logits": headed(lambda head: head.weight.mul_(1e6)),
    "one class by far": headed(favour(1e4)),
    "values in thousands": perturb(Custom(lambda m, x: 1e5 * (m.head(x) + 3), head=linear(10, 1))),
    "huge inputs": perturb(MLP(10, 16, 5)),
}


class TestZero:
    @pytest.mark.parametrize("name", CERTAIN)
    @pytest.mark.parametrize("scheme", ["expected", "entropy"])
    def test_saturated_models(self, name, scheme):
        batches = [1e5 * x for x in pool()] if name == "huge inputs" else pool()
        level, message = findings(CERTAIN[name], batches, scheme=scheme)["zero scores"]
        assert level == "warn" and scheme in message and "are 0" in message

    def test_uniform_posteriors_have_no_entropy_gradient(self):
        found = findings(headed(fill(0.0)), pool(), scheme=["expected", "entropy"])
        assert "entropy" in found["zero scores"][1]

    def test_nothing_that_counts_moves_the_logits(self):
        dead = nn.Sequential(linear(10, 8), nn.ReLU(), linear(8, 3))
        with torch.no_grad():
            dead[0].bias.fill_(-100.0)
        assert "zero scores" in warned(dead, pool(), params=lambda name, p: name[0] == "0")


FLAT = {
    "dead layer": nn.Sequential(linear(10, 8), nn.ReLU(), linear(8, 3)),
    "inputs do not count": perturb(
        Custom(lambda m, x: m.head(0 * x + torch.ones(10)), head=linear(10, 3))
    ),
    "constant features": nn.Sequential(nn.Linear(10, 8), nn.Hardtanh(), linear(8, 3)),
}


class TestFlat:
    @pytest.mark.parametrize("name", FLAT)
    @pytest.mark.parametrize("params", ["all", "last_layer"])
    def test_what_tells_no_samples_apart(self, name, params):
        model, batches = FLAT[name], pool()
        with torch.no_grad():
            if name == "dead layer":
                model[0].bias.fill_(-100.0)
            if name == "constant features":
                model[0].bias.copy_(torch.tensor([99.0, -99] * 4))
        only_head = "last_layer" if params == "last_layer" else "all"
        level, message = findings(model, batches, params=only_head, scheme="expected")[
            "flat scores"
        ]
        assert level == "warn" and "the same logits" in message

    def test_samples_that_are_all_the_same_are_a_note(self):
        found = findings(MLP().eval(), [torch.randn(1, 10).expand(20, -1)] * 2)
        assert {kind: level for kind, (level, _) in found.items()} == {"samples alike": "note"}

    @pytest.mark.parametrize("samples", [1, 2, 15])
    def test_a_few_samples_may_be_alike(self, samples):
        assert not warned(MLP().eval(), [torch.randn(1, 10).expand(samples, -1)])


class TestBounds:
    @pytest.mark.parametrize("values, kind", [
        (torch.linspace(1, 1 + 5e-5, 100), "flat scores"), (torch.ones(16), "flat scores"),
        (torch.linspace(1, 1.002, 100), None), (torch.linspace(1, 1.1, 100), None),
        (torch.ones(15), None), (torch.ones(2), None), (torch.zeros(15), None),
        (torch.cat([torch.zeros(95), torch.ones(5)]), "zero scores"),
        (torch.cat([torch.zeros(50), torch.linspace(1, 2, 50)]), None),
        (torch.cat([torch.zeros(85), torch.linspace(1, 2, 15)]), None),
        (torch.cat([torch.ones(20), torch.full((10,), torch.nan)]), "flat scores"),
        (torch.cat([torch.ones(20), torch.full((50,), torch.nan)]), None),
    ])  # fmt: skip
    def test_of_scores(self, values, kind):
        found = [each.kind for each in judge_scores({"entropy": values}, False)]
        assert found == ([] if kind is None else [kind])


class TestOneClass:
    @pytest.mark.parametrize("size", [16, 96])
    @pytest.mark.parametrize("classes", [3, 5, 40])
    def test_a_certain_model_of_one_class(self, size, classes):
        found = findings(headed(favour(12), classes), pool(192, size))
        level, message = found["one class"]
        assert level == "warn" and "class 2 for 192 of the 192 samples" in message

    @pytest.mark.parametrize("share", [0.7, 0.9, 0.97])
    def test_that_most_have_is_ordinary(self, share):
        x = torch.linspace(0, 1, 200)[:, None].expand(-1, 10) + 0.01 * torch.randn(200, 10)

        def forward(m, x):
            first = torch.sigmoid(1e3 * (share - x[:, :1])) * torch.tensor([16.0, -8, -8])
            return m.head(x) + first + torch.tensor([0.0, 8, 0])

        model = perturb(Custom(forward, head=linear(10, 3)))
        assert "one class" not in findings(model, x[torch.randperm(200)].split(50))

    @pytest.mark.parametrize("samples", [1, 8, 40, 63])
    def test_of_a_few_samples_is_ordinary(self, samples):
        model, x = headed(favour(12)), torch.randn(samples, 10)
        assert "one class" not in findings(model, x.split(16))

    def test_a_label_that_nearly_all_have_is_no_class(self):
        asked = {"likelihood": "bernoulli", "num_samples": 4, "scheme": "entropy"}
        assert "one class" not in findings(headed(favour(12), 3), pool(), **asked)

    @pytest.mark.parametrize("seed", range(6))
    @pytest.mark.parametrize("classes", [1, 2, 5, 100])
    def test_untrained_models_are_silent(self, seed, classes):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, classes))
        assert not warned(model, pool(), params="last_layer", scheme="expected")

    @pytest.mark.parametrize("classes", [1, 2])
    def test_rare_positives_are_silent(self, classes):
        assert not warned(headed(favour(6, 0), classes), pool())

    def test_an_unsure_majority_is_silent(self):
        assert not warned(headed(favour(2)), pool())

    def test_a_pool_in_the_order_of_its_classes_is_silent(self):
        model = nn.Linear(4, 4, bias=False)
        with torch.no_grad():
            model.weight.copy_(12 * torch.eye(4))
        x = torch.eye(4).repeat_interleave(128, 0) + 0.05 * torch.randn(512, 4)
        assert not warned(model, x.split(16))


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) if n == "resnet18" else n for n in CASES]
)
@pytest.mark.parametrize("how", ["random", "confident"])
def test_the_models_that_scores_are_checked_on_are_silent(name, how):
    model, inputs = getattr(CASES[name], how)()
    found = findings(model, inputs.split(8), scheme="expected", params="all")
    assert not found
