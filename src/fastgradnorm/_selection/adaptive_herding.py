r"""Herding whose weight follows what is labelled.

Where labels are few, what counts is to cover the pool; where they are many, what the model is not
sure about. So each sample weighs `(1 - c) + c w(x) / mean(w)`, where c is the share of the pool
that labelled samples cover already, under the kernel of `herding`.
"""

from fastgradnorm._selection.covering import covering
from fastgradnorm._selection.given import Chosen, Given
from fastgradnorm._selection.herding import herd


def adaptive_herding(given: Given) -> Chosen:
    """As `herding`, with that weight; before there are labels, as `max_herding`."""
    scores = given.need("scores").double().nan_to_num(0, 0, 0).clamp_min(0)
    covered, _ = covering(given, given.free.mask.nonzero()[:0, 0])
    mean = float(scores.mean())
    return herd(given, None if mean == 0 else (1 - covered) + covered * scores / mean)
