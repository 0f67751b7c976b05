"""Which samples to label: strategies over scores, features and probabilities; tensors only."""

from fastgradnorm._selection.by_score import Strategy, select
from fastgradnorm._selection.covering import covering
from fastgradnorm._selection.embedding import Embedding, Outer, Rows, nearest_sq_distances
from fastgradnorm._selection.free import Free
from fastgradnorm._selection.given import Given
from fastgradnorm._selection.k_center import k_center
from fastgradnorm._selection.kmeans_pp import kmeans_pp
from fastgradnorm._selection.names import Named, in_space, named, names
from fastgradnorm._selection.near_duplicates import ALIKE, alike
from fastgradnorm._selection.table import TABLE

__all__ = [
    "ALIKE",
    "TABLE",
    "Embedding",
    "Free",
    "Given",
    "Named",
    "Outer",
    "Rows",
    "Strategy",
    "alike",
    "covering",
    "in_space",
    "k_center",
    "kmeans_pp",
    "named",
    "names",
    "nearest_sq_distances",
    "select",
]
