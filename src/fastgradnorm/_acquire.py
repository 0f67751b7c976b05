"""The short path: a model and a pool in, the samples to label out."""

import contextlib
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Literal

from torch import Tensor, nn

from fastgradnorm._candidates import (
    check_early,
    check_groups,
    group_numbers,
    labelled_indices,
    without_iterator,
)
from fastgradnorm._errors import ArgumentError, NoSingleHeadError
from fastgradnorm._gather import Wants
from fastgradnorm._keywords import make_options
from fastgradnorm._options import Options
from fastgradnorm._pool import (
    as_loader,
    check_loader,
    check_ranks,
    shared_samples,
    size_before_reading,
)
from fastgradnorm._reading import POINTS, Reading, read_pool
from fastgradnorm._results import Selection, pool_facts, records
from fastgradnorm._schemes import LABELLED_SCHEMES, SCHEMES
from fastgradnorm._selection import ALIKE, Free, Given, Named, alike, covering, in_space, named
from fastgradnorm._validate import check_choice, check_integer, check_model, check_number, fail

_OWN = ("labelled", "strategy", "groups", "max_per_group", "max_similarity", "space", "batch_size")


def acquire(
    model: nn.Module,
    pool: Any,
    k: int,
    *,
    labelled: Any = None,
    strategy: str = "auto",
    groups: Any = None,
    max_per_group: int | None = None,
    max_similarity: float | None = None,
    space: Literal["last_layer", "sketch"] = "last_layer",
    seed: int = 0,
    batch_size: int = 64,
    **options: Any,
) -> Selection:
    r"""Choose the `k` samples of an unlabelled pool to label next.

    One pass over the pool gives scores, features and predictions. What is labelled already, if
    anything is, is where the choice starts from. By default the chosen cover the pool, each of its
    samples weighing its gradient norm; other strategies go by name. That takes a forward pass alone
    unless `params`, `space` or `strategy` ask for more.

    Args:
        model: As in `score_pool`; trained on what is labelled, or before there are labels any.
        pool: A loader, as in `score_pool`, or a map-style dataset: of tuples the first is taken, of
            mappings what the model takes; labels are never read.
        k: How many to choose.
        labelled: What has labels already: indices of the pool, which are not chosen again (any
            collection, iterator or array of integers, or a mapping from them, as to labels), or a
            loader or dataset of other samples, whose inputs are read; those of them that are of the
            pool's own dataset, as of a `Subset`, are not chosen again, but copies are not told from
            others. None, or none: nothing.
        strategy: `"auto"`, or another name: `"herding"`, `"adaptive"`, `"maxherding"`,
            `"uherding"`, `"typiclust"`, `"probcover"`, `"coreset"`, `"lcmd"`, `"bait"`, `"badge"`,
            `"diverse"`, `"kmeans++"`, `"top"`, `"gumbel"`, `"proportional"`, `"margin"`,
            `"entropy"`, `"least_confidence"`, `"random"`; or one that says its score or its points
            too, such as `"expected/all/herding"`, `"sketch/predicted/all/lcmd"` (see
            `docs/active.md`).
        groups: Which group each sample of the pool is of (a patient, a video), in its order, or a
            mapping from indices. Samples of None or NaN are in no group.
        max_per_group: How many of a group may be chosen; what is labelled does not count.
        max_similarity: Of samples whose points have a larger cosine than this, such as 0.99, only
            one is chosen, and none that is so near to a labelled one.
        space: What strategies over points look at: what the `"last_layer"` is given (of dense
            outputs the mean over positions), or a `"sketch"` of each sample's gradient over
            `params`, of the loss of the predicted class, with 512 numbers.
        seed: Of everything random.
        batch_size: Of the batches of a dataset.
        options: Keyword arguments of `Options`, of which most often are needed

            - `params="all"`: the gradient is over all parameters; by default over the last layer.
            - `scheme`: what scores are, `"expected"` by default.
            - `forward`: `(model, batch) -> logits`, for batches that the model does not take as
              they are.
            - `device`: where to compute; by default where the model is.
            - `progress=False`: no progress bar.
            - `verify=False`: without the comparison of a few samples with plain autograd.
            - `checkpoint`: a file, by which a call that was stopped goes on where it was and
              chooses the same. It holds scores, and beside it (`.bin`) lie features; what has to be
              read of samples that are labelled is in files of the same names with `.labelled`.

    The default is *herding by gradient norm*: each time the sample that most raises

    .. math:: \sum_x w(x) \max_{s \in \text{labelled} \cup \text{chosen}} k(x, s)

    with k a Gaussian kernel on unit-length features of the last layer and w the expected gradient
    norm, after MaxHerding (Bae et al., 2024, https://arxiv.org/abs/2407.12212) and uncertainty
    herding (Bae et al., 2025, https://arxiv.org/abs/2412.20644). Coverage is exact up to 20,000
    candidates; of more, 20,000 drawn by the seed are what is to be covered.

    Returns:
        The chosen, best first, with a record of each; the scores of the pool, and what the model
        thinks of it.

    Raises:
        ValueError: If more are asked for than may be chosen, `labelled` or `groups` do not fit the
            pool, a strategy is unknown or has no meaning for the model's outputs, and as told at
            `score_pool`.
        TypeError: If an argument is of a wrong type, or no option has its name.

    Guarantees:
        - The pool is read once.
        - What is labelled is not chosen, and no sample twice.
        - The same seed gives the same choice, on every rank where several share the pool.

    Example:
        >>> import torch
        >>> model = nn.Linear(2, 2).eval()
        >>> pool = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
        >>> acquire(model, [pool], 2, labelled=[0], strategy="coreset").indices
        tensor([2, 1])
    """
    check_model(model)  # before the pool is looked at by what it takes
    k, seed = check_integer("k", k, at_least=1), check_integer("seed", seed, at_least=0)
    batch_size = check_integer("batch_size", batch_size, at_least=1)
    check_choice("space", space, ("last_layer", "sketch"))
    max_per_group = check_groups(groups, max_per_group)
    if max_similarity is not None:
        check_number("max_similarity", max_similarity, above=0, at_most=1)
    labelled = without_iterator(labelled)
    known = labelled_indices(labelled)
    what = in_space(named(strategy), space)
    asked = _options(what, {**options, "seed": seed})
    told = {"k": k, "strategy": what.name, "space": space, "seed": seed, "labelled": known}
    bounds = {"max_per_group": max_per_group, "max_similarity": max_similarity, "groups": groups}
    check_ranks(asked.distributed, told | bounds)
    wants = _wants(what, max_similarity is not None)
    start = time.perf_counter()
    loader = as_loader(pool, model, asked.forward, batch_size, "pool")
    check_loader(loader, "pool")
    others = None
    if known is None:
        others = as_loader(labelled, model, asked.forward, batch_size, "labelled")
        check_loader(others, "labelled")
        known, others = _in_both(loader, others)
    check_early(size_before_reading(loader), known, groups, k)
    with _told_of_default("params" in options):
        read = read_pool(model, loader, others, known, asked, wants)
    if k > len(read.candidates):
        raise fail("k", f"at most {len(read.candidates)}, the number of candidates", k, read.lost)
    numbers = None
    if groups is not None:
        numbers = group_numbers(groups, read.size, read.places[read.candidates])
    given = _given(read, what, k, seed)
    given = replace(given, free=_free(given, numbers, max_per_group, max_similarity))
    scored = time.perf_counter()
    chosen = what.entry.choose(given)
    cover = None if given.points is None else covering(given, chosen.positions)
    near = None
    if given.points is not None:
        near = alike(given, chosen.positions, max_similarity or ALIKE)
    seconds = {"score": scored - start, "choose": time.perf_counter() - scored}
    positions = read.candidates[chosen.positions]
    columns, scores = read.gathered.columns, read.gathered.scores
    return Selection(
        indices=read.places[positions],
        scores=scores,
        records=records(columns, scores, read.places, positions, cover and cover[1], near),
        pool=pool_facts(columns, scores, read.labelled, len(read.candidates), cover),
        predicted=columns["predicted"].long(),
        provenance={
            "strategy": what.name,
            "words": what.entry.words,
            "seed": seed,
            "points": None if given.points is None else _space(wants),
            "max_per_group": max_per_group,
            "max_similarity": max_similarity,
            "seconds": {name: round(value, 3) for name, value in seconds.items()},
        },
    )


