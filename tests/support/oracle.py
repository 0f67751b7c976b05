"""The referee: every score in float64, by one plain `torch.autograd.grad` per sample and cotangent.

It is written to be obviously right, not fast, and knows nothing of the package under test. A sample
is a batch of one; nothing is batched, transformed or shared between samples. The model is a float64
copy in eval mode. `norms` keeps the L2 norm of every parameter tensor's gradient, for every label
and for the entropy: all schemes, reductions and selections of parameters are read off one table.

Cotangents are exact for confident samples. With k the most probable class, `u_j = z_j - z_k` and
`p_j = exp(u_j) / sum_i exp(u_i)`, no component is ever a difference of numbers near one:

- cross-entropy of label c: `p - e_c`, whose component c is minus the sum of the other p;
- entropy: `-p_j (log p_j + H) = -p_j (u_j - sum_i p_i u_i)`, for the log-sum-exp cancels on paper.
"""

import copy
import itertools
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

SCHEMES = ("expected", "expected_squared", "entropy")
REDUCTIONS = ("global", "per_tensor")
MOST_LABEL_MAPS = 100


def in_float64(tree: Any) -> Any:
    """The same batch with its floating-point tensors in float64, complex ones in complex128."""
    return tree_map(lambda t: _wide(t) if isinstance(t, Tensor) else t, tree)


def _wide(tensor: Tensor) -> Tensor:
    if tensor.is_complex():
        return tensor.to(torch.complex128)
    return tensor.double() if tensor.is_floating_point() else tensor


def softmax(logits: Tensor) -> Tensor:
    """Probabilities of one position's logits [C]."""
    weights = (logits - logits.max()).exp()
    return weights / weights.sum()


def label_cotangent(logits: Tensor, label: int) -> Tensor:
    """Gradient of `-log p[label]` with respect to the logits [C]."""
    cotangent = softmax(logits)
    cotangent[label] = 0.0
    cotangent[label] = -cotangent.sum()
    return cotangent


def entropy_cotangent(logits: Tensor) -> Tensor:
    """Gradient of the entropy with respect to the logits [C]."""
    p, u = softmax(logits), logits - logits.max()
    return -p * (u - (p * u).sum())


def two_classes(logit: Tensor) -> Tensor:
    """A Bernoulli logit as the logits [2] of the classes 0 and 1."""
    return torch.stack([torch.zeros_like(logit), logit])


@dataclass
class Norms:
    """Norms of every parameter's gradient: of the loss of each of L labels, and of the entropy."""

    names: list[str]
    logits: Tensor  # [N, ...]
    probabilities: Tensor  # [N, L]
    label_norms: Tensor  # [N, L, P]
    entropy_norms: Tensor  # [N, P]

    def scores(
        self,
        scheme: str,
        reduction: str = "global",
        keep: Callable[[str], bool] = lambda name: True,
    ) -> Tensor:
        """Scores [N] over the parameters whose name is kept."""
        kept = [p for p, name in enumerate(self.names) if keep(name)]
        assert kept, "the selection is empty"
        if scheme == "entropy":
            return self._reduced(self.entropy_norms[..., kept], reduction)
        norms = self._reduced(self.label_norms[..., kept], reduction)  # [N, L]
        if scheme == "expected_squared":
            norms = norms * norms
        return (self.probabilities * norms).sum(1)

    @staticmethod
    def _reduced(norms: Tensor, reduction: str) -> Tensor:
        if reduction == "global":
            return (norms * norms).sum(-1).sqrt()
        assert reduction == "per_tensor"
        return norms.sum(-1)


def norms(
    model: nn.Module,
    samples: Iterable[Any],
    *,
    logits: Tensor | None = None,
    likelihood: str = "categorical",
    class_dim: int = 1,
    temperature: float = 1.0,
    call: Callable[[nn.Module, Any], Tensor] = lambda model, batch: model(batch),
    masks: Tensor | None = None,
) -> Norms:
    """The table of norms of `samples`, an iterable of batches of one.

    Args:
        logits: What the model under test returned, `[N, ...]`: the cotangents are computed from
            these (in float64) instead of the float64 model's own logits.
        likelihood: `"categorical"` (over `class_dim`), or `"bernoulli"`: each of a sample's L
            logits is a label of its own, the loss is their mean, and all 2^L label vectors count.
        call: From the model and a batch of one to its logits `[1, ...]`.
        masks: Valid positions `[N, *positions]` of dense outputs, whose loss is the mean over them.
            Labels are all maps of classes where these are few; else there is the entropy only.
    """
    model = copy.deepcopy(model)._apply(_wide).eval()
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    rows = []
    with torch.enable_grad():
        for n, sample in enumerate(samples):
            with ContiguousGradients():
                out = call(model, in_float64(sample))
            assert out.shape[0] == 1, "the referee takes batches of one"
            out = out / temperature
            z = (out if logits is None else logits[n : n + 1].double() / temperature).detach()
            if likelihood == "bernoulli":
                cotangents, entropy = _bernoulli(z)
            elif z.dim() == 2:
                cotangents, entropy = _categorical(z)
            else:
                cotangents, entropy = _dense(z, class_dim, masks, n)
            label_norms = [_gradient_norms(out, named, c) for _, c in cotangents]
            rows.append(
                (
                    out.detach()[0],
                    torch.tensor([p for p, _ in cotangents], dtype=torch.float64),
                    torch.stack(label_norms) if label_norms else torch.empty(0, len(named)),
                    _gradient_norms(out, named, entropy),
                )
            )
    return Norms(list(named), *(torch.stack(column) for column in zip(*rows, strict=True)))


