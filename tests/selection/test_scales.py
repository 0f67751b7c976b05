"""Points and scores of any scale, and points that lie close together: the same choice."""

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from fastgradnorm._selection.free import Free
from fastgradnorm._selection.given import Given
from fastgradnorm._selection.kernel import distance_quantile
from fastgradnorm._selection.table import TABLE
from tests.support import choosing


def given(points, labelled=4, k=8, scores=1.0):
    """Of the first `labelled` points something is known; the others are candidates."""
    n = len(points) - labelled
    generator = torch.Generator().manual_seed(1)
    p = torch.randn(len(points), 3, generator=generator).softmax(1)
    top = p.topk(2, dim=1).values
    return Given(
        k, 0, Free(n), scores=torch.rand(n, generator=generator).double() * scores,
        points=points[labelled:], labelled=points[:labelled], probabilities=p[labelled:],
        residuals=(p - torch.eye(3)[p.argmax(1)])[labelled:], labelled_probabilities=p[:labelled],
        margins=(1 - top[:, 0] + top[:, 1])[labelled:],
        entropies=torch.special.entr(p).sum(1)[labelled:],
        doubts=(1 - top[:, 0])[labelled:],
    )  # fmt: skip


def drawn(n=44, d=4):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("labelled", [0, 4])
@pytest.mark.parametrize("name", TABLE)
class TestScale:
    # In float32 squares of the first vanish and those of the last are infinite.
    @pytest.mark.parametrize("scale", [2.0**-100, 2.0**-50, 2.0**50, 2.0**100])
    def test_of_points(self, name, labelled, scale):
        plain = TABLE[name].choose(given(drawn(), labelled))
        scaled = TABLE[name].choose(given(drawn() * scale, labelled))
        assert scaled.positions.tolist() == plain.positions.tolist()

    @pytest.mark.parametrize("scale", [2.0**-300, 2.0**-140, 2.0**127, 2.0**300])
    def test_of_scores(self, name, labelled, scale):
        plain = TABLE[name].choose(given(drawn(), labelled))
        scaled = TABLE[name].choose(given(drawn(), labelled, scores=scale))
        assert scaled.positions.tolist() == plain.positions.tolist()


def herded(points, labelled, weights, positions):
    """Of each chosen in turn: what it adds, of the most that one of the candidates would."""
    x, known = (normalize(part.double(), dim=1) for part in (points, labelled))
    width = float(
        torch.quantile(torch.cat([(x[i] - x[i + 1 :]).norm(dim=1) for i in range(40)]), 0.1)
    )
    found = []
    for i in positions:
        sq = torch.stack([(x - at).square().sum(1) for at in (*known, *x)], 1)
        similar = torch.exp(-sq / (2 * width**2))
        covered = similar[:, : len(known)].amax(1) if len(known) else torch.zeros(len(x)).double()
        added = (similar[:, len(known) :] - covered[:, None]).clamp_min(0).T @ weights
        found.append(float(added[i] / added.max()))
        known = torch.cat([known, x[i : i + 1]])
    return found


# One of the numbers of each point is far larger than what tells them apart, as of raw columns.
FAR = [10.0, 1e2, 1e3, 1e4]


@pytest.mark.parametrize("far", FAR)
class TestPointsThatLieCloseTogether:
    def points(self, far):
        return drawn() + far * torch.tensor([1.0, 0, 0, -1])

    @pytest.mark.parametrize("name", ["herding", "maxherding"])
    @pytest.mark.parametrize("labelled", [0, 4])
    def test_coverage(self, name, labelled, far):
        points = self.points(far)
        asked = given(points, labelled)
        made = TABLE[name].choose(asked).positions.tolist()
        weights = asked.scores if name == "herding" else torch.ones(len(asked.scores)).double()
        assert min(herded(asked.points, asked.labelled, weights, made)) > 0.999

    def test_lcmd_against_a_loop(self, far):
        asked = given(self.points(far))
        expected = choosing.lcmd(asked.points, asked.labelled, 8)
        assert TABLE["lcmd"].choose(asked).positions.tolist() == expected

    def test_uncertainty_herding_has_the_radius_of_what_is_labelled(self, far):
        asked = given(self.points(far))
        from fastgradnorm._selection import uncertainty_herding as module

        x = normalize(asked.labelled.double(), dim=1)
        least = min(float((x[i] - x[j]).norm()) for i in range(4) for j in range(i))
        points, labelled = asked.directions()
        found = module.smallest_distance(points, labelled)
        assert found == pytest.approx(least, rel=2e-3)


def test_a_design_of_samples_that_are_all_but_certain_still_spreads():
    """The ridge is one mean sample, however little a sample tells."""
    points = drawn(40)[:8].repeat(5, 1)  # each five times
    made = TABLE["bait"].choose(given(points, 0)).positions.remainder(8)
    sure = given(points * 1e-12, 0)
    assert TABLE["bait"].choose(sure).positions.remainder(8).tolist() == made.tolist()


class TestPoolsOfWhichManySamplesAreOne:
    """As of blank pictures, whose features differ by rounding, or by the noise of a scanner."""

    def points(self, noise, share=0.4):
        generator = torch.Generator().manual_seed(0)
        centers = torch.eye(8, 16)
        others = centers.repeat_interleave(75, 0)
        others = others + 0.1 * torch.randn(600, 16, generator=generator)
        count = int(600 * share / (1 - share))
        blank = torch.ones(16) * (1 + noise * torch.randn(count, 16, generator=generator))
        return torch.cat([others, blank])

    @pytest.mark.slow
    @pytest.mark.parametrize("noise", [0.0, 1e-7, 1e-6, 1e-5, 1e-4])
    @pytest.mark.parametrize("share", [0.35, 0.6, 0.8])
    def test_the_others_are_covered(self, noise, share):
        points = self.points(noise, share)
        made = TABLE["maxherding"].choose(given(points, 0, 9)).positions
        groups = made.clamp_max(600).div(75, rounding_mode="floor").tolist()
        assert sorted(groups) == [*range(9)]  # one of each, and one blank

    @pytest.mark.slow
    @pytest.mark.parametrize("noise", [0.0, 1e-7, 1e-6, 1e-5, 1e-4])
    def test_the_bandwidth_is_that_of_the_others(self, noise):
        points = normalize(self.points(noise), dim=1)
        found = distance_quantile(points, 0.1, np.random.default_rng(0))
        assert found == pytest.approx(
            distance_quantile(points[:600], 0.1, np.random.default_rng(0)), rel=0.5
        )
