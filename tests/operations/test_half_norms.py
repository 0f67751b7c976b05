"""Norm layers of half-precision inputs, under the option and under autocast in the model: fast."""

from contextlib import nullcontext

import pytest
import torch
from torch import nn

from fastgradnorm import naive_score_pool, score_pool
from tests.support.asserts import assert_close_relative


class Trailing(nn.Module):
    """A norm over the channels, which are the last dimension there."""

    def __init__(self, norm):
        super().__init__()
        self.norm = norm

    def forward(self, x):
        return self.norm(x.movedim(1, -1)).movedim(-1, 1)


NORMS = {
    "batch": lambda: nn.BatchNorm2d(4),
    "group": lambda: nn.GroupNorm(2, 4),
    "group, plain": lambda: nn.GroupNorm(2, 4, affine=False),
    "instance": lambda: nn.InstanceNorm2d(4, affine=True),
    "instance, plain": lambda: nn.InstanceNorm2d(4),
    "instance, tracked": lambda: nn.InstanceNorm2d(4, affine=True, track_running_stats=True),
    "layer": lambda: Trailing(nn.LayerNorm(4)),
    "layer, no bias": lambda: Trailing(nn.LayerNorm(4, bias=False)),
    "layer, plain": lambda: Trailing(nn.LayerNorm(4, elementwise_affine=False)),
    "rms": lambda: Trailing(nn.RMSNorm(4)),
}


class Model(nn.Module):
    def __init__(self, norm, inside=None):
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 4, 3), norm, nn.Linear(4, 3)
        self.inside = inside

    def forward(self, x):
        own = nullcontext() if self.inside is None else torch.autocast("cpu", self.inside)
        with own:
            return self.head(self.norm(self.conv(x)).mean((2, 3))).float()


def perturbed(model):
    for parameter in model.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    return model.eval()


@pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight")  # PyTorch's own
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("where", ["option", "model"])
@pytest.mark.parametrize("name", NORMS)
def test_half_precision_norms(name, where, dtype):
    """A warning, as of the slow loop, is an error."""
    model = perturbed(Model(NORMS[name](), dtype if where == "model" else None))
    options = {"autocast": dtype} if where == "option" else {}
    x = torch.randn(4, 3, 6, 6)
    options["scheme"] = ("expected", "entropy")
    actual = score_pool(model, [x], progress=False, **options)
    exact = naive_score_pool(model, [x], **options)
    for scheme in options["scheme"]:
        assert_close_relative(actual[scheme], exact[scheme], 5e-2, scheme)


@pytest.mark.parametrize("name", ["group", "instance", "layer"])
def test_half_models_stay_half(name):
    """Parameters as narrow as the inputs: no copy is widened."""
    seen = []

    class Peek(Model):
        def forward(self, x):
            x = self.norm(self.conv(x))
            seen.append(x.dtype)
            return self.head(x.mean((2, 3)))

    model = perturbed(Peek(NORMS[name]())).bfloat16()
    score_pool(model, [torch.randn(2, 3, 6, 6).bfloat16()], progress=False)
    assert set(seen) == {torch.bfloat16}
