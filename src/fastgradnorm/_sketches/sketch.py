"""Random projections of each sample's whole gradient: of most layers without forming it.

A count sketch (Charikar et al., 2002): every element p of every parameter has a bucket `h(p)` of
`dim` and a sign `s(p)`, and the sketch of a gradient g is `y_b = Σ_{h(p) = b} s(p) g_p`. Then
`E[y·y'] = g·g'`. Buckets and signs of a matrix follow from those of its rows and columns
(TensorSketch), so that neither they nor the gradient need be written down. It is linear: parts of
all layers, and of several uses of one parameter, add up. See `_engine/sketched.py` for the pass.

Rank-one projections `Σ_t (u_j·g_t)(v_j·a_t)` would be the other way to do without the gradient: a
product with `dim` vectors for each position and side.
"""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, overload

import torch
from torch import Tensor, nn

from fastgradnorm._directions import metric_of
from fastgradnorm._engine import Engine
from fastgradnorm._errors import ArgumentError
from fastgradnorm._keywords import make_options
from fastgradnorm._options import Options
from fastgradnorm._pool import Placement, Run, SharedRun, make_engine, start
from fastgradnorm._process import OwnRandomState
from fastgradnorm._results import tell_nonfinite
from fastgradnorm._schemes import SKETCHED, GroupBy, Groups, Scored, SketchScheme
from fastgradnorm._sketches.sketched import COLUMN, NORMS, Sketches
from fastgradnorm._sketches.store import SketchStore
from fastgradnorm._sketches.writing import Folder
from fastgradnorm._validate import check_bool, check_choice, check_integer, check_model, fail

AnySketchScheme = SketchScheme | Literal["loss"]


@overload
def gradient_sketch(
    model: nn.Module,
    loader: Iterable[Any],
    dim: int = 256,
    *,
    scheme: AnySketchScheme | None = None,
    group_by: None = None,
    norms: Literal[False] = False,
    **options: Any,
) -> Tensor: ...


@overload
def gradient_sketch(
    model: nn.Module,
    loader: Iterable[Any],
    dim: int = 256,
    *,
    scheme: AnySketchScheme | None = None,
    group_by: None = None,
    norms: Literal[True],
    **options: Any,
) -> tuple[Tensor, Tensor]: ...


@overload
def gradient_sketch(
    model: nn.Module,
    loader: Iterable[Any],
    dim: int = 256,
    *,
    scheme: AnySketchScheme | None = None,
    group_by: GroupBy,
    norms: Literal[False] = False,
    **options: Any,
) -> dict[str, Tensor]: ...


@overload
def gradient_sketch(
    model: nn.Module,
    loader: Iterable[Any],
    dim: int = 256,
    *,
    scheme: AnySketchScheme | None = None,
    group_by: GroupBy,
    norms: Literal[True],
    **options: Any,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]: ...


