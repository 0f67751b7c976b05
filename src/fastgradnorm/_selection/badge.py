"""BADGE (Ash et al., 2020, https://arxiv.org/abs/1906.03671), and k-means++ over other points."""

from torch.nn.functional import normalize

from fastgradnorm._selection.embedding import Outer, Rows
from fastgradnorm._selection.given import Chosen, Given
from fastgradnorm._selection.kmeans_pp import kmeans_pp


def badge(given: Given) -> Chosen:
    """k-means++ over gradients `(p - e_ŷ) ⊗ h` of the last weight, factored."""
    embedding = Outer(given.need("residuals").double(), given.need("points").double())
    return Chosen(kmeans_pp(embedding, given.k, given.generator(), None, given.free))


def spread(given: Given) -> Chosen:
    """k-means++ over the points as they are."""
    rows = Rows(given.need("points").double())
    return Chosen(kmeans_pp(rows, given.k, given.generator(), None, given.free))


def diverse(given: Given) -> Chosen:
    """k-means++ over the directions of the points, weighted by score."""
    rows = Rows(normalize(given.need("points").double(), dim=1, eps=0))
    weights = given.need("scores").double()
    return Chosen(kmeans_pp(rows, given.k, given.generator(), weights, given.free))
