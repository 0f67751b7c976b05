"""Verification by the caller's own model, called as they call it; what the numbers say."""

from fastgradnorm._witness.disagreements import compared
from fastgradnorm._witness.findings import Finding, Findings
from fastgradnorm._witness.own_call import OwnModel
from fastgradnorm._witness.padding import same_without
from fastgradnorm._witness.record import Record
from fastgradnorm._witness.rounding import movement, tolerance
from fastgradnorm._witness.scores import ALIKE, judge_scores
from fastgradnorm._witness.several import look_at_each
from fastgradnorm._witness.witness import Learnt, Look, Witness

__all__ = [
    "ALIKE",
    "Finding",
    "Findings",
    "Learnt",
    "Look",
    "OwnModel",
    "Record",
    "Witness",
    "compared",
    "judge_scores",
    "look_at_each",
    "movement",
    "same_without",
    "tolerance",
]
