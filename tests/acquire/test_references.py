"""What `acquire` chooses, from the model to the list, against NumPy in float64 and plain autograd.

Nothing of the package is used but `acquire`: features, probabilities and gradient norms are those
of the caller's own model, one sample at a time, and each strategy is written anew from its paper.
"""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fastgradnorm import acquire

N, K, LABELLED = 48, 9, [5, 17, 30]
REST = [i for i in range(N) if i not in LABELLED]


class Truth:
    """What the caller's own model says of each sample."""

    def __init__(self, x):
        torch.manual_seed(3)
        self.model = nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 3)).double().eval()
        head = self.model[2]
        rows, p, norms = [], [], []
        for sample in x:
            rows.append(self.model[:2](sample).detach().numpy())
            logits = self.model(sample[None])
            p.append(logits.softmax(1).detach().numpy()[0])
            norm = 0.0
            for c in range(3):
                loss = F.cross_entropy(logits, torch.tensor([c]))
                found = torch.autograd.grad(loss, [head.weight, head.bias], retain_graph=True)
                norm += p[-1][c] * float(sum(g.square().sum() for g in found)) ** 0.5
            norms.append(norm)
        self.h, self.p, self.norms = np.array(rows), np.array(p), np.array(norms)
        self.units = self.h / np.linalg.norm(self.h, axis=1, keepdims=True)
        two = np.sort(self.p, axis=1)[:, ::-1]
        self.margins = 1 - (two[:, 0] - two[:, 1])
        self.entropies = -(self.p * np.log(self.p)).sum(1)


@pytest.fixture(scope="module")
def x():
    draw = torch.Generator().manual_seed(8)
    return 1.5 * torch.randn(N, 6, generator=draw, dtype=torch.float64)


@pytest.fixture(scope="module")
def truth(x):
    return Truth(x)


def distance(a, b):
    return float(np.linalg.norm(a - b))


def pairs(points):
    """Distances of all pairs of candidates."""
    return [distance(points[i], points[j]) for i in REST for j in REST if i < j]


def herd(units, weights, width):
    def similar(a, b):
        return np.exp(-(distance(units[a], units[b]) ** 2) / (2 * width**2))

    def value(i):
        there = [*LABELLED, *chosen, i]
        return sum(weights[j] * max(similar(j, s) for s in there) for j in REST)

    chosen = []
    for _ in range(K):
        chosen.append(max((i for i in REST if i not in chosen), key=value))
    return chosen


def herding(t):
    return herd(t.units, t.norms, np.quantile(pairs(t.units), 0.1))


def max_herding(t):
    return herd(t.units, np.ones(N), np.quantile(pairs(t.units), 0.1))


def uncertainty_herding(t):
    labelled = [t.units[i] for i in LABELLED]
    radius = min(distance(a, b) for n, a in enumerate(labelled) for b in labelled[:n])
    return herd(t.units, t.margins, radius)


def adaptive(t):
    width = np.quantile(pairs(t.units), 0.1)
    covered = np.mean([
        max(np.exp(-distance(t.units[j], t.units[s]) ** 2 / (2 * width**2)) for s in LABELLED)
        for j in REST
    ])  # fmt: skip
    mean = t.norms[REST].mean()
    return herd(t.units, (1 - covered) + covered * t.norms / mean, width)


def k_center(points, known):
    chosen = []
    while len(chosen) < K:
        reach = {
            i: min(distance(points[i], points[s]) for s in [*known, *chosen])
            for i in REST
            if i not in chosen
        }
        chosen.append(max(reach, key=reach.get))
    return chosen


def core_set(t):
    return k_center(t.h, LABELLED)


def lcmd(t):
    centers, chosen = [*LABELLED], []
    for _ in range(K):
        nearest = {i: min(centers, key=lambda s, i=i: distance(t.h[i], t.h[s])) for i in REST}
        size = dict.fromkeys(centers, 0.0)
        for i in REST:
            size[nearest[i]] += distance(t.h[i], t.h[nearest[i]]) ** 2
        largest = max(size, key=size.get)
        inside = [i for i in REST if nearest[i] == largest and i not in chosen]
        chosen.append(max(inside, key=lambda i: distance(t.h[i], t.h[largest])))
        centers.append(chosen[-1])
    return chosen


def bait(t):
    def information(i):
        total = np.zeros((12, 12))
        for c in range(3):
            v = np.kron(t.p[i] - np.eye(3)[c], t.h[i])
            total += t.p[i, c] * np.outer(v, v)
        return total

    each = {i: information(i) for i in range(N)}
    mean = sum(each[i] for i in REST) / len(REST)
    m = sum(each[i] for i in LABELLED) + np.eye(12) * np.trace(mean) / 12
    chosen = []
    for _ in range(K):
        left = {i: np.trace(np.linalg.inv(m + each[i]) @ mean) for i in REST if i not in chosen}
        chosen.append(min(left, key=left.get))
        m = m + each[chosen[-1]]
    return chosen