def gradient_sketch(
    model: nn.Module,
    loader: Iterable[Any],
    dim: int = 256,
    *,
    scheme: AnySketchScheme | None = None,
    group_by: GroupBy | None = None,
    norms: bool = False,
    metric: torch.optim.Optimizer | None = None,
    **options: Any,
) -> Any:
    r"""Sketch each sample's gradient over all parameters: `dim` numbers that keep its geometry.

    With :math:`g` the gradient, :math:`h` a random bucket and :math:`s` a random sign of each of
    its elements, :math:`y_b = \sum_{h(p) = b} s_p g_p` (count sketch, Charikar et al., 2002), of a
    matrix by those of its rows and columns (TensorSketch, Pham and Pagh, 2013): memory grows with
    layers' widths, not with their product, but for layers of many positions, whose gradients are
    formed where that is less work. Over the seeds, :math:`\mathrm{E}[y \cdot y'] = g \cdot g'`,
    and the relative standard deviation of :math:`\|y\|^2` is at most about
    :math:`\sqrt{2 / \mathrm{dim}}`, 9 % for 256, where layers are no wider than `dim` or many
    layers or positions add to g; for one wider layer at one position it is less than
    :math:`\sqrt{6 / \mathrm{dim}}`. For choosing samples
    that differ: k-means++ over sketches with `scheme="predicted"` is BADGE (Ash et al., 2020,
    https://arxiv.org/abs/1906.03671) over the whole model instead of its last layer.

    Args:
        model: As in `score_pool`.
        loader: As in `score_pool`.
        dim: Length of a sketch.
        scheme: Of what the gradient is: `"entropy"`, :math:`H(p)`; `"predicted"`,
            :math:`\ell(x, \hat y)` with :math:`\hat y` the most probable class. Of dense and
            multi-label outputs, the mean over valid positions and labels. `"loss"`: the `loss`
            among the options. By default that if there is one, else `"entropy"`.
        group_by: Gives each group of parameters a sketch of its own: `"parameter"`, `"module"`, or
            a function of a parameter's name.
        norms: Also return the norms of the gradients, exact, from the same pull-back.
        metric: An optimizer of the model's parameters, such as AdamW, by whose state gradients are
            divided first, as in `gradient_dots` (LESS); all of them are formed for it.
        options: Keyword arguments of `Options`, such as `params`, `class_dim`, `checkpoint` and
            `seed` (of buckets and signs). `reduction` has no meaning here.

    Returns:
        Sketches `[N, dim]`, float32 (float64 for a float64 model), on the CPU, in loader order.
        With `group_by` a dict of them by group, in the order of the parameters; their sum is the
        sketch of all, since buckets and signs are the same. With `norms` a pair of that and the
        norms `[N]`, with `group_by` a dict of them too, whose squares add up to that of all.

    Raises:
        ValueError: As `score_pool`; also for a `reduction`.
        VerificationError: If `verify` is on and a sketch is not that of autograd's gradient.
        NonFiniteScoreError: If a sketch has NaN or infinite entries, with `on_nonfinite="raise"`;
            it holds all sketches.

    Guarantees:
        - The same seed gives the same sketch of a sample, whatever the batch.
        - Shared parameters are added up first; confident samples do not underflow.

    Example:
        >>> model = nn.Linear(3, 2).eval()
        >>> sketches = gradient_sketch(model, [torch.eye(3)], dim=4, scheme="predicted")
        >>> sketches.shape
        torch.Size([3, 4])
    """
    given = {**options, "group_by": group_by}
    check_bool("norms", norms)
    chosen, scheme = checked_sketches("gradient_sketch", dim, scheme, given)
    parts, placement = list[Scored](), Placement(loader, "gradient_sketch")
    with OwnRandomState():
        run = start(model, loader, chosen, sketching(dim, scheme, norms, metric=metric))
        for part in run.parts(apart=False):
            placement.add(part.indices, len(part))
            parts += [part.scored] if len(part) else []
    placement.judge(run.pool.size, run.lost)
    if not parts:
        raise ArgumentError("`loader` must yield at least one sample. Got none.", "loader")
    groups = _groups(run)
    sketches = torch.cat([part.scores[COLUMN] for part in parts])
    found: Any = _by_group(sketches, groups, dim)
    if norms:
        sizes = torch.cat([part.scores[NORMS] for part in parts])
        found = found, sizes[:, 0] if groups is None else _by_group(sizes, groups, None)
    bad = (~sketches.isfinite().all(1)).nonzero()[:, 0].tolist()
    if bad:
        tell_nonfinite("sketches", bad, len(sketches), found, chosen.on_nonfinite)
    return found


def _by_group(columns: Tensor, groups: Mapping[int, str] | None, dim: int | None) -> Any:
    """Columns `[N, G * dim]` as they are, or by group; without `dim` `[N, G]`."""
    if groups is None:
        return columns
    each = columns.T if dim is None else columns.view(len(columns), -1, dim).transpose(0, 1)
    return {name: each[i].contiguous() for i, name in groups.items()}


