"""Scores out: kept, exported, selected from."""

from fastgradnorm._results.described import pool_facts, records
from fastgradnorm._results.nonfinite import tell_nonfinite
from fastgradnorm._results.scores import PoolScores
from fastgradnorm._results.selection import Selection

__all__ = ["PoolScores", "Selection", "pool_facts", "records", "tell_nonfinite"]
