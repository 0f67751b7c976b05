"""Query strategies for scikit-activeml."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from fastgradnorm import acquire, select
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
        is_labeled,
    )
    from sklearn import clone
    from sklearn.utils import check_array
    from sklearn.utils.validation import check_is_fitted


_SHAPE = {"allow_nd": True, "ensure_2d": False}


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
        X, y, candidates, batch_size, return_utilities = self._validate_data(
            X, y, candidates, batch_size, return_utilities, reset=True, check_X_dict=_SHAPE
        )
        pool, mapping = self._transform_candidates(candidates, X, y)
        check_one_scheme({"scheme": self.scheme})
        clf = _fitted(self, clf, X, y, fit_clf)
        scores = self._scores(clf, pool)
        best = select(scores, batch_size).numpy()
        return _told(best, scores, mapping, len(X), return_utilities)

    def _scores(self, clf: Any, pool: Any) -> Any:
        """Scores `[n]` of samples, read the way `clf.predict` reads them."""
        options = {
            "progress": False,
            "forward": _forward(clf),
            "scheme": self.scheme,
            "params": self.params,
            **(self.options or {}),
        }
        loader = _loader(clf, pool)
        scores = scores_by_sample(clf.neural_net_.module_, loader, **options)
        return scores.double().numpy()


class AcquireSampling(SingleAnnotatorPoolQueryStrategy):
    """Queries what `fastgradnorm.acquire` chooses, by any of its strategies.

    What has a label is where the choice starts from. As in `acquire`, scores are of the last layer
    unless `options` or the strategy say something else.

    Args:
        strategy: A name that `acquire` knows.
        options: Further arguments of `acquire`, by name, such as `space`, `max_similarity` or
            `params`; but not `labelled`, and no `groups`.
        missing_label: What stands for a missing label.
        random_state: An integer is the `seed` of `acquire`; of anything else one is drawn.
    """

    def __init__(
        self,
        strategy: str = "auto",
        options: Mapping[str, Any] | None = None,
        missing_label: Any = MISSING_LABEL,
        random_state: Any = None,
    ) -> None:
        self.strategy = strategy
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
        """Indices of the samples to label, in the order in which they were chosen.

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
            are no candidates or were picked before. What is picked need not have the highest: it
            is chosen with regard to the others.
        """
        X, y, candidates, batch_size, return_utilities = self._validate_data(
            X, y, candidates, batch_size, return_utilities, reset=True, check_X_dict=_SHAPE
        )
        pool, mapping = self._transform_candidates(candidates, X, y)
        clf = _fitted(self, clf, X, y, fit_clf)
        seeded = isinstance(self.random_state, (int, np.integer))
        seed = self.random_state if seeded else self.random_state_.randint(2**31 - 1)
        options = {"progress": False, "forward": _forward(clf), **(self.options or {})}
        refused = {"labelled", "groups", "max_per_group", "seed", "subset"} & options.keys()
        if refused:
            raise ValueError(
                f"`options` must be without {', '.join(map(repr, sorted(refused)))}. "
                "scikit-activeml tells what is labelled, `candidates` what may be chosen, and "
                "`random_state` the seed."
            )
        known = np.flatnonzero(is_labeled(y, self.missing_label_))
        made = acquire(
            clf.neural_net_.module_,
            _loader(clf, pool),
            batch_size,
            labelled=_loader(clf, X[known]) if len(known) else None,
            strategy=self.strategy,
            seed=int(seed),
            **options,
        )
        chosen, scores = made.indices.numpy(), made.scores.values.double().numpy()
        if made.scores.indices is not None:  # of a loader that shuffles
            scores = scores[np.argsort(made.scores.indices.numpy())]
        return _told(chosen, scores, mapping, len(X), return_utilities)


def _fitted(strategy: Any, clf: Any, X: Any, y: Any, fit_clf: bool) -> Any:
    """The classifier, or a copy of it that is trained."""
    check_type(clf, "clf", SkorchClassifier)
    check_equal_missing_label(clf.missing_label, strategy.missing_label_)
    check_scalar(fit_clf, "fit_clf", bool)
    clf = clone(clf).fit(X, y) if fit_clf else clf
    check_is_fitted(clf, "neural_net_")
    return clf


def _told(
    chosen: np.ndarray, scores: np.ndarray, mapping: Any, size: int, with_utilities: bool
) -> Any:
    """What `query` returns, of positions among the candidates and the scores of these."""
    found = chosen if mapping is None else mapping[chosen]
    if not with_utilities:
        return found
    row = np.full(len(scores) if mapping is None else size, np.nan)
    row[slice(None) if mapping is None else mapping] = scores
    utilities = np.tile(row, (len(chosen), 1))
    for i in range(1, len(chosen)):
        utilities[i, found[:i]] = np.nan
    return found, utilities


def _loader(clf: Any, samples: Any) -> Any:
    """Batches of samples, read the way `clf.predict` reads them."""
    net = clf.neural_net_
    checked = check_array(samples, dtype=clf.sample_dtype, **_SHAPE)
    return net.get_iterator(net.get_dataset(checked), training=False)


def _forward(clf: Any) -> Callable[[nn.Module, Any], Any]:
    """From a batch to what the classifier takes for logits."""
    place = _logits_place(clf)

    def forward(model: nn.Module, batch: Any) -> Any:
        outputs = model(batch[0])
        return outputs[place] if isinstance(outputs, tuple) else outputs

    return forward


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
