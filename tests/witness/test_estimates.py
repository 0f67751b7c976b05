"""Estimates from some of the classes: bad luck is no disagreement, and everything else is one."""

import pytest
import torch
from torch import nn

from fastgradnorm import GradNormScorer, VerificationError
from fastgradnorm._engine import rtol
from tests.support import oracle
from tests.support.cases import Custom, linear


def adapted(classes):
    """A frozen head and an adapter, whose classes' gradients differ by more than a few tell."""
    torch.manual_seed(0)
    body, head, wild = linear(6, 8), linear(8, classes), 3 * torch.randn(2, classes).exp()
    for parameter in (*body.parameters(), *head.parameters()):
        parameter.requires_grad_(False)
    model = Custom(
        lambda m, x: m.head(torch.tanh(m.body(x))) + x @ m.down @ wild.to(x.dtype),
        body=body, head=head, down=nn.Parameter(torch.randn(6, 2) / 100),
    )  # fmt: skip
    return model, torch.randn(30, 6)


@pytest.mark.parametrize("scheme", ["expected", "expected_squared"])
def test_draws_that_are_not_lucky(scheme):
    model, x = adapted(classes=5)
    truth = oracle.scores(model, oracle.ones(x), scheme)
    options = {"scheme": scheme, "verify": "all", "progress": False}
    found = GradNormScorer(model, rtol=0.1, **options).score([x])
    gaps = (found.values - truth).abs() - 6 * found.standard_error - 0.1 * truth
    assert (gaps > 0).any(), "all were lucky"
    assert found.provenance["verified"]["scores"] == len(x)
    both = GradNormScorer(model, rtol=0.1, **options | {"scheme": [scheme, "entropy"]})
    assert both.score([x])[scheme].provenance["verified"]["scores"] == len(x)


@pytest.mark.parametrize("factor", [0.5, 0.97, 1.03])
def test_norms_that_are_others_are_noticed(factor, monkeypatch):
    """What is pulled back in rounds, and nothing else, is off."""
    model, x = adapted(classes=5)
    right = rtol.total_norms
    monkeypatch.setattr(rtol, "total_norms", lambda *given: factor * right(*given))
    with pytest.raises(VerificationError, match="score by `expected`"):
        GradNormScorer(model, rtol=0.02, verify="all", progress=False).score([x])
