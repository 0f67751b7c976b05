"""Sketches by a float64 loop that hashes each element of each gradient, one by one."""

import copy
import hashlib

import torch
from torch.nn import functional as F

from fastgradnorm import gradient_sketch
from tests.support import oracle

WORD = (1 << 64) - 1


def mixed(x):
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & WORD
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB & WORD
    return x ^ (x >> 31)


def hashed(seed, name, side, index, dim):
    """Bucket and sign, in Python's own integers: place among `dim` of them, and last bit."""
    digest = hashlib.blake2b(repr((seed, name, side)).encode(), digest_size=16).digest()
    first, second = (int.from_bytes(digest[i : i + 8], "little") for i in (0, 8))

    def word(number):
        return mixed(mixed(((number + 1) * 0x9E3779B97F4A7C15 + first) & WORD) ^ second)

    start, x = index // dim * dim, word(index)
    bucket = sum(word(other) >> 1 < x >> 1 for other in range(start, start + dim))
    return bucket, 1 - 2 * (x & 1)


def by_element(gradient, dim, seed):
    """Of a mapping from names to gradients: every element to its bucket, one by one."""
    sketch = [0.0] * dim
    for name, g in gradient.items():
        matrix = torch.view_as_real(g) if g.is_complex() else g
        matrix = matrix.reshape(len(g) if g.dim() else 1, -1)
        rows = [hashed(seed, name, "rows", o, dim) for o in range(matrix.shape[0])]
        columns = [hashed(seed, name, "columns", i, dim) for i in range(matrix.shape[1])]
        for (h, s), row in zip(rows, matrix.tolist(), strict=True):
            for (h2, s2), value in zip(columns, row, strict=True):
                sketch[(h + h2) % dim] += s * s2 * value
    return torch.tensor(sketch, dtype=torch.float64)


def expected(model, batch, dim, seed, names=None):
    """Sketches `[N, k]` and lengths `[N]` of gradients by a float64 loop over the samples."""
    model = copy.deepcopy(model)._apply(oracle.in_float64).eval()
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    named = named if names is None else {name: named[name] for name in names}
    sketches, sizes = [], []
    for x, label in zip(*map(oracle.in_float64, batch), strict=True):
        loss = F.cross_entropy(model(x[None]), label[None])
        grads = torch.autograd.grad(loss, [*named.values()], allow_unused=True)
        known = {name: g.to_dense() for name, g in zip(named, grads, strict=True) if g is not None}
        sketches.append(by_element(known, dim, seed))
        sizes.append(sum(float(g.abs().square().sum()) for g in known.values()) ** 0.5)
    return torch.stack(sketches), torch.tensor(sizes)


def found(model, batches, dim, seed, **options):
    options = {"loss": "cross_entropy", "progress": False, **options}
    return gradient_sketch(model, batches, dim, seed=seed, **options).double()


def gradients_of(model, batch):
    """Gradients `[N, P]` of the cross-entropy, by a float64 loop over the samples."""
    model = copy.deepcopy(model).double().eval()
    rows = []
    for x, label in zip(*map(oracle.in_float64, batch), strict=True):
        loss = F.cross_entropy(model(x[None]), label[None])
        grads = torch.autograd.grad(loss, [*model.parameters()])
        rows.append(torch.cat([g.flatten() for g in grads]))
    return torch.stack(rows)