def highest(values):
    return sorted(REST, key=lambda i: -values[i])[:K]


REFERENCES = {
    "herding": herding,
    "maxherding": max_herding,
    "uherding": uncertainty_herding,
    "adaptive": adaptive,
    "coreset": core_set,
    "lcmd": lcmd,
    "bait": bait,
    "margin": lambda t: highest(t.margins),
    "entropy": lambda t: highest(t.entropies),
    "least_confidence": lambda t: highest(1 - t.p.max(1)),
    "top": lambda t: highest(t.norms),
    "kcenter": lambda t: [
        first := max(REST, key=lambda i: np.linalg.norm(t.h[i])), *k_center(t.h, [first])
    ][:K],
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", REFERENCES)
def test_against_numpy(x, truth, name):
    made = acquire(truth.model, [x], K, labelled=LABELLED, strategy=name, progress=False)
    assert made.indices.tolist() == REFERENCES[name](truth)


def test_scores_are_those_of_the_loop(x, truth):
    made = acquire(truth.model, [x], K, labelled=LABELLED, progress=False)
    np.testing.assert_allclose(made.scores.values.numpy(), truth.norms, rtol=1e-6)


def frequencies(model, x, name, k, seeds):
    """How often each sample is the last of k."""
    found = np.zeros(len(x))
    for seed in range(seeds):
        given = {"strategy": name, "seed": seed, "verify": False, "progress": False}
        found[int(acquire(model, [x], k, **given).indices[-1])] += 1
    return found / seeds


@pytest.mark.slow
@pytest.mark.parametrize("name", ["badge", "kmeans++", "random", "proportional"])
def test_draws_have_their_probabilities(x, truth, name):
    """Of eight samples: the second of BADGE by squared distance of gradients to the first."""
    t, few = Truth(x[:8]), x[:8]
    if name == "random":
        expected = np.full(8, 1 / 8)
    elif name == "proportional":
        expected = t.norms / t.norms.sum()
    else:
        points = t.h
        if name == "badge":
            residuals = t.p - np.eye(3)[t.p.argmax(1)]
            points = np.array([np.kron(r, h) for r, h in zip(residuals, t.h, strict=True)])
        first = np.linalg.norm(points, axis=1).argmax()
        sq = ((points - points[first]) ** 2).sum(1)
        expected = sq / sq.sum()
    seeds = 120
    found = frequencies(t.model, few, name, 2 if name in ("badge", "kmeans++") else 1, seeds)
    error = np.sqrt(expected * (1 - expected) / seeds)
    assert (np.abs(found - expected) < 4.5 * error + 1e-9).all()


def test_typical_samples_and_balls_of_clusters_that_are_apart():
    """Where there is one way to cluster: TypiClust's densest of each, ProbCover's fullest balls."""
    draw = np.random.default_rng(1)
    angles, sizes = [0.0, 2.1, 4.2], [30, 20, 12]
    turned = [a + 0.08 * draw.standard_normal(n) for a, n in zip(angles, sizes, strict=True)]
    angle = np.concatenate(turned)
    h = np.stack([np.cos(angle), np.sin(angle)], 1)
    model = nn.Sequential(nn.Identity(), nn.Linear(2, 3)).double().eval()
    place = np.repeat([0, 1, 2], sizes)
    gaps = np.linalg.norm(h[:, None] - h, axis=2)
    typical = []
    for c in range(3):
        members = np.flatnonzero(place == c)
        near = np.sort(gaps[np.ix_(members, members)], axis=1)[:, 1:21]
        typical.append(members[(1 / near.mean(1)).argmax()])
    pool = [torch.tensor(h)]
    made = acquire(model, pool, 3, strategy="typiclust", progress=False)
    assert made.indices.tolist() == typical  # the largest cluster first
    radius = np.quantile([gaps[i][place != place[i]].min() for i in range(62)], 0.05)
    covered, balls = np.zeros(62, bool), []
    for _ in range(3):
        balls.append(int((((gaps <= radius) & ~covered).sum(1)).argmax()))
        covered |= gaps[balls[-1]] <= radius
    made = acquire(model, pool, 3, strategy="probcover", progress=False).indices.tolist()
    assert place[made].tolist() == place[balls].tolist() == [0, 1, 2]
    assert (gaps[made] <= radius).any(0).sum() == covered.sum()
