"""What comes after the last layer: its parameters' gradients go through it."""

import pytest
import torch
import torch.nn.functional as F

from fastgradnorm import score_pool
from tests.support import oracle
from tests.support.asserts import assert_close_relative
from tests.support.cases import Custom, linear, perturb

AFTER = {
    "nothing": lambda z, x: z,
    "scaled": lambda z, x: 3 * z,
    "scaled by a method": lambda z, x: z.mul(0.5),
    "divided": lambda z, x: z / 2.5,
    "negative": lambda z, x: -z,
    "another order": lambda z, x: z[:, [2, 0, 3, 1]],
    "another order by a tensor": lambda z, x: z[:, torch.tensor([3, 2, 1, 0])],
    "the same order": lambda z, x: z[:, [0, 1, 2, 3]],
    "from the end": lambda z, x: z.flip(-1),
    "rolled": lambda z, x: z.roll(1, -1),
    "the first classes": lambda z, x: z[:, :3],
    "some classes": lambda z, x: z[:, [0, 2]],
    "one repeated": lambda z, x: z[:, [0, 1, 1, 2]],
    "every other": lambda z, x: z[..., ::2],
    "gathered": lambda z, x: z.index_select(-1, torch.tensor([1, 3])),
    "a class ruled out": lambda z, x: z.masked_fill(
        torch.tensor([False, True, False, False]), -1e4
    ),
    "clamped": lambda z, x: z.clamp(-0.4, 0.4),
    "log of a softmax": lambda z, x: F.log_softmax(z, -1),
    "softly capped": lambda z, x: 2 * torch.tanh(z / 2),
    "views": lambda z, x: z.view(len(z), 2, 2).flatten(1).unsqueeze(1)[:, 0],
    "transposed within": lambda z, x: z.view(len(z), 2, 2).transpose(1, 2).reshape(len(z), 4),
    "cast": lambda z, x: z.to(torch.float64),
    "with the sample": lambda z, x: z * x[:, :1].exp(),
    "sorted": lambda z, x: z.sort(-1).values,
    "largest of pairs": lambda z, x: z.view(len(z), 2, 2).amax(-1),
}


@pytest.mark.parametrize("verify", [False, True])
@pytest.mark.parametrize("name", AFTER)
def test_counts(name, verify):
    torch.manual_seed(0)
    model = perturb(
        Custom(
            lambda m, x: AFTER[name](m.head(torch.tanh(m.body(x))), x),
            body=linear(4, 6), head=linear(6, 4),
        )
    )  # fmt: skip
    x = torch.randn(9, 4)
    table = oracle.norms(model, oracle.ones(x))
    options = {"params": "last_layer", "scheme": oracle.SCHEMES, "progress": False}
    found = score_pool(model, x.split(3), verify=verify, **options)
    for scheme in oracle.SCHEMES:
        exact = table.scores(scheme, keep=lambda name: name.startswith("head"))
        assert_close_relative(found[scheme], exact, 1e-5, scheme)


@pytest.mark.parametrize("verify", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_logits_may_be_wider_than_the_model(dtype, verify):
    torch.manual_seed(0)
    model = perturb(
        Custom(
            lambda m, x: m.head(torch.tanh(m.body(x.to(m.body.weight.dtype)))).to(torch.float64),
            body=linear(4, 6), head=linear(6, 4),
        )
    ).to(dtype)  # fmt: skip
    x = torch.randn(9, 4).to(dtype)
    exact = oracle.scores(model, oracle.ones(x), keep=lambda name: name.startswith("head"))
    found = score_pool(model, [x], params="last_layer", verify=verify, progress=False)
    assert_close_relative(found, exact, 0.03 if dtype != torch.float32 else 1e-5)
