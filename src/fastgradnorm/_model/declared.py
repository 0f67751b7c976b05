"""What a model says about its own outputs, apart from what they look like.

Models of the transformers library have it in their configuration; others, as LightningModules do,
hold the loss that they were trained with, and metrics.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from fastgradnorm._errors import UnsupportedModelError
from fastgradnorm._options import Options

Meaning = Literal["classes", "labels", "values"]

# Of `config.problem_type` in the transformers library.
_PROBLEMS: dict[str, Meaning] = {
    "single_label_classification": "classes",
    "multi_label_classification": "labels",
    "regression": "values",
}
# By the name that a module is held under, it is the loss and no part of one.
_LOSS_NAMES = ("criterion", "loss", "loss_fn", "loss_func", "loss_function", "objective")
_CLASSES = (nn.CrossEntropyLoss, nn.NLLLoss, nn.MultiMarginLoss)
_LABELS = (nn.BCEWithLogitsLoss, nn.BCELoss, nn.MultiLabelSoftMarginLoss)
_VALUES = (
    nn.MSELoss,
    nn.L1Loss,
    nn.SmoothL1Loss,
    nn.HuberLoss,
    nn.PoissonNLLLoss,
    nn.GaussianNLLLoss,
)

_METRICS: dict[str, Meaning] = {"Multilabel": "labels", "Multiclass": "classes"}


@dataclass(frozen=True)
class Declared:
    """What a model's outputs are for.

    Attributes:
        meaning: Logits of classes that exclude each other, logits of labels that do not, or values
            of a regression.
        source: Where it was read, in words that follow "Got".
        sure: Whether that leaves no doubt.
    """

    meaning: Meaning
    source: str
    sure: bool


def declared(model: nn.Module) -> Declared | None:
    """What a model says; None if it says nothing, or contradicts itself."""
    for path, module in _around(model):
        found = _of_config(path, module) or _of_what_it_holds(path, module)
        if found is not None:
            return found
    return None


def meaning_of_loss(loss: object) -> Meaning | None:
    """What a model's outputs mean that is trained with a loss of PyTorch.

    Args:
        loss: A module such as `nn.CrossEntropyLoss()`.

    Returns:
        `"classes"` that exclude each other, `"labels"` that do not, `"values"` of a regression;
        None if the loss is none of those that are known, and could mean any.

    Example:
        >>> meaning_of_loss(nn.BCEWithLogitsLoss())
        'labels'
    """
    kinds: tuple[tuple[Meaning, tuple[type, ...]], ...] = (
        ("classes", _CLASSES),
        ("labels", _LABELS),
        ("values", _VALUES),
    )
    for meaning, losses in kinds:
        if isinstance(loss, losses):
            return meaning
    return None


def _around(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """A model and what it only wraps: as long as all parameters are in one of its parts."""
    path = "model"
    while True:
        yield path, model
        parts = [(name, m) for name, m in model.named_children() if [*m.parameters()]]
        if len(parts) != 1 or [*model.parameters(recurse=False)]:
            return
        name, model = parts[0]
        path = f"{path}.{name}"


def _of_config(path: str, module: nn.Module) -> Declared | None:
    """By the rules of the transformers library for its models with a head for sequences."""
    config: Any = module.__dict__.get("config")
    if config is None or not hasattr(config, "problem_type"):
        return None
    name = type(module).__name__
    if "Classification" not in name or "TokenClassification" in name:
        return None  # their losses are others
    problem = config.problem_type
    if problem in _PROBLEMS:
        return Declared(_PROBLEMS[problem], f"`{path}.config.problem_type={problem!r}`", True)
    if problem is None and getattr(config, "num_labels", None) == 1:
        source = f"`{path}.config.num_labels=1`, which transformers trains as a regression,"
        return Declared("values", source, False)
    return None


_Meant = tuple[str, nn.Module, Meaning | None]


def _of_what_it_holds(path: str, module: nn.Module) -> Declared | None:
    """By its loss and its metrics, where all of them say the same."""
    losses: list[_Meant] = [(name, m, meaning_of_loss(m)) for name, m in module.named_children()]
    metrics: list[_Meant] = [(name, m, _meaning_of_metric(m)) for name, m in module.named_modules()]
    meanings: set[Meaning] = {
        meaning for _, _, meaning in (*losses, *metrics) if meaning is not None
    }
    named = [(name, m) for name, m, meaning in losses if meaning and name in _LOSS_NAMES]
    named += [(name, m) for name, m, meaning in metrics if meaning]
    if len(meanings) != 1 or not named:
        return None
    name, holds = named[0]
    return Declared(meanings.pop(), f"`{path}.{name}` ({type(holds).__name__})", False)


def _meaning_of_metric(module: nn.Module) -> Meaning | None:
    """What the torchmetrics package has several metrics for."""
    kind = type(module)
    if not kind.__module__.startswith("torchmetrics."):
        return None
    for start, meaning in _METRICS.items():
        if kind.__name__.startswith(start):
            return meaning
    return "values" if ".regression." in kind.__module__ else None


def settled(options: Options, declared: Declared | None) -> Options:
    """With what a model leaves no doubt about.

    Raises:
        UnsupportedModelError: If it is no classifier.
    """
    if declared is None or not declared.sure or options.likelihood != "auto":
        return options
    if options.schemes == ("loss",) and options.loss != "cross_entropy":
        return options  # whatever the outputs are
    if declared.meaning == "values":
        raise UnsupportedModelError(
            f"`model` must be a classifier. Got {declared.source}: its outputs are values, and a "
            "softmax of values has no meaning. If they are logits all the same, say of what: "
            "`likelihood='categorical'` or `likelihood='bernoulli'`."
        )
    return options.changed(likelihood="bernoulli") if declared.meaning == "labels" else options
