"""Pool-based active learning: train, score, select, label, repeat, with any strategy."""

from fastgradnorm.active._context import Context
from fastgradnorm.active._learner import ActiveLearner
from fastgradnorm.active._plot import plot
from fastgradnorm.active._records import Run, load_runs
from fastgradnorm.active._registry import strategies, strategy
from fastgradnorm.active._strategies import ByScore, KCenter, KMeansPP, Strategy
from fastgradnorm.active._task import Task
from fastgradnorm.active.campaign import (
    Asked,
    Campaign,
    Status,
    argilla_answers,
    label_studio_answers,
)

__all__ = [
    "ActiveLearner",
    "Asked",
    "ByScore",
    "Campaign",
    "Context",
    "KCenter",
    "KMeansPP",
    "Run",
    "Status",
    "Strategy",
    "Task",
    "argilla_answers",
    "label_studio_answers",
    "load_runs",
    "plot",
    "strategies",
    "strategy",
]
