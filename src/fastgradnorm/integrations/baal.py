"""Gradient norms in baal's loop, which gives a heuristic predictions only, never the model.

    loop = ActiveLearningLoop(dataset, GradNormScores(wrapper), GradNormHeuristic(), query_size=100)

`GradNormScores` takes the place of the predictions and returns one score a sample, and
`GradNormHeuristic` ranks them. Neither imports baal.
"""

import types
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from fastgradnorm import GradNormScorer, select
from fastgradnorm.integrations._one_scheme import check_one_scheme


class GradNormScores:
    """Scores a pool; what `ActiveLearningLoop` calls `get_probabilities`.

    Args:
        wrapper: A `baal.ModelWrapper`. Its model, batch size, workers and collation are used, as
            they are when a pool is scored.
        options: Keyword arguments, see `fastgradnorm.Options`.
    """

    def __init__(self, wrapper: Any, **options: Any) -> None:
        if not isinstance(getattr(wrapper, "model", None), torch.nn.Module):
            raise TypeError(f"`wrapper` must be a baal.ModelWrapper. Got {type(wrapper).__name__}.")
        check_one_scheme(options)
        self.wrapper = wrapper
        self.options = options
        GradNormScorer(wrapper.model, **options)  # wrong options are told now

    def __call__(self, pool: Any, **kwargs: Any) -> np.ndarray:
        """Scores `[N]` of a dataset, in its order.

        Args:
            pool: A dataset of samples, or of tuples with the sample first.
            kwargs: What the loop was given for the model's `predict_on_dataset`, such as
                `iterations`; without meaning here.
        """
        args = self.wrapper.args
        loader = DataLoader(
            pool, args.batch_size, num_workers=args.workers, collate_fn=args.collate_fn
        )
        scores = GradNormScorer(self.wrapper.model, **self.options).score(loader)
        return np.asarray(scores.to_numpy())


class GradNormHeuristic:
    """Ranks scores, highest first, ties in pool order: the order of `fastgradnorm.select`.

    In the place of `baal.active.heuristics.Precomputed`, whose default is to label the lowest
    scores first. There is no order to choose. Predictions of classes are refused.
    """

    reversed = True  # baal's word for highest first, which `CombineHeuristics` asks for

    def get_ranks(
        self, predictions: Any, target_predictions: Any = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """All indices, best first, and the scores `[N]`.

        Args:
            predictions: Scores `[N]`, or a generator of them batch by batch.
            target_predictions: Of other heuristics; not used.

        Returns:
            NaN comes last.

        Raises:
            ValueError: If they are not one number a sample.
        """
        scores = self.get_uncertainties(predictions)
        unknown = np.flatnonzero(np.isnan(scores))
        best = select(scores, len(scores) - len(unknown)).numpy()
        return np.concatenate([best, unknown]), scores

    def get_uncertainties(self, predictions: Any, target_predictions: Any = None) -> np.ndarray:
        """The scores as they are."""
        if isinstance(predictions, types.GeneratorType):
            return self.get_uncertainties_generator(predictions)
        scores = np.asarray(predictions)
        if scores.ndim != 1:
            raise ValueError(
                f"`predictions` must be scores [N]. Got an array {list(scores.shape)}. "
                "Pass GradNormScores(wrapper) to the loop as `get_probabilities`."
            )
        return scores

    def get_uncertainties_generator(
        self, predictions: Iterable[Any], target_predictions: Any = None
    ) -> np.ndarray:
        """The scores of all batches."""
        return np.concatenate([self.get_uncertainties(batch) for batch in predictions])

    def __call__(self, predictions: Any, target_predictions: Any = None) -> np.ndarray:
        """All indices, best first."""
        return self.get_ranks(predictions, target_predictions)[0]
