"""Norms of the weights and biases of a recurrent layer, whose gates have one gradient for all.

A step's gates are `W x + U h`: the gradient `g` is that of both products, but for some columns
where a gate acts on one of them alone. So the Gram of the gradients, which is most of the work of
both ghost norms, is formed once; and the norm of their sum, a bias's gradient, is the sum of that.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from fastgradnorm_kernels import operators, reference
from fastgradnorm_kernels._forms import choose_form
from fastgradnorm_kernels._matmul import prefers_onednn
from fastgradnorm_kernels._torch_norms import CANCELLED, weight_sq_norm
from fastgradnorm_kernels.bias_norm import bias_sq_norm
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
) -> Float[Tensor, "N K 4"]:
    """`‖Σ_t g_t x_tᵀ‖²`, `‖Σ_t g_t h_tᵀ‖²`, then `‖Σ_t g_t‖²` at the one product and at the other.

    The first two by `norm` where they share nothing. They do where `norm` is the form for
    processors, and that is the ghost norm.
    """
    n, k, t, o = g.shape
    shares = norm is weight_sq_norm and n > 0
    if not shares or choose_form(t, a.shape[-1], o, k) != "ghost":
        pairs = [*zip(columns.activations(a), columns.gradients(g), strict=True)]
        biases = [bias_sq_norm(each) for _, each in pairs[: 2 if columns.own else 1]]
        return torch.stack([*(norm(*pair) for pair in pairs), biases[0], biases[-1]], -1)
    a, g = reference.widen(a, g)
    found, scales = g.new_empty(4, n, k), g.new_empty(4, n, k)
    for some, cotangents in _blocks(n, k, t):
        grams = _grams(g[some, cotangents], columns)
        diagonals = [gram.diagonal(dim1=2, dim2=3) for gram in grams]
        for i, each in enumerate(columns.activations(a[some])):
            gram = torch.bmm(each, each.mT)[:, None]
            # A product with one column would add up thousands of terms in one number.
            found[i, some, cotangents] = (gram * grams[i]).sum((-1, -2))
            squares = gram.diagonal(dim1=2, dim2=3)
            scales[i, some, cotangents] = torch.linalg.vecdot(squares, diagonals[i])
        for i in range(2 if columns.own else 1):
            found[2 + i :, some, cotangents] = grams[i].sum((-1, -2))
            scales[2 + i :, some, cotangents] = diagonals[i].sum(-1)
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
    activations = columns.activations(a)
    for i, rows in enumerate(columns.gradients(g) * 2):
        samples, cotangents = lost[i].nonzero(as_tuple=True)
        few = rows[samples, cotangents]
        if i < 2:
            weights = reference.direct_sq_norm(activations[i][samples], few[:, None])
            found[i, samples, cotangents] = weights[:, 0]
        else:
            found[i, samples, cotangents] = bias_sq_norm(few)