class ContiguousGradients(TorchFunctionMode):
    """Lays gradients at the outputs of batch and instance norms out anew.

    PyTorch 2.13's backward pass of an instance norm, or of a batch norm in eval mode, is wrong on a
    CPU for a gradient, of one sample, with the channels last; `test_oracle.py` holds the referee to
    finite differences.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func in (F.batch_norm, F.instance_norm) and out.requires_grad:
            out.register_hook(Tensor.contiguous)
        return out


def scores(
    model: nn.Module,
    samples: Iterable[Any],
    scheme: str = "expected",
    reduction: str = "global",
    keep: Callable[[str], bool] = lambda name: True,
    **options: Any,
) -> Tensor:
    """Scores [N] of one scheme: `norms(...).scores(...)`."""
    return norms(model, samples, **options).scores(scheme, reduction, keep)


def ones(batch: Tensor) -> list[Tensor]:
    """A batch of tensors as batches of one."""
    return list(batch.split(1))


def _gradient_norms(out: Tensor, named: dict[str, Tensor], cotangent: Tensor) -> Tensor:
    grads = torch.autograd.grad(
        out, list(named.values()), cotangent, retain_graph=True, allow_unused=True
    )
    return torch.stack(
        [
            # A complex number is two, whose squares add up to that of its size.
            torch.zeros((), dtype=torch.float64) if g is None else g.abs().square().sum().sqrt()
            for g in grads
        ]
    )


def _categorical(z: Tensor) -> tuple[list[tuple[float, Tensor]], Tensor]:
    p = softmax(z[0])
    labels = [(float(p[c]), label_cotangent(z[0], c)[None]) for c in range(len(p))]
    return labels, entropy_cotangent(z[0])[None]


def _bernoulli(z: Tensor) -> tuple[list[tuple[float, Tensor]], Tensor]:
    flat = z.flatten()
    each = [two_classes(logit) for logit in flat]
    shares = [softmax(pair).tolist() for pair in each]
    # Class 1 carries the logit.
    slopes = [[float(label_cotangent(pair, y)[1] / len(flat)) for y in (0, 1)] for pair in each]
    labels = []
    for y in itertools.product((0, 1), repeat=len(flat)):
        probability = math.prod(shares[i][label] for i, label in enumerate(y))
        cotangent = z.new_tensor([slopes[i][label] for i, label in enumerate(y)])
        labels.append((probability, cotangent.view_as(z)))
    entropy = torch.stack([entropy_cotangent(pair)[1] for pair in each]) / len(flat)
    return labels, entropy.view_as(z)


def _dense(
    z: Tensor, class_dim: int, masks: Tensor | None, n: int
) -> tuple[list[tuple[float, Tensor]], Tensor]:
    positions = z.movedim(class_dim, -1)  # [1, *positions, C]
    valid = torch.ones(positions.shape[1:-1], dtype=torch.bool) if masks is None else masks[n]
    where = [(0, *index.tolist()) for index in valid.nonzero()]
    entropy = torch.zeros_like(positions)
    for at in where:
        entropy[at] = entropy_cotangent(positions[at]) / len(where)
    classes, labels = positions.shape[-1], []
    if masks is None and classes ** len(where) <= MOST_LABEL_MAPS:
        shares = [softmax(positions[at]).tolist() for at in where]
        slopes = [
            [label_cotangent(positions[at], y) / len(where) for y in range(classes)] for at in where
        ]
        for y in itertools.product(range(classes), repeat=len(where)):
            probability = math.prod(shares[i][label] for i, label in enumerate(y))
            cotangent = torch.zeros_like(positions)
            for i, label in enumerate(y):
                cotangent[where[i]] = slopes[i][label]
            labels.append((probability, cotangent.movedim(-1, class_dim)))
    return labels, entropy.movedim(-1, class_dim)
