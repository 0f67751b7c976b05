"""Strategies for frameworks that are copied or no longer released: nothing of them is imported.

modAL, DISTIL, DeepAL and libact; the classes are mixins that come before the framework's own base.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader

from fastgradnorm import score_pool, select
from fastgradnorm.integrations._by_sample import scores_by_sample
from fastgradnorm.integrations.skorch import score_skorch


def modal_sampling(**options: Any) -> Callable[..., tuple[np.ndarray, np.ndarray]]:
    """A modAL query strategy, for an `ActiveLearner` whose estimator is a skorch net.

    Args:
        options: Keyword arguments, see `fastgradnorm.Options`.

    Returns:
        `(learner, X_pool, n_instances=1) -> (indices, scores)`, best first. modAL calls a strategy
        that returns indices alone a second time, since it cannot unpack them.
    """

    def gradient_norm_sampling(
        learner: Any, X_pool: Any, n_instances: int = 1, **_: Any
    ) -> tuple[np.ndarray, np.ndarray]:
        scores = score_skorch(learner.estimator, X_pool, **options)
        best = select(scores, n_instances).numpy()
        return best, scores.numpy()[best]

    return gradient_norm_sampling


class DistilGradNorm:
    """For DISTIL: `class GradNorm(DistilGradNorm, ScoreStreamingStrategy): pass`.

    Options go into the strategy's `args` under `"gradnorm"`; its `batch_size`, 1 by DISTIL's
    default, decides the speed.
    """

    model: nn.Module
    args: dict[str, Any]
    device: Any

    def acquire_scores(self, unlabeled_buffer: Any) -> torch.Tensor:
        """Scores `[N]` of the buffer's samples, in its order."""
        loader = DataLoader(unlabeled_buffer, batch_size=self.args.get("batch_size", 1))
        options = {"device": self.device, **self.args.get("gradnorm", {})}
        scores: torch.Tensor = score_pool(self.model, loader, **options)
        return scores


class DeepALGradNorm:
    """For DeepAL and DeepAL+: `class GradNorm(DeepALGradNorm, Strategy): pass`."""

    dataset: Any
    net: Any
    options: dict[str, Any] = {}  # noqa: RUF012 - set by subclasses, see `fastgradnorm.Options`

    def query(self, n: int) -> np.ndarray:
        """Indices `[n]` relative to the whole dataset, best first."""
        unlabeled, handler = self.dataset.get_unlabeled_data()
        params = self.net.params
        loader = DataLoader(
            handler, shuffle=False, **params.get("loader_te_args", params.get("test_args", {}))
        )
        # Batches are (inputs, labels, indices); networks return (logits, embedding).
        scores = scores_by_sample(self.net.clf, loader, **self.options)
        return np.asarray(np.asarray(unlabeled)[select(scores, n).numpy()])


class LibactGradNorm:
    """For libact 0.2: `class GradNorm(LibactGradNorm, QueryStrategy)` with `module` and `options`.

    Attributes:
        module: The network; libact's own models have none.
        options: See `fastgradnorm.Options`.
    """

    dataset: Any
    module: nn.Module
    options: dict[str, Any] = {}  # noqa: RUF012 - set by subclasses

    def _get_scores(self) -> tuple[np.ndarray, np.ndarray]:
        """Ids of the unlabelled entries and their scores, higher is better."""
        ids, features = self.dataset.get_unlabeled_entries()
        inputs = torch.as_tensor(np.asarray(features), dtype=torch.float32, device="cpu")
        return np.asarray(ids), score_pool(self.module, inputs.split(256), **self.options).numpy()

    def make_query(self) -> Any:
        """The id of the entry to label next; of equal ones the first."""
        ids, scores = self._get_scores()
        return ids[int(select(scores, 1))]
