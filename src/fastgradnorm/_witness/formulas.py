r"""Scores from the definition, in float64: written anew, and kept apart from the engine's formulas.

With `u_j = z_j - max z` and `p = softmax(z)`: the cross-entropy of label c has the gradient
`p - e_c`, whose component c is minus the sum of the others, so that nothing cancels for confident
samples; the entropy has `-p_j (u_j - Σ_i p_i u_i)`. Dense and multi-label losses are means over
the valid positions. Label maps too many to count are drawn with the numbers of the seed. Of a label
that is known, `p - q` for its probabilities q is `p_j Σ_{i≠j} q_i - q_j Σ_{i≠j} p_i`.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from fastgradnorm._options import Options
from fastgradnorm._schemes import TABLE, loss_size, uniform_numbers
from fastgradnorm._witness.known import known_label

# Of the norms, by the definition; those of schemes that were added are the table's.
_POWERS = {"expected": 1, "expected_squared": 2}


@dataclass(frozen=True)
class Asked:
    """What is to be pulled back from one sample's logits, and what the norms are to be made of.

    Attributes:
        logits: `[positions, C]`, of independent choices.
        share: `[positions]`, of each in the mean.
        labels: Label maps, `[positions]` each.
        weights: `[L]`, of the labels.
        drawn: Whether the labels were drawn, each with the same weight.
        shape: Of the model's logits.
        entropy: Whether the entropy's cotangent follows those of the labels.
        known: Cotangents of losses that are known, of the shape of the logits, after the others.
        weights_known: Of their squared norms in a score of several.
        values: Scores that take no gradient.
        size: Of the cotangents, beside their largest entry: what they are pulled back over.
    """

    logits: Tensor
    share: Tensor
    labels: Sequence[Tensor]
    weights: Tensor
    drawn: bool
    shape: torch.Size
    entropy: bool
    known: Sequence[Tensor] = ()
    weights_known: Tensor | None = None
    values: Mapping[str, float] = field(default_factory=dict)
    size: float = 1.0

    def __len__(self) -> int:
        return len(self.labels) + self.entropy + len(self.known)

    def cotangent(self, k: int) -> Tensor:
        """The k-th, of the shape of the logits, float64."""
        first = len(self.labels) + self.entropy
        if k >= first:
            return self.known[k - first]
        p = torch.softmax(self.logits, -1)
        if k == len(self.labels):
            found = _entropy_cotangent(self.logits, p)
        else:
            found = _label_cotangent(p, self.labels[k])
        found = found * self.share[:, None]
        # A single logit is that of class 1, against 0.
        paired = found.numel() > self.shape.numel()
        return (found[:, 1] if paired else found).reshape(self.shape)

    def lost(self, sq_norms: Tensor) -> float:
        """What of a score float32 may be unable to hold, of squared norms `[K, P]`.

        Chances and parts of cotangents below its smallest number are that far off, each times the
        norm of what is pulled back from a largest entry of 1, as of samples that are all but sure.
        """
        if not len(sq_norms):
            return 0.0
        largest = torch.stack([self.cotangent(k).abs().amax() for k in range(len(self))])
        smallest = torch.finfo(largest.dtype).tiny
        units = sq_norms.sqrt().sum(-1) / largest.to(sq_norms.device).clamp(smallest, 1.0)
        return torch.finfo(torch.float32).tiny * float((units + units.square()).sum())

    def scores(self, sq_norms: Tensor, options: Options) -> dict[str, tuple[float, float | None]]:
        """Score and standard error (None if exact) by scheme, of squared norms `[K, P]`."""
        sizes = sq_norms.sqrt()
        norms = sq_norms.sum(-1).sqrt() if options.reduction == "global" else sizes.sum(-1)
        labels = norms[: len(self.labels)]
        found: dict[str, tuple[float, float | None]] = {
            k: (v, None) for k, v in self.values.items()
        }
        for scheme in options.schemes:
            if scheme == "entropy":
                found[scheme] = float(norms[len(self.labels)]), None
                continue
            if scheme == "loss":
                found[scheme] = float(norms[-1]), None
                continue
            if self.weights_known is not None and scheme in _POWERS:
                count = len(self.weights_known)
                trace = float((self.weights_known * norms[:count].square()).sum())
                found[scheme] = math.sqrt(trace) if scheme == "expected" else trace, None
                continue
            if scheme not in TABLE or not TABLE[scheme].averaged:
                continue  # of a loss that is not known here
            terms = labels ** _POWERS.get(scheme, TABLE[scheme].power)
            error = None
            if self.drawn:
                error = float(terms.std()) / len(terms) ** 0.5 if len(terms) > 1 else math.nan
            found[scheme] = float((self.weights * terms).sum()), error
        return found


def asked(
    logits: Tensor, valid: Tensor | None, options: Options, target: Tensor | None = None
) -> Asked:
    """Of one sample's logits `[*positions, C]`, or its loss `[1]`; positions `valid`, or all.

    A single logit is a choice between two classes, whose logits are 0 and it.
    """
    z = logits.detach().double()
    if options.by_output:
        size = float(loss_size(logits.detach()))
        return replace(_of_loss(z, [torch.ones_like(z)]), size=size)
    if options.likelihood == "gaussian":
        return _of_values(z, valid, options, target)
    single, is_label = z.dim() == 1, options.likelihood == "bernoulli"
    is_label = is_label or (options.likelihood == "auto" and z.shape[-1] == 1)
    known, values = known_label(z, valid, options, target, is_label)
    if not any(scheme in TABLE for scheme in options.schemes):
        return _of_loss(z, known, values)
    if is_label:
        single = z.numel() == 1 and valid is None
        valid = None if valid is None else valid[..., None].expand(z.shape)
        choices = torch.stack([torch.zeros_like(z), z], -1)
    else:
        choices = z
    flat = choices.reshape(-1, choices.shape[-1])
    counted = flat.new_ones(len(flat)) if valid is None else valid.reshape(-1).double()
    share = counted / counted.sum().clamp_min(1)
    labels, weights, drawn = _labels(torch.softmax(flat, -1), single, valid is None, options)
    entropy = "entropy" in options.schemes
    given = flat, share, labels, weights, drawn, z.shape, entropy
    return Asked(*given, known=known, values=values)


def _of_loss(
    z: Tensor, known: Sequence[Tensor], values: Mapping[str, float] | None = None
) -> Asked:
    none = z.new_zeros(0)
    return Asked(z, none, [], none, False, z.shape, False, known, None, values or {})


def _of_values(z: Tensor, valid: Tensor | None, options: Options, target: Tensor | None) -> Asked:
    """Each output by itself, and the loss at a label."""
    count = z.numel()
    counted = torch.ones_like(z) if valid is None else valid.double()[..., None].expand(z.shape)
    asks = any(scheme in _POWERS for scheme in options.schemes)
    own = list(torch.eye(count, dtype=z.dtype, device=z.device).view(count, *z.shape))
    known, values = known_label(z, valid, options, target, False)
    ask = _of_loss(z, [*(own if asks else []), *known], values)
    return replace(ask, weights_known=counted.reshape(-1) if asks else None)


def _labels(
    p: Tensor, single: bool, countable: bool, options: Options
) -> tuple[Sequence[Tensor], Tensor, bool]:
    """Label maps `[positions]`, their weights, and whether they are drawn."""
    count, classes = p.shape
    if not any(TABLE[s].averaged for s in options.schemes if s in TABLE):
        return [], p.new_zeros(0), False
    log_maps, most = count * math.log(classes), math.log(options.num_samples) + 1e-9
    if single or (countable and log_maps <= most):
        every = list(itertools.product(range(classes), repeat=count))
        maps = torch.tensor(every, device=p.device)
        chosen = p[torch.arange(count, device=p.device), maps]
        return list(maps), chosen.prod(-1), False
    numbers = torch.as_tensor(
        uniform_numbers(options.seed, count, options.num_samples), device="cpu"
    )
    drawn = torch.searchsorted(
        p.cumsum(-1)[:, :-1].contiguous(), numbers.to(p.device).T.contiguous()
    )
    weights = p.new_full((options.num_samples,), 1 / options.num_samples)
    return list(drawn.T), weights, True


def _label_cotangent(p: Tensor, label: Tensor) -> Tensor:
    is_label = torch.arange(p.shape[-1], device=p.device) == label[:, None]
    others = torch.where(is_label, 0.0, p)
    return torch.where(is_label, -others.sum(-1, keepdim=True), p)


def _entropy_cotangent(z: Tensor, p: Tensor) -> Tensor:
    gap = torch.where(p > 0, z - z.amax(-1, keepdim=True), 0.0)
    return -p * (gap - (p * gap).sum(-1, keepdim=True))
