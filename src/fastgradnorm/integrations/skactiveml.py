"""A query strategy for scikit-activeml."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from fastgradnorm import select
from fastgradnorm.integrations._by_sample import scores_by_sample
from fastgradnorm.integrations._extras import needs
from fastgradnorm.integrations._one_scheme import check_one_scheme

with needs("skactiveml"):
    from skactiveml.base import SingleAnnotatorPoolQueryStrategy
    from skactiveml.classifier import SkorchClassifier
    from skactiveml.utils import (
        MISSING_LABEL,
        check_equal_missing_label,
        check_scalar,
        check_type,
    )
    from sklearn import clone
    from sklearn.utils import check_array
    from sklearn.utils.validation import check_is_fitted


class GradNormSampling(SingleAnnotatorPoolQueryStrategy):
    """Queries the samples whose gradient is largest.

    Utilities are the scores of `fastgradnorm.score_pool`, and the samples those that
    `fastgradnorm.select` takes: ties go to the lower index, so that `random_state` decides nothing.
    Beside the utilities asked for with `return_utilities`, memory is linear in the samples.

    Args:
        scheme: One of `fastgradnorm.Options`' schemes.
        params: Which parameters the gradient is taken over.
        options: Further ones of `fastgradnorm.Options`, by name.
        missing_label: What stands for a missing label.
        random_state: Of the base class.
    """

    def __init__(
        self,
        scheme: str = "expected",
        params: str | Callable[[str, nn.Parameter], bool] = "all",
        options: Mapping[str, Any] | None = None,
        missing_label: Any = MISSING_LABEL,
        random_state: Any = None,
    ) -> None:
        self.scheme = scheme
        self.params = params
        self.options = options
        super().__init__(missing_label=missing_label, random_state=random_state)

    def query(
        self,
        X: Any,
        y: Any,
        clf: Any,
        fit_clf: bool = True,
        candidates: Any = None,
        batch_size: int = 1,
        return_utilities: bool = False,
    ) -> Any:
        """Indices of the samples to label, best first.

        Args:
            X: Samples `[n_samples, ...]`, labelled and unlabelled.
            y: Labels `[n_samples]`, `missing_label` where there is none.
            clf: A `SkorchClassifier` whose first output is logits or log-probabilities.
            fit_clf: Train a copy of `clf` on `X` and `y` first, as all strategies of
                scikit-activeml do. Pass False with a classifier that is trained already.
            candidates: None for all unlabelled samples; indices `[n]` of samples in `X`; or
                samples `[n, ...]` that need not be in `X`.
            batch_size: How many.
            return_utilities: Also return the utilities.

        Returns:
            Indices `[batch_size]` relative to `X`, or to `candidates` where these are samples. With
            `return_utilities` also `[batch_size, n]`: the scores at each pick, NaN for samples that
            are no candidates or were picked before.
        """
        shape = {"allow_nd": True, "ensure_2d": False}
        X, y, candidates, batch_size, return_utilities = self._validate_data(
            X, y, candidates, batch_size, return_utilities, reset=True, check_X_dict=shape
        )
        pool, mapping = self._transform_candidates(candidates, X, y)
        check_type(clf, "clf", SkorchClassifier)
        check_equal_missing_label(clf.missing_label, self.missing_label_)
        check_scalar(fit_clf, "fit_clf", bool)
        check_one_scheme({"scheme": self.scheme})
        if fit_clf:
            clf = clone(clf).fit(X, y)
        scores = self._scores(clf, pool)
        best = select(scores, batch_size).numpy()
        found = best if mapping is None else mapping[best]
        if not return_utilities:
            return found
        row = np.full(len(pool) if mapping is None else len(X), np.nan)
        row[slice(None) if mapping is None else mapping] = scores
        utilities = np.tile(row, (batch_size, 1))
        for i in range(1, batch_size):
            utilities[i, found[:i]] = np.nan
        return found, utilities

    def _scores(self, clf: Any, pool: Any) -> Any:
        """Scores `[n]` of samples, read the way `clf.predict` reads them."""
        check_is_fitted(clf, "neural_net_")
        net, place = clf.neural_net_, _logits_place(clf)

        def forward(model: nn.Module, batch: Any) -> Any:
            outputs = model(batch[0])
            return outputs[place] if isinstance(outputs, tuple) else outputs

        shape = {"allow_nd": True, "ensure_2d": False}
        samples = check_array(pool, dtype=clf.sample_dtype, **shape)
        loader = net.get_iterator(net.get_dataset(samples), training=False)
        options = {
            "progress": False,
            "forward": forward,
            "scheme": self.scheme,
            "params": self.params,
            **(self.options or {}),
        }
        scores = scores_by_sample(net.module_, loader, **options)
        return scores.double().numpy()


def _logits_place(clf: Any) -> int:
    """Which of the module's outputs holds logits; log-probabilities are logits too."""
    place, transform = next(iter(clf._effective_forward_outputs().values()))
    if isinstance(transform, nn.Softmax) or transform in (torch.exp, torch.softmax):
        return int(place)
    raise ValueError(
        "`clf` must have logits, made probabilities by a Softmax, or log-probabilities, by "
        f"torch.exp, as its first output. Got {transform!r} in `forward_outputs`. Use "
        "forward_outputs={'proba': (0, nn.Softmax(dim=-1))}."
    )
