"""Gradients too small for the model's dtype, and wrong ones too small to matter to the whole."""

import pytest
import torch
from torch import nn

from fastgradnorm import Rule, VerificationError, register_rule, score_pool
from tests.support import oracle
from tests.support.asserts import assert_close_relative
from tests.support.cases import MLP


class Gains(MLP):
    """With a parameter that no rule accounts for, and that moves the logits much or little."""

    def __init__(self, size):
        super().__init__()
        self.gain, self.size = nn.Parameter(torch.zeros(10)), size

    def forward(self, x):
        moved = (x * self.gain).sum(1, keepdim=True) * torch.arange(5.0).to(x)
        return super().forward(x) + self.size * moved


@pytest.mark.parametrize("size", [1e-5, 1e-4, 1.0, 300.0])
def test_squares_of_leftovers_beyond_half_precision(size):
    """Norms of 1e-5 and of 1e3, whose squares are no numbers of float16."""
    model, x = Gains(size), torch.randn(6, 10)
    exact = oracle.scores(model, oracle.ones(x), keep=lambda name: name == "gain")
    options = {"params": lambda name, p: name == "gain", "progress": False, "verify": False}
    assert_close_relative(score_pool(model.half(), [x.half()], **options), exact, 0.05)


@torch.overrides.wrap_torch_function(lambda x, gain: (x, gain))
def softened(x, gain):
    return x * gain


class Softened(MLP):
    """One of its parameters has a gradient of about a thousandth of the whole."""

    def __init__(self, share):
        super().__init__()
        self.gain, self.share = nn.Parameter(torch.ones(())), share

    def forward(self, x):
        return super().forward(x) + self.share * softened(x[:, :5], self.gain)


def norms(model, x):
    table = oracle.norms(model, oracle.ones(x))
    whole = table.label_norms.square().sum(-1).sqrt()
    return table.label_norms[..., table.names.index("gain")] / whole


@pytest.mark.slow
@pytest.mark.parametrize("share", [1.0, 0.1, 0.01, 0.002, 2e-4])
@pytest.mark.parametrize("factor", [0.97, 1.05, 2.0])
def test_a_wrong_rule_is_noticed_however_small_its_parameter(share, factor):
    model, x = Softened(share), torch.randn(4, 10)
    assert (norms(model, x) < 2 * share).all()

    def rule(call):
        def sq_norms(saved, g):
            return {"gain": (factor * (saved[0] * g).sum()).square()}

        return Rule(slots=("gain",), saved=(call["x"],), sq_norms=sq_norms)

    register_rule(softened, rule, names=["x", "gain"])
    with pytest.raises(VerificationError, match=r"`gain`"):
        score_pool(model, [x], progress=False)
    # Also where the first batch has one sample.
    with pytest.raises(VerificationError, match=r"`gain`"):
        score_pool(model, x.split([1, 3]), progress=False)


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"rtol": 0.2}, {"reduction": "per_tensor"}], ids=str)
def test_verification_under_autocast(options):
    """Its tolerance is that of half precision, and no excuse for a rule that is wrong."""
    model, x = Softened(1.0), torch.randn(4, 10)
    options = {"autocast": torch.bfloat16, "progress": False, **options}
    exact = oracle.scores(model, oracle.ones(x), reduction=options.get("reduction", "global"))
    for factor in (1.0, 1.3):

        def rule(call, factor=factor):
            def sq_norms(saved, g):
                return {"gain": (factor * (saved[0] * g).sum()).square()}

            return Rule(slots=("gain",), saved=(call["x"],), sq_norms=sq_norms)

        register_rule(softened, rule, names=["x", "gain"])
        if factor == 1.0:
            slack = 0.5 if "rtol" in options else 0.05
            assert_close_relative(score_pool(model, [x], **options), exact, slack)
            continue
        with pytest.raises(VerificationError, match=r"`gain`"):
            score_pool(model, [x], **options)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, None])
def test_every_pass_has_the_dtype_of_autocast(dtype):
    seen = set()

    class Noting(MLP):
        def forward(self, x):
            z = super().forward(x)
            seen.add(z.dtype)
            return z

    # A forward pass alone, as verification makes one too, may be wider: on a CPU, PyTorch's linear
    # layer is, under vmap and where nothing is differentiated.
    score_pool(Noting(), [torch.randn(4, 10)], autocast=dtype, verify=False, progress=False)
    assert seen == {dtype or torch.float32}
