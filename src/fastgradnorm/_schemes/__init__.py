"""Logits to cotangents, norms to scores."""

from fastgradnorm._schemes.checks import check_loss
from fastgradnorm._schemes.draws import Draw
from fastgradnorm._schemes.estimate import Partial
from fastgradnorm._schemes.groups import GroupBy, Groups, column, is_column
from fastgradnorm._schemes.labelled import labelled_pull_backs, loss_size
from fastgradnorm._schemes.losses import (
    LABELLED_SCHEMES,
    LabelledScheme,
    Labels,
    LossName,
    Target,
    check_target,
    error_norm,
    find_target,
    settled,
    takes_logits,
)
from fastgradnorm._schemes.objective import Objective, make_objective, total_norms, uniform_numbers
from fastgradnorm._schemes.posterior import Posterior, class_cotangents, posterior, unit_sized
from fastgradnorm._schemes.predictions import predictions
from fastgradnorm._schemes.pull_backs import PullBacks
from fastgradnorm._schemes.scored import Scored
from fastgradnorm._schemes.table import SCHEMES, SKETCHED, TABLE, Scheme, SketchScheme

__all__ = [
    "LABELLED_SCHEMES",
    "SCHEMES",
    "SKETCHED",
    "TABLE",
    "Draw",
    "GroupBy",
    "Groups",
    "LabelledScheme",
    "Labels",
    "LossName",
    "Objective",
    "Partial",
    "Posterior",
    "PullBacks",
    "Scheme",
    "Scored",
    "SketchScheme",
    "Target",
    "check_loss",
    "check_target",
    "class_cotangents",
    "column",
    "error_norm",
    "find_target",
    "is_column",
    "labelled_pull_backs",
    "loss_size",
    "make_objective",
    "posterior",
    "predictions",
    "settled",
    "takes_logits",
    "total_norms",
    "uniform_numbers",
    "unit_sized",
]
