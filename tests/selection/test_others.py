"""The other strategies: what each chooses, against plain computations."""

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from fastgradnorm._selection import fisher as fisher_module
from fastgradnorm._selection.clusters import k_means, nearest_center
from fastgradnorm._selection.fisher import fisher
from fastgradnorm._selection.free import Free
from fastgradnorm._selection.given import Given
from fastgradnorm._selection.lcmd import lcmd
from fastgradnorm._selection.names import in_space, named, names
from fastgradnorm._selection.table import TABLE
from fastgradnorm._selection.typiclust import typiclust
from tests.support import choosing


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class TestClusters:
    def test_k_means_finds_what_is_apart(self):
        centers = 10 * torch.eye(4)
        points = (centers[:, None] + 0.1 * randn(4, 25, 4)).reshape(100, 4)
        found = k_means(points, 4, np.random.default_rng(0))
        places, distances = nearest_center(points, found)
        assert all(len(part.unique()) == 1 for part in places.split(25))
        assert len(places.unique()) == 4
        assert torch.allclose(distances, (points - found[places]).square().sum(1), atol=1e-3)

    def test_of_points_that_are_all_one(self):
        assert k_means(torch.ones(7, 2), 3, np.random.default_rng(0)).tolist() == [[1, 1]] * 3


class TestTypiClust:
    def groups(self):
        """Three tight groups of 30, 20 and 10 around directions, and a stray."""
        centers = torch.eye(4)
        parts = [centers[i] + 0.05 * randn(n, 4, seed=i) for i, n in enumerate((30, 20, 10))]
        return torch.cat([*parts, -centers[:1]])

    def test_one_of_each_group_the_largest_first_and_strays_last(self):
        points = self.groups()
        made = typiclust(Given(3, 0, Free(61), points=points, labelled=points[:0])).positions
        groups = torch.bucketize(made, torch.tensor([30, 50, 60]), right=True).tolist()
        assert groups[0] == 0
        assert 3 not in groups

    def test_groups_that_have_labels_come_later(self):
        points = self.groups()
        made = typiclust(Given(2, 0, Free(61), points=points, labelled=points[:2])).positions
        assert not bool((made < 30).all())

    def test_the_most_typical_is_the_nearest_to_its_20(self):
        points = self.groups()[:30]
        made = typiclust(Given(1, 0, Free(30), points=points, labelled=points[:0])).positions
        distances = torch.cdist(normalize(points, dim=1), normalize(points, dim=1))
        mean = distances.sort(1).values[:, 1:21].mean(1)
        assert int(made) == int(mean.argmin())


class TestLcmd:
    def test_against_a_loop(self):
        points, labelled = randn(40, 3), randn(4, 3, seed=1)
        made = lcmd(Given(8, 0, Free(40), points=points, labelled=labelled))
        assert made.positions.tolist() == choosing.lcmd(points, labelled, 8)

    def test_cold_it_begins_with_the_largest(self):
        points = randn(40, 3)
        made = lcmd(Given(5, 0, Free(40), points=points, labelled=points[:0])).positions
        assert int(made[0]) == int(points.norm(dim=1).argmax())
        assert len(made.unique()) == 5


class TestFisher:
    def exact(self, p, h):
        """The Fisher matrix of the last weight of each sample, from its definition."""
        found = []
        for q, x in zip(p.double(), h.double(), strict=True):
            total = 0
            for c in range(len(q)):
                v = torch.kron(q - torch.eye(len(q), dtype=torch.float64)[c], x)
                total = total + q[c] * torch.outer(v, v)
            found.append(total)
        return torch.stack(found)

    def given(self, k=6, classes=3, dim=5):
        p = randn(40, classes).softmax(1)
        known = randn(5, classes, seed=2).softmax(1)
        return Given(
            k, 0, Free(40), points=randn(40, dim, seed=1), labelled=randn(5, dim, seed=3),
            probabilities=p, labelled_probabilities=known,
        )  # fmt: skip

    def test_against_matrices(self):
        given = self.given()
        each = self.exact(given.probabilities, given.points)
        mean = each.mean(0)
        known = self.exact(given.labelled_probabilities, given.labelled).sum(0)
        m = known + torch.eye(15) * mean.trace() / 15
        chosen = []
        for _ in range(6):
            traces = [
                float((torch.linalg.inv(m + f) @ mean).trace()) if i not in chosen else np.inf
                for i, f in enumerate(each)
            ]
            chosen.append(int(np.argmin(traces)))
            m = m + each[chosen[-1]]
        assert fisher(given).positions.tolist() == chosen

    def test_sketched_products_keep_inner_products(self):
        p, h = randn(6, 8).softmax(1), randn(6, 60, seed=1)
        exact = self.exact(p, h)
        traces = []
        for seed in range(30):
            rows = fisher_module._Factors(8, 60, np.random.default_rng(seed)).of(p, h)
            assert rows.shape == (6, 8, 128)
            traces.append(rows.square().sum((1, 2)).double())
        wanted = torch.stack([f.trace() for f in exact])
        assert torch.allclose(torch.stack(traces).mean(0), wanted, rtol=0.1)

    def test_what_is_labelled_counts(self):
        given = self.given()
        cold = Given(
            6, 0, Free(40), points=given.points, labelled=given.points[:0],
            probabilities=given.probabilities, labelled_probabilities=given.probabilities[:0],
        )  # fmt: skip
        assert fisher(cold).positions.tolist() != fisher(given).positions.tolist()


