"""A pool: which samples, on which ranks, resumed from where."""

from fastgradnorm._pool.checkpoint import rows_of
from fastgradnorm._pool.columns import Columns
from fastgradnorm._pool.datasets import as_loader, is_dataset, size_before_reading
from fastgradnorm._pool.identity import digest
from fastgradnorm._pool.ledger import Part
from fastgradnorm._pool.loaders import CALLED, can_be_indexed, check_loader, made_anew
from fastgradnorm._pool.order import Placement
from fastgradnorm._pool.origins import shared_samples
from fastgradnorm._pool.provenance import by_group, provenance
from fastgradnorm._pool.run import Run
from fastgradnorm._pool.samples import make_pool, nothing_to_score
from fastgradnorm._pool.shared_run import SharedRun
from fastgradnorm._pool.single import Calls
from fastgradnorm._pool.start import check_ranks, make_engine, start

__all__ = [
    "CALLED",
    "Calls",
    "Columns",
    "Part",
    "Placement",
    "Run",
    "SharedRun",
    "as_loader",
    "by_group",
    "can_be_indexed",
    "check_loader",
    "check_ranks",
    "digest",
    "is_dataset",
    "made_anew",
    "make_engine",
    "make_pool",
    "nothing_to_score",
    "provenance",
    "rows_of",
    "shared_samples",
    "size_before_reading",
    "start",
]
