"""Scores of a skorch net's data, read the way the net reads it."""

from typing import Any

import torch
from torch import nn

from fastgradnorm.integrations._by_sample import scores_by_sample
from fastgradnorm.integrations._extras import needs


def score_skorch(net: Any, X: Any, **options: Any) -> Any:
    """Gradient norms of the samples `X`, as the fitted `net` sees them.

    Dataset, collation, batch size and workers are the net's own (its `iterator_valid`), and so is
    the device.

    Args:
        net: A fitted or initialised `skorch.NeuralNet`. Its module returns logits. A
            `NeuralNetClassifier` trained with `NLLLoss`, its default, has a module that returns
            probabilities: the logits are then `log(p + eps)`, whose loss and gradient are the ones
            the net was trained with. There `params="last_layer"` is not available, for the
            softmax inside the module made the probabilities.
        X: What `net.predict` takes.
        options: Keyword arguments, see `fastgradnorm.Options`.

    Returns:
        Scores `[N]` in the order of `X`, or a dict of them; see `fastgradnorm.score_pool`.

    Raises:
        TypeError: If `net` is not a skorch net.
        ValueError: If `net` is not initialised, and as `fastgradnorm.score_pool` does.
    """
    with needs("skorch"):
        from skorch import NeuralNet, NeuralNetClassifier
    if not isinstance(net, NeuralNet):
        raise TypeError(f"`net` must be a skorch.NeuralNet. Got {type(net).__name__}.")
    if not getattr(net, "initialized_", False):
        raise ValueError("`net` must be initialised. Got one that is not. Call `net.fit` first.")
    probabilities = isinstance(net, NeuralNetClassifier) and isinstance(net.criterion_, nn.NLLLoss)
    if probabilities and "forward" not in options:
        options["forward"] = _log_probabilities
    loader = net.get_iterator(net.get_dataset(X), training=False)
    return scores_by_sample(net.module_, loader, **options)


def _log_probabilities(model: nn.Module, batch: Any) -> torch.Tensor:
    """What the net's loss takes the logarithm of, by the same small summand."""
    inputs = batch[0]
    outputs = model(**inputs) if isinstance(inputs, dict) else model(inputs)
    p: torch.Tensor = outputs[0] if isinstance(outputs, tuple) else outputs
    return torch.log(p + torch.finfo(p.dtype).eps)
