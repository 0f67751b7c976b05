"""Bounds by counting: sums that can be made by hand."""

import json

import pytest
import torch
from torch import nn

from benchmarks import __main__ as command_line
from benchmarks import bounds
from benchmarks.cases import Case
from benchmarks.setting import Setting


def _mlp(classes):
    return nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, classes))


CASE = Case("mlp", "MLP", _mlp, lambda samples: torch.randn(samples, 6), 2)


@pytest.mark.parametrize("samples", [1, 3])
def test_a_model_counted_by_hand(samples):
    found = bounds.count(Setting(CASE, 10, samples))
    products = 2 * (6 * 5 + 5 * 10)
    assert found["forward"]["flops"] == products
    assert found["pull"]["flops"] == products
    assert found["norms"]["fused"] == (6 + 5) + 10 * (5 + 10)
    # each product reads one side and writes the other, the weights are shared by the batch
    assert found["forward"]["fused"] == (6 + 5) + (5 + 10)
    assert found["pull"]["fused"] == (10 + 5) + (5 + 6)
    assert found["forward"]["dispatched"] == found["forward"]["fused"] + 2 * 5  # the ReLU


def test_attention_is_a_product():
    class Attention(nn.Module):
        def __init__(self, classes):
            super().__init__()
            self.head = nn.Linear(8, classes)

        def forward(self, x):
            x = nn.functional.scaled_dot_product_attention(x, x, x)
            return self.head(x.mean((1, 2)))

    case = Case("attention", "attention", Attention, lambda n: torch.randn(n, 2, 16, 8), 2)
    found = bounds.count(Setting(case, 10, 1))
    scores = 2 * 2 * 16 * 16 * 8
    assert found["forward"]["flops"] >= 2 * scores + 2 * 8 * 10
    assert found["pull"]["flops"] >= 4 * scores


def test_what_binds():
    part = {"flops": 1e9, "fused": 1e3, "dispatched": 1e9}
    per = {"forward": part, "pull": part, "norms": part}
    found = bounds.bound(per, "float32")
    assert found["fused"]["bound_by"] == "products"
    assert found["dispatched"]["bound_by"] == "memory"
    assert found["fused"]["samples_per_second"] == pytest.approx(66.9e12 / 12e9)
    assert found["dispatched"]["samples_per_second"] == pytest.approx(3.35e12 / (4 * 12e9))
    half = bounds.bound(per, "bf16")["dispatched"]["samples_per_second"]
    assert half == pytest.approx(2 * found["dispatched"]["samples_per_second"])


@pytest.mark.parametrize(
    "fused, dispatched, said",
    [(2e4, 1.5e4, "without fusing"), (2e4, 5e3, "needs"), (5e3, 2e3, "not possible")],
)
def test_the_verdict(fused, dispatched, said):
    rates = {"fused": fused, "dispatched": dispatched}
    sides = {k: {"samples_per_second": v, "bound_by": "memory"} for k, v in rates.items()}
    assert said in bounds.verdict([{"case": "ResNet-18, 32x32", "mode": "bf16", **sides}])


def test_the_command_stores_its_assumptions(tmp_path):
    assert command_line.main(["bounds", "--tiny", "--out", str(tmp_path)]) == 0
    found = json.loads((tmp_path / "bounds.json").read_text())
    assert "parameters are shared by the batch" in found["assumptions"]
    assert {row["mode"] for row in found["rows"]} == set(bounds.RATES)
