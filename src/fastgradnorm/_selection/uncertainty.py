"""Uncertainty of the prediction: the first to be labelled is the least certain."""

from fastgradnorm._selection.by_order import by_value
from fastgradnorm._selection.given import Chosen, Given


def margin(given: Given) -> Chosen:
    """The smallest difference of the two largest probabilities."""
    return by_value(given, given.need("margins"))


def entropy(given: Given) -> Chosen:
    """The largest entropy of the class probabilities."""
    return by_value(given, given.need("entropies"))


def least_confidence(given: Given) -> Chosen:
    """The smallest largest probability."""
    return by_value(given, given.need("doubts"))
