"""Logits to cotangents, norms to scores."""

from fastgradnorm._schemes.checks import check_loss
from fastgradnorm._schemes.draws import Draw
from fastgradnorm._schemes.estimate import Partial
from fastgradnorm._schemes.groups import GroupBy, Groups, column, is_column
from fastgradnorm._schemes.labelled import labelled_pull_backs, loss_size
from fastgradnorm._schemes.losses import (
    LABELLED_SCHEMES,
    LabelledScheme,
    LossName,
    error_norm,
    settled,
)
from fastgradnorm._schemes.objective import Objective, make_objective, total_norms, uniform_numbers
from fastgradnorm._schemes.posterior import Posterior, class_cotangents, posterior, unit_sized
from fastgradnorm._schemes.predictions import predictions
from fastgradnorm._schemes.pull_backs import PullBacks
from fastgradnorm._schemes.scored import Scored
from fastgradnorm._schemes.table import SCHEMES, SKETCHED, TABLE, Scheme, SketchScheme
from fastgradnorm._schemes.targets import (
    Labels,
    Target,
    check_target,
    find_target,
    reads_classes,
    takes_logits,
    with_classes_first,
)

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
    "reads_classes",
    "settled",
    "takes_logits",
    "total_norms",
    "uniform_numbers",
    "unit_sized",
    "with_classes_first",
]