@contextlib.contextmanager
def _told_of_default(chosen: bool) -> Iterator[None]:
    """Where the last layer is what scores are of by default, tells what to ask for instead."""
    try:
        yield
    except NoSingleHeadError as error:
        if chosen:
            raise
        raise ArgumentError(
            "`params` must be given for a model in which no single layer makes the logits: by "
            "default scores are of the last layer. Use `params='all', space='sketch'`, which looks "
            "at all parameters, or `params='all'` with a strategy by score or prediction, such as "
            f"'margin'. {error}",
            "params",
        ) from error


def _in_both(loader: Any, others: Any) -> tuple[Tensor | None, Any]:
    """Labelled samples that are in the pool, by their indices, and a loader if there are more."""
    shared = shared_samples(loader, others)
    if shared is None:
        return None, others
    known, whole = shared
    return known, None if whole else others


def _options(what: Named, given: dict[str, Any]) -> Options:
    said = {"scheme": what.scheme, "params": what.params, "reduction": what.reduction}
    for name, value in said.items():
        if value is not None and given.get(name, value) != value:
            raise fail(name, f"left out for {what.name!r}, which says {value!r}", given[name])
    settled = {name: value for name, value in said.items() if value is not None}
    asked = make_options("acquire", {"params": "last_layer", **given, **settled}, _OWN)
    if not isinstance(asked.scheme, str):
        raise fail("scheme", "one name for `acquire`", asked.scheme)
    if asked.scheme in LABELLED_SCHEMES or asked.loss is not None:
        wanted = "one that reads no labels, for samples that have none"
        raise fail("scheme", wanted, asked.scheme, f"One of {', '.join(map(repr, SCHEMES))}.")
    if asked.likelihood == "gaussian":
        advice = (
            "Of a regression, 'coreset' and 'typiclust' without it look at what the last layer is "
            "given, and at no score."
        )
        raise fail("likelihood", "that of a classifier for `acquire`", asked.likelihood, advice)
    return asked


