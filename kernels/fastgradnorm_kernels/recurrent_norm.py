"""Norms of the two weights of a recurrent layer, whose gates have one gradient for both.

A step's gates are `W x + U h`: the gradient `g` is that of both products, but for some columns
where a gate acts on one of them alone. So the Gram of the gradients, which is most of the work of
both ghost norms, is formed once.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from fastgradnorm_kernels import operators, reference
from fastgradnorm_kernels._forms import choose_form
from fastgradnorm_kernels._matmul import prefers_onednn
from fastgradnorm_kernels._torch_norms import CANCELLED, weight_sq_norm
from fastgradnorm_kernels.deferred import is_any
from fastgradnorm_kernels.shapes import Float

# Elements of Grams that are in memory at a time.
_BLOCK = 1 << 20
# Multiplications from which on a Gram is a product of its own where that is by a faster library.
_OWN_CALL = 1 << 20


class Columns(NamedTuple):
    """Which columns of activations and gradients belong to which weight.

    Attributes:
        inputs: Activations: so many of the input, then those of the hidden state.
        both: Gradients: so many are at both products.
        own: So many then at the input's alone, and as many at the hidden state's.
    """

    inputs: int
    both: int
    own: int

    def gradients(self, g: Tensor) -> tuple[Tensor, Tensor]:
        """At the input's product and at the hidden state's."""
        if not self.own:
            return g, g
        both, x, h = g.split([self.both, self.own, self.own], -1)
        return torch.cat([both, x], -1), torch.cat([both, h], -1)

    def activations(self, a: Tensor) -> tuple[Tensor, Tensor]:
        """Of the input and of the hidden state."""
        return a[..., : self.inputs], a[..., self.inputs :]


def recurrent_sq_norms(
    a: Float[Tensor, "N T I"],
    g: Float[Tensor, "N K T O"],
    columns: Columns,
    norm: Callable[[Tensor, Tensor], Tensor] = weight_sq_norm,
) -> Float[Tensor, "N K 2"]:
    """`‖Σ_t g_t x_tᵀ‖²` and `‖Σ_t g_t h_tᵀ‖²`; by `norm` where they share nothing.

    As they do where that is the form for processors, and the ghost norm.
    """
    n, k, t, o = g.shape
    activations = columns.activations(a)
    shares = norm is weight_sq_norm and n > 0
    if not shares or choose_form(t, a.shape[-1], o, k) != "ghost":
        pairs = zip(activations, columns.gradients(g), strict=True)
        return torch.stack([norm(*pair) for pair in pairs], -1)
    a, g = reference.widen(a, g)
    found, scales = g.new_empty(2, n, k), g.new_empty(2, n, k)
    for some, cotangents in _blocks(n, k, t):
        rows = g[some, cotangents]
        grams = _grams(rows, columns)
        for i, each in enumerate(columns.activations(a[some])):
            gram = torch.bmm(each, each.mT)[:, None]
            # A product with one column would add up thousands of terms in one number.
            found[i, some, cotangents] = (gram * grams[i]).sum((-1, -2))
            diagonals = (x.diagonal(dim1=2, dim2=3) for x in (gram, grams[i]))
            scales[i, some, cotangents] = torch.linalg.vecdot(*diagonals)
    _again(found, found < CANCELLED * scales, a, g, columns)
    return found.movedim(0, -1)


def _blocks(n: int, k: int, t: int) -> Iterator[tuple[slice, slice]]:
    """Samples and cotangents whose Grams are in memory at a time."""
    fitting = max(1, _BLOCK // (t * t))
    some, cotangents = max(1, fitting // k), min(k, fitting)
    for i in range(0, n, some):
        for j in range(0, k, cotangents):
            yield slice(i, i + some), slice(j, j + cotangents)


def _grams(g: Float[Tensor, "N K T O"], columns: Columns) -> tuple[Tensor, Tensor]:
    """Inner products `[N, K, T, T]` of the gradients at either product."""
    if not columns.own:
        gram = _gram(g)
        return gram, gram
    both, x, h = map(_gram, g.split([columns.both, columns.own, columns.own], -1))
    return x.add_(both), h.add_(both)


def _gram(g: Float[Tensor, "N K T O"]) -> Float[Tensor, "N K T T"]:
    n, k, t, o = g.shape
    rows = g.flatten(0, 1)
    plain = g.device.type == "cpu" and g.dtype == torch.float32
    if t * t * o >= _OWN_CALL and plain and prefers_onednn() and operators.has_onednn_linear():
        grams = torch.stack([operators.onednn_linear(each, each, None) for each in rows])
    else:
        grams = torch.bmm(rows, rows.mT)
    return grams.view(n, k, t, t)


def _again(found: Tensor, lost: Tensor, a: Tensor, g: Tensor, columns: Columns) -> None:
    """Those whose terms have cancelled, by forming the gradients."""
    if found.dtype != torch.float32 or not is_any(lost):
        return
    for i, (each, rows) in enumerate(
        zip(columns.activations(a), columns.gradients(g), strict=True)
    ):
        samples, cotangents = lost[i].nonzero(as_tuple=True)
        sq_norms = reference.direct_sq_norm(each[samples], rows[samples, cotangents][:, None])
        found[i, samples, cotangents] = sq_norms[:, 0]
