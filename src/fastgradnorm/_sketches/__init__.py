"""Sketches of per-sample gradients: made, stored, and multiplied with each other."""

from fastgradnorm._sketches.dots import sketch_dots, sketch_errors
from fastgradnorm._sketches.sketch import (
    checked_sketches,
    gradient_sketch,
    sketching,
    store_sketches,
)
from fastgradnorm._sketches.sketched import Sketches
from fastgradnorm._sketches.store import SketchStore

__all__ = [
    "SketchStore",
    "Sketches",
    "checked_sketches",
    "gradient_sketch",
    "sketch_dots",
    "sketch_errors",
    "sketching",
    "store_sketches",
]
