"""MaxHerding (Bae et al., 2024, https://arxiv.org/abs/2407.12212): coverage, all weighing alike."""

from fastgradnorm._selection.given import Chosen, Given
from fastgradnorm._selection.herding import herd


def max_herding(given: Given) -> Chosen:
    """Greedy coverage under a Gaussian kernel; the bandwidth is the 10 % quantile of distances."""
    return herd(given, None)
