"""The same function in the forms that other packages take: parameters and gradients are the same.

Some packages refuse batch normalisation in eval mode, though it is an affine map there. A twin
writes it as one: constants first, then a layer with the weight and bias.
"""

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn


class _Standardise(nn.Module):
    """Running statistics as constants, without a parameter."""

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        super().__init__()
        scale = (norm.running_var + norm.eps).rsqrt()
        self.register_buffer("scale", scale[:, None, None])
        self.register_buffer("shift", (-norm.running_mean * scale)[:, None, None])

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale + self.shift


class _Affine(nn.Module):
    """A weight and a bias a channel."""

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        super().__init__()
        self.weight = nn.Parameter(norm.weight.detach().clone())
        self.bias = nn.Parameter(norm.bias.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight[:, None, None] + self.bias[:, None, None]


def _affine(norm: nn.BatchNorm2d) -> nn.Module:
    return nn.Sequential(_Standardise(norm), _Affine(norm))


def _depthwise(norm: nn.BatchNorm2d) -> nn.Module:
    channels = norm.num_features
    layer = nn.Conv2d(channels, channels, 1, groups=channels)
    layer.weight = nn.Parameter(norm.weight.detach().clone()[:, None, None, None])
    layer.bias = nn.Parameter(norm.bias.detach().clone())
    return nn.Sequential(_Standardise(norm), layer)


FORMS: dict[str, Callable[[nn.BatchNorm2d], nn.Module]] = {
    "batch norm as an affine layer": _affine,
    "batch norm as a depthwise convolution": _depthwise,
}


def twins(model: nn.Module) -> dict[str, nn.Module]:
    """Copies of an eval-mode model by what was changed, the least first.

    In all of them activations are not in place (hooks forbid it) and dropout has probability zero
    (some packages record in training mode only).
    """
    plain = copy.deepcopy(model)
    for module in plain.modules():
        if hasattr(module, "inplace"):
            module.inplace = False
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    found = {"": plain}
    if any(isinstance(module, nn.BatchNorm2d) for module in plain.modules()):
        with torch.no_grad():
            for name, form in FORMS.items():
                found[name] = _rewritten(copy.deepcopy(plain), form).eval()
    return found


def _rewritten(model: nn.Module, form: Callable[[nn.BatchNorm2d], nn.Module]) -> nn.Module:
    for name, child in model.named_children():
        if isinstance(child, nn.BatchNorm2d):
            setattr(model, name, form(child))
        else:
            _rewritten(child, form)
    return model