class TestFree:
    def everything(self, k, free, n=40):
        p = randn(n, 3, seed=5).softmax(1)
        return Given(
            k, 0, free, scores=torch.rand(n, generator=torch.Generator().manual_seed(0)),
            points=randn(n, 4, seed=1), labelled=randn(3, 4, seed=2), probabilities=p,
            residuals=p - torch.eye(3)[p.argmax(1)], labelled_probabilities=p[:3],
            margins=p[:, 0], entropies=p[:, 1], doubts=p[:, 2],
        )  # fmt: skip

    @pytest.mark.parametrize("how", TABLE)
    def test_every_strategy_keeps_to_the_groups(self, how):
        groups = torch.arange(40) % 5
        free = Free(40, groups, 2)
        made = TABLE[how].choose(self.everything(10, free)).positions
        assert torch.bincount(groups[made]).tolist() == [2] * 5
        with pytest.raises(ValueError, match=r"`k` must be at most 10.*`max_per_group`"):
            TABLE[how].choose(self.everything(11, Free(40, groups, 2)))

    @pytest.mark.parametrize("how", TABLE)
    def test_every_strategy_leaves_near_duplicates_out(self, how):
        given = self.everything(8, Free(40))
        units = given.units()[0]
        units = torch.where(torch.arange(40)[:, None] % 2 == 0, units, units.roll(1, 0))  # pairs
        free = Free(40, points=units, similarity=0.999)
        made = TABLE[how].choose(self.everything(8, free)).positions
        assert len((made // 2).unique()) == 8

    def test_near_what_is_labelled(self):
        points = normalize(torch.tensor([[1.0, 0], [0, 1], [1, 0.001]]), dim=1)
        free = Free(3, points=points, similarity=0.999)
        free.close_near(points[:1])
        assert free.mask.tolist() == [False, True, False]

    @pytest.mark.parametrize("how", TABLE)
    def test_the_same_seed_chooses_the_same(self, how):
        first, second = (TABLE[how].choose(self.everything(9, Free(40))) for _ in range(2))
        assert torch.equal(first.positions, second.positions)
        assert len(first.positions.unique()) == 9


class TestNames:
    def test_each_name_stands_for_something(self):
        for name in names():
            assert named(name).how in TABLE

    @pytest.mark.parametrize(
        "name, says",
        [
            ("auto", ("herding", None, None, None)),
            ("expected/all/herding", ("herding", "expected", "all", None)),
            ("entropy_gradnorm/last_layer/top", ("top", "entropy", "last_layer", None)),
            ("sketch/entropy/all/kcenter", ("kcenter", None, "all", "entropy")),
            ("published", ("top", "entropy", "all", None)),
        ],
    )
    def test_what(self, name, says):
        found = named(name)
        assert (found.how, found.scheme, found.params, found.sketch) == says

    @pytest.mark.parametrize(
        "name", ["herdin", "expected/all/badge", "sketch/predicted/all/badge", "a/b", "", "Top"]
    )
    def test_others_are_refused_with_what_is_close(self, name):
        with pytest.raises(ValueError, match="`strategy` must be one that is known"):
            named(name)
        with pytest.raises(ValueError, match="Close to it: herding"):
            named("herdin")
        with pytest.raises(TypeError, match="`strategy` must be a name"):
            named(None)

    def test_spaces(self):
        assert in_space(named("herding"), "sketch").sketch == "predicted"
        assert in_space(named("margin"), "sketch").sketch is None
        assert in_space(named("diverse"), "last_layer").sketch == "predicted"
        with pytest.raises(ValueError, match="`space` must be 'last_layer' for 'badge'"):
            in_space(named("badge"), "sketch")