def _wants(what: Named, near: bool) -> Wants:
    entry = what.entry
    points = entry.points or near
    return Wants(
        strategy=what.name,
        features=points and what.sketch is None,
        sketch=what.sketch,
        classes=entry.classes,
        single=entry.single,
    )


def _space(wants: Wants) -> str:
    return "last layer" if wants.sketch is None else f"sketches ({wants.sketch})"


def _given(read: Reading, what: Named, k: int, seed: int) -> Given:
    columns, rows = read.gathered.columns, read.candidates
    before = {} if read.before is None else read.before

    def of(name: str) -> Tensor | None:
        return columns[name][rows].float() if name in columns else None

    points = next((name for name in POINTS if name in columns), "")
    scores = read.gathered.scores.values[rows]
    sketch = of("sketch")
    if what.how == "proportional" and sketch is not None:
        scores = sketch.double().square().sum(1).sqrt()
    labelled, chances = before.get(points), before.get("probabilities")
    if labelled is not None:
        known = labelled.isfinite().all(1)
        labelled, chances = labelled[known].float(), None if chances is None else chances[known]
    return Given(
        k=k,
        seed=seed,
        free=Free(len(rows)),
        scores=scores,
        points=of(points),
        labelled=labelled,
        probabilities=of("probabilities"),
        residuals=of("residuals"),
        labelled_probabilities=None if chances is None else chances.float(),
        margins=of("margin"),
        entropies=of("predictive_entropy"),
        doubts=of("doubt"),
    )


def _free(given: Given, numbers: Tensor | None, most: int | None, similarity: float | None) -> Free:
    points = labelled = None
    if similarity is not None:
        points, labelled = given.units()
    found = Free(len(given.free.mask), numbers, most or 1, points, similarity or 1.0)
    if labelled is not None:
        found.close_near(labelled)
    return found
