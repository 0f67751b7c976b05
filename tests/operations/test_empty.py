"""Operations on tensors without elements: no features, no words, no positions."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fastgradnorm import score_pool
from tests.support import oracle
from tests.support.asserts import assert_close_relative
from tests.support.cases import Custom, linear

WAYS = {
    "no features": lambda m, x: m.none(x[:, :0]),
    "no positions": lambda m, x: m.a(x[:, None][:, :0]).sum(1),
    "no words": lambda m, x: m.words(torch.zeros(1, 0, dtype=torch.long)).sum(1),
    "no outputs": lambda m, x: F.linear(x, m.kernel[0, :0]).sum(1, keepdim=True),
    "a norm of none": lambda m, x: F.layer_norm(x[:, None][:, :0], (4,), m.a.bias).sum(1),
    "a product of none": lambda m, x: x[:, :0] @ m.kernel[0, :, :0].expand(4, 0).t(),
}


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
@pytest.mark.parametrize("reduction", oracle.REDUCTIONS)
@pytest.mark.parametrize("way", WAYS)
def test_nothing_adds_nothing(way, reduction):
    torch.manual_seed(0)
    model = Custom(
        lambda m, x: m.head(torch.tanh(m.a(x) + WAYS[way](m, x)[..., :4])),
        a=linear(4, 4), none=nn.Linear(0, 4), words=nn.Embedding(5, 4), head=linear(4, 3),
    )  # fmt: skip
    model.kernel = nn.Parameter(torch.randn(2, 1, 4))
    model.double()
    x = torch.randn(5, 4, dtype=torch.float64)
    options = {"scheme": oracle.SCHEMES, "reduction": reduction, "progress": False}
    scores = score_pool(model, [x], **options)
    table = oracle.norms(model, oracle.ones(x))
    for scheme in oracle.SCHEMES:
        assert_close_relative(scores[scheme], table.scores(scheme, reduction), 1e-9, scheme)
