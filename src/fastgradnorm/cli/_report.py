"""The page of ``fastgradnorm score --report``: the ranking, with pictures of both ends."""

import shlex
import sys
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import torch

from fastgradnorm import LABELLED_SCHEMES, SCHEMES, PoolScores, select
from fastgradnorm.atomic import write_text
from fastgradnorm.cli._samples import Pool
from fastgradnorm.page import (
    beginning,
    chart,
    definitions,
    number,
    page,
    percent,
    table,
    thumbnail,
    tile,
    tiles,
)
from fastgradnorm.page.themes import DARK, LIGHT, Theme, draw

_SHOWN = 20  # samples at either end


def write_report(
    out: Path,
    scores: PoolScores,
    seen: Mapping[str, list[Any]],
    pool: Pool,
    origin: str,
    names: Sequence[str] | None = None,
) -> Path:
    """Writes ``index.html`` into the folder `out`, made if it is not there; returns its path.

    Args:
        out: The folder.
        scores: At least one that is not NaN.
        seen: `predicted` and `confidence` of each sample, or neither.
        pool: What they are of.
        origin: Of the model, in words.
        names: Of the classes.
    """
    best = seen.get("predicted", ())
    called = [None if b is None else f"class {b}" if names is None else names[b] for b in best]
    seen = {**seen, "called": called} if best else seen
    out.mkdir(parents=True, exist_ok=True)
    values = scores.values
    ranked = int((~values.isnan()).sum())
    order = select(values, ranked).tolist()
    shown = min(_SHOWN, ranked)
    what = "The most valuable" if pool.picture else "The highest scores"
    html = page(
        title="Which samples to label next",
        kicker="fastgradnorm score",
        lede=f"{len(values):,} samples, each scored by how far it would move the model: "
        f"{escape(_formula(scores.provenance['scheme']))}.",
        facts=_facts(scores, order),
        sections={
            **_noticed(scores),
            what: _samples(scores, seen, pool, order[:shown], out),
            "The least valuable" if pool.picture else "The lowest scores": _samples(
                scores, seen, pool, order[::-1][:shown], out
            ),
            "How the scores are spread": chart(
                draw(lambda axes, theme: _histogram(scores, axes, theme), LIGHT),
                draw(lambda axes, theme: _histogram(scores, axes, theme), DARK),
                "Scores of the pool. Plain top-k selection takes the right end; where it is full "
                "of near-duplicates, select by chance.",
            ),
            "Where these numbers come from": definitions(_provenance(scores, origin)),
        },
        footer="Written by <code>fastgradnorm score --report</code>.",
    )
    path = out / "index.html"
    write_text(path, html)
    return path


def _noticed(scores: PoolScores) -> dict[str, str]:
    """A section, where there is something to tell."""
    found = {each["kind"].capitalize(): each["message"] for each in scores.provenance["findings"]}
    return {"What was noticed": definitions(found)} if found else {}


def _facts(scores: PoolScores, order: list[int]) -> list[tuple[str, str]]:
    values = scores.values.double()
    best, middle = float(values[order[0]]), float(np.nanmedian(values.numpy()))
    tenth = max(1, len(order) // 10)
    total = float(values[order].sum())
    share = float(values[order[:tenth]].sum()) / total if total else 0.0
    seconds = float(scores.provenance["seconds"])
    return [
        (number(best), "the highest score, in nats per unit of parameter."),
        (number(middle), "the median score."),
        (percent(share), "of all score is held by the highest tenth of the samples."),
        (number(len(values) / seconds), "samples a second."),
    ]


def _samples(
    scores: PoolScores,
    seen: Mapping[str, list[Any]],
    pool: Pool,
    indices: list[int],
    out: Path,
) -> str:
    link = pool.links(out)
    if pool.picture is None:
        texts = pool.texts
        rows = [
            (
                escape(str(pool.ids[i])),
                *([] if texts is None else [beginning(texts[i])]),
                number(float(scores.values[i]), 4),
                *([_prediction(seen, i)] if seen else []),
            )
            for i in indices
        ]
        told = ["prediction"] if seen else []
        return table(("Sample", *([] if texts is None else ["text"]), "score", *told), rows)
    return tiles(
        tile(
            thumbnail(pool.picture(i)),
            alt=str(pool.ids[i]),
            score=number(float(scores.values[i])),
            note=_name(str(pool.ids[i])) + (f"<br>{_prediction(seen, i)}" if seen else ""),
            link="" if link is None else link(i),
        )
        for i in indices
    )


def _prediction(seen: Mapping[str, list[Any]], index: int) -> str:
    called = seen["called"][index]
    if called is None:
        return "none"
    return f"{escape(called)}, {percent(seen['confidence'][index])}"


def _name(path: str) -> str:
    return f'<span class="name" title="{escape(path)}">{escape(PurePath(path).name)}</span>'


def _histogram(scores: PoolScores, axes: Any, theme: Theme) -> None:
    finite = scores.values[scores.values.isfinite()].double()
    positive = finite[finite > 0]
    logarithmic = len(positive) > 1 and float(positive.max()) > 20 * float(positive.min())
    values = positive if logarithmic else finite
    bins: Any = 40
    if logarithmic:
        ends = values.min().log10(), values.max().log10()
        bins = torch.logspace(float(ends[0]), float(ends[1]) + 1e-6, 41, device="cpu").tolist()
        axes.set_xscale("log")
    axes.hist(values.numpy(), bins=bins, color=theme.series[1], rwidth=0.9)
    axes.set_xlabel("score")
    axes.set_ylabel("samples")


def _provenance(scores: PoolScores, origin: str) -> dict[str, str]:
    facts = scores.provenance
    counted = facts["parameters"]
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    told = {
        "Command": shlex.join(["fastgradnorm", *sys.argv[1:]]),
        "Model": origin,
        "Scheme": str(facts["scheme"]),
        "Parameters": f"{counted['elements']:,} elements of {counted['tensors']} tensors",
        "Device": f"{facts['device']}, {facts['dtype']}",
        "Seed": str(facts["seed"]),
        "Noticed": ", ".join(each["kind"] for each in facts["findings"]) or "nothing unusual",
        "Verified": scores.verified or "nothing",
        "Time": f"{facts['seconds']:.1f} s",
        "Versions": versions,
    }
    changed = {
        name: value for name, value in facts["options"].items() if value not in (None, "auto")
    }
    return {**told, "Options": ", ".join(f"{name}={value}" for name, value in changed.items())}


def _formula(scheme: str) -> str:
    known = [*SCHEMES.items(), *LABELLED_SCHEMES.items()]
    return next(formula for name, formula in known if name == scheme)
