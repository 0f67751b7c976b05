"""Core-set (Sener and Savarese, 2018, https://arxiv.org/abs/1708.00489): k-center over features."""

from fastgradnorm._selection.embedding import Rows, nearest_sq_distances
from fastgradnorm._selection.given import Chosen, Given
from fastgradnorm._selection.k_center import k_center


def coreset(given: Given) -> Chosen:
    """Each the farthest from all labelled and chosen ones."""
    points = given.need("points").double()
    labelled = given.labelled
    reach = None
    if labelled is not None and len(labelled):
        reach = nearest_sq_distances(points, labelled.double())
    return Chosen(k_center(Rows(points), given.k, reach, given.free))


def farthest(given: Given) -> Chosen:
    """The same, but from nothing: the first is the one of largest norm."""
    return Chosen(k_center(Rows(given.need("points").double()), given.k, None, given.free))
