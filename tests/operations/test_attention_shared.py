"""Attention of many cotangents on processors: weights formed once, against plain autograd."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fastgradnorm import naive_score_pool, score_pool
from fastgradnorm._engine import traces
from fastgradnorm._operations import attention_shared
from tests.support.asserts import assert_close_relative
from tests.support.tracing import as_they_are, eager, replayed, scores  # noqa: F401

MASKS = {
    "none": lambda x: None,
    "padding": lambda x: (x[..., 0] > -0.5)[:, None, None, :],
    "by head": lambda x: x[..., :1].mT[:, :, None].expand(-1, 2, x.shape[1], -1),
    "blind rows": lambda x: torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).tril(-1),
}


class Attending(nn.Module):
    """Two heads over the positions of `[N, T, 6]`, or over those of windows of half of them."""

    def __init__(self, mask="none", causal=False, windows=False):
        super().__init__()
        self.projection, self.head = nn.Linear(6, 24), nn.Linear(8, 4)
        self.mask, self.causal, self.windows = mask, causal, windows

    def forward(self, x):
        if self.windows:
            x = x.unflatten(1, (2, -1)).flatten(0, 1)
        q, k, v = self.projection(x).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4)
        mask = MASKS[self.mask](x)
        y = F.scaled_dot_product_attention(q, k, v, mask, is_causal=self.causal)
        y = y.transpose(1, 2).flatten(2).mean(1)
        return self.head(y.unflatten(0, (-1, 2)).mean(1) if self.windows else y)


@pytest.fixture(params=[1 << 21, 1], ids=["all cotangents", "one by one"])
def pulls(request, monkeypatch):
    """How often; whatever the size."""
    calls, pulled = [], attention_shared.pulled
    monkeypatch.setattr(attention_shared, "_LARGE", 1)
    monkeypatch.setattr(attention_shared, "_AT_ONCE", request.param)
    monkeypatch.setattr(attention_shared, "pulled", lambda *a: calls.append(1) or pulled(*a))
    return calls


FORMS = [(mask, False, False) for mask in MASKS] + [("none", True, False), ("none", False, True)]


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS, ids=str)
def test_scores(form, pulls):
    model, x = Attending(*form).eval(), torch.randn(3, 8, 6)
    exact = naive_score_pool(model.double(), [x.double()])
    model.float()
    assert_close_relative(score_pool(model, [x], progress=False), exact, 1e-5, "float32")
    assert pulls
    rounded = score_pool(model, [x], autocast=torch.bfloat16, progress=False)
    assert_close_relative(rounded, exact, 3e-2, "bfloat16")


@pytest.mark.slow
def test_traced_passes_hold_one_operator_a_layer(pulls, monkeypatch):
    names = []

    class Traced(traces.Traced):
        def __init__(self, run, args):
            super().__init__(run, args)
            names.extend(str(node.target) for node in self._graph.graph.nodes)

    monkeypatch.setattr(traces, "Traced", Traced)
    model, batches = Attending().eval(), torch.randn(9, 8, 6).split(3)
    expected = as_they_are(monkeypatch, model, batches)
    assert torch.equal(scores(model, batches), expected)
    assert replayed() >= 1
    assert sum("attention_pull" in name for name in names) == 1
