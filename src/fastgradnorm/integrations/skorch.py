"""Scores of a skorch net's data, read the way the net reads it."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from fastgradnorm import LABELLED_SCHEMES, meaning_of_loss
from fastgradnorm.integrations._by_sample import scores_by_sample
from fastgradnorm.integrations._extras import needs


def score_skorch(net: Any, X: Any, **options: Any) -> Any:
    """Gradient norms of the samples `X`, as the fitted `net` sees them.

    Dataset, collation, batch size and workers are the net's own (its `iterator_valid`), and so is
    the device. What its module's outputs mean is read from its criterion:

    - `NLLLoss` of a `NeuralNetClassifier`, its default: probabilities. The logits are then
      `log(p + eps)`, whose loss and gradient are the ones the net was trained with.
    - `BCELoss`: probabilities of labels of their own. The logits are `log(p / (1 - p))`, with
      `likelihood="bernoulli"`.
    - `BCEWithLogitsLoss` and `MultiLabelSoftMarginLoss`: logits of labels, likewise.
    - `MSELoss` and others of regressions are refused.
    - Any other: logits of classes. `fastgradnorm.meaning_of_loss` has the list.

    For probabilities `params="last_layer"` is not available, for what is inside the module made
    them. What is given as `forward=` or `likelihood=` counts instead.

    Args:
        net: A fitted or initialised `skorch.NeuralNet`, or a scikit-learn `Pipeline` that ends in
            one: what its other steps make of `X` is scored.
        X: What `net.predict` takes.
        options: Keyword arguments, see `fastgradnorm.Options`.

    Returns:
        Scores `[N]` in the order of `X`, or a dict of them; see `fastgradnorm.score_pool`.

    Raises:
        TypeError: If `net` is not a skorch net.
        ValueError: If `net` is not initialised or was trained as a regression, and as
            `fastgradnorm.score_pool` does.
    """
    with needs("skorch"):
        from skorch import NeuralNet, NeuralNetClassifier
        from skorch.dataset import Dataset
    while type(net).__name__ == "Pipeline" and net.steps:
        X = net[:-1].transform(X) if len(net.steps) > 1 else X
        net = net.steps[-1][1]
    if not isinstance(net, NeuralNet):
        raise TypeError(f"`net` must be a skorch.NeuralNet. Got {type(net).__name__}.")
    if not getattr(net, "initialized_", False):
        raise ValueError("`net` must be initialised. Got one that is not. Call `net.fit` first.")
    if "forward" not in options:
        read = _read(net.criterion_, isinstance(net, NeuralNetClassifier), "likelihood" in options)
        options = {**read, **options}
    dataset = net.get_dataset(X)
    schemes = options.get("scheme") or ()
    schemes = [schemes] if isinstance(schemes, str) else schemes
    labelled = options.get("loss") is not None or any(each in LABELLED_SCHEMES for each in schemes)
    if labelled and isinstance(dataset, Dataset) and dataset.y is None:
        raise ValueError(
            "`X` must have labels where scores are of a loss. Got none, for which skorch gives "
            "zeros. Pass both: `skorch.dataset.Dataset(X, y)`."
        )
    loader = net.get_iterator(dataset, training=False)
    return scores_by_sample(net.module_, loader, **options)


def _read(criterion: Any, is_classifier: bool, said: bool) -> dict[str, Any]:
    """The options that a criterion stands for; `said`: the likelihood is another's word."""
    meaning = meaning_of_loss(criterion)
    if meaning == "values" and not said:
        raise ValueError(
            f"`net` must be a classifier. Got one with the criterion {type(criterion).__name__}, "
            "of a regression: a softmax of values has no meaning. If its outputs are logits after "
            "all, say of what: `likelihood='categorical'` or `likelihood='bernoulli'`."
        )
    if isinstance(criterion, nn.BCELoss):
        return {"forward": _of_probabilities(_logit), "likelihood": "bernoulli"}
    if meaning == "labels":
        return {"likelihood": "bernoulli"}
    if is_classifier and isinstance(criterion, nn.NLLLoss):
        return {"forward": _of_probabilities(_log)}
    return {}


def _of_probabilities(
    logits: Callable[[torch.Tensor], torch.Tensor],
) -> Callable[[nn.Module, Any], torch.Tensor]:
    def forward(model: nn.Module, batch: Any) -> torch.Tensor:
        inputs = batch[0]
        outputs = model(**inputs) if isinstance(inputs, dict) else model(inputs)
        return logits(outputs[0] if isinstance(outputs, tuple) else outputs)

    return forward


def _log(p: torch.Tensor) -> torch.Tensor:
    """What the net's loss takes: the logarithm, by the same small summand."""
    return torch.log(p + torch.finfo(p.dtype).eps)


def _logit(p: torch.Tensor) -> torch.Tensor:
    return torch.logit(p, eps=torch.finfo(p.dtype).eps)