def store_sketches(
    model: nn.Module,
    loader: Iterable[Any],
    path: str | Path,
    dim: int = 256,
    *,
    scheme: AnySketchScheme | None = None,
    norms: bool = False,
    metric: torch.optim.Optimizer | None = None,
    **options: Any,
) -> SketchStore:
    """Sketch a pool into a folder, for pools whose sketches do not fit in memory.

    A run that was stopped goes on where it was when it is called again, with the same bytes in the
    end; one that is finished is opened. The folder holds `gradients.bin`, the sketches row by row;
    `gradients`, how far the run came, and of what; and once all is there `info.json`.

    Args:
        model: As in `score_pool`.
        loader: As in `score_pool`.
        path: Of the folder; made if it is not there.
        dim: Length of a sketch.
        scheme: As in `gradient_sketch`.
        norms: Also keep the norms of the gradients, exact, from the same pull-back: in the same
            rows, after the sketches. The store's `norms` are those.
        metric: As in `gradient_sketch`.
        options: As in `gradient_sketch`, without a `checkpoint`. With `group_by` rows hold one
            sketch after another, one a group. Ranks share the pool, and rank 0 writes the folder.

    Returns:
        The store, also on other ranks.

    Raises:
        ValueError: As `gradient_sketch`; also if the folder is of another run.
        OSError: If it cannot be written; sketches that were written stay, to be gone on with.
        NonFiniteScoreError: If a sketch has NaN or infinite entries, with `on_nonfinite="raise"`.
            The store is whole then, and can be opened.

    Example:
        >>> import tempfile
        >>> model = nn.Linear(3, 2).eval()
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     store = store_sketches(model, [torch.eye(3)], folder, dim=4)
        ...     store.shape
        (3, 4)
    """
    if options.get("checkpoint") is not None:
        advice = "The folder is one already."
        raise fail("checkpoint", "None for `store_sketches`", options["checkpoint"], advice)
    check_bool("norms", norms)
    folder = Folder(path)
    given = {**options, "checkpoint": folder.checkpoint}
    chosen, scheme = checked_sketches("store_sketches", dim, scheme, given)
    placement = Placement(loader)
    with OwnRandomState():
        run = start(model, loader, chosen, sketching(dim, scheme, norms, norms, metric))
        folder.write(run, placement)
    samples = placement.judge(run.pool.size, run.lost)
    if not folder.count:
        raise ArgumentError("`loader` must yield at least one sample. Got none.", "loader")
    told = {"dim": dim, "scheme": scheme, "norms": norms, "samples": samples}
    folder.finish(run, told, placement.indices(), _groups(run))
    store = SketchStore(path)
    if folder.bad:
        tell_nonfinite("sketches", folder.bad, len(store), store, chosen.on_nonfinite)
    return store


def sketching(
    dim: int,
    scheme: str,
    norms: bool = False,
    beside: bool = False,
    metric: torch.optim.Optimizer | None = None,
) -> Callable[[nn.Module, Options], Engine]:
    """Makes an engine of a model and options."""

    def make(model: nn.Module, options: Options) -> Engine:
        given = dim, scheme, norms, beside, metric_of(check_model(model), metric)
        return make_engine(
            model, options, lambda own, told: Sketches(own, told, *given), labelled=True
        )

    return make


def _groups(run: Run | SharedRun) -> dict[int, str] | None:
    """Groups that were counted, by their place; None: there is one of all."""
    by = run.options.group_by
    if by is None:
        return None
    groups = Groups(by, run.subject.chosen)
    last = run.options.params == "last_layer"
    places = groups.used(run.counted) if last else range(len(groups.names))
    return {i: groups.names[i] for i in places}


def checked_sketches(
    function: str, dim: int, scheme: AnySketchScheme | None, options: Mapping[str, Any]
) -> tuple[Options, AnySketchScheme]:
    """The options of sketches, and of what gradient they are."""
    check_integer("dim", dim, at_least=1)
    if scheme is None:
        scheme = "entropy" if options.get("loss") is None else "loss"
    check_choice("scheme", scheme, ("loss", *SKETCHED))
    if (scheme == "loss") != (options.get("loss") is not None):
        raise fail("scheme", "'loss' with a `loss`, and another one without", scheme)
    chosen = make_options(function, options)
    if chosen.reduction != "global":
        raise fail("reduction", "'global' for sketches", chosen.reduction)
    chosen.refuse_subset(function)
    return chosen, scheme
