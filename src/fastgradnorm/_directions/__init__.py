"""Directions, products of per-sample gradients with them, and mean gradients."""

from fastgradnorm._directions.directions import (
    Directions,
    checked_dots,
    gradient_dots,
    mean_gradient,
)
from fastgradnorm._directions.dots import Dots, directed
from fastgradnorm._directions.metric import check_metric, metric_of
from fastgradnorm._directions.pulled import Pulled

__all__ = [
    "Directions",
    "Dots",
    "Pulled",
    "check_metric",
    "checked_dots",
    "directed",
    "gradient_dots",
    "mean_gradient",
    "metric_of",
]
