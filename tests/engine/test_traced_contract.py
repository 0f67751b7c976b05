"""The models that are scored on the emulated device, traced on the CPU: the same bits."""

import importlib.util
from pathlib import Path

import pytest
import torch

from fastgradnorm import SCHEMES
from tests.support.tracing import Kept, as_they_are, eager, replayed, scores  # noqa: F401

PATH = Path(__file__).parents[1] / "cuda" / "contract.py"
SPEC = importlib.util.spec_from_file_location("traced_contract", PATH)
CONTRACT = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(CONTRACT)


@pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight")
@pytest.mark.slow
@pytest.mark.parametrize("name", CONTRACT.CASES)
def test_the_same_bits(monkeypatch, name):
    case = CONTRACT.CASES[name]
    if name.startswith(("bert", "vit")):
        pytest.importorskip("transformers")
    torch.manual_seed(0)
    model, batches = case.make().eval(), [case.inputs() for _ in range(3)]
    options = {**case.options, "verify": False, "scheme": tuple(SCHEMES)}
    expected = as_they_are(monkeypatch, model, batches, **options)
    found = scores(model, batches, **options)
    assert all(torch.equal(found[scheme], expected[scheme]) for scheme in SCHEMES)
    assert replayed() >= case.repeats
    assert [each.reason for each in Kept.made if each.reason is not None] == []
