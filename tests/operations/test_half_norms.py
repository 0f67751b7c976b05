"""Norm layers of half-precision inputs, under the option and under autocast in the model: fast."""

from contextlib import nullcontext

import pytest
import torch
from torch import nn
from torch.func import vjp, vmap

from fastgradnorm import naive_score_pool, score_pool
from fastgradnorm._operations.fused_norms import batch_norm
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


@pytest.mark.parametrize("affine", [True, False], ids=["affine", "plain"])
@pytest.mark.parametrize("space", [(), (5,), (3, 4), (2, 3, 4)], ids=str)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_pulls_of_batch_norms_are_rounded_once(dtype, space, affine):
    """Gradients times a scale in float32, for samples and cotangents at once."""
    mean, var = torch.randn(6), torch.rand(6) + 0.5
    weight = torch.randn(6) if affine else None
    bias = torch.randn(6) if affine else None
    x, g = torch.randn(3, 1, 6, *space).to(dtype), torch.randn(3, 2, 1, 6, *space).to(dtype)

    def pulled(x, g):
        _, pull = vjp(lambda x: batch_norm(x, mean, var, weight, bias, eps=1e-3), x)
        return vmap(pull)(g)[0]

    scale = (var + 1e-3).rsqrt() * (1 if weight is None else weight)
    exact = (g.float() * scale.view(-1, *(1,) * len(space))).to(dtype)
    torch.testing.assert_close(vmap(pulled)(x, g), exact, rtol=8e-3, atol=0)
