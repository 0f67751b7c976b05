"""The page of a selection: the chosen with the reason for each, and what the model thinks."""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from fastgradnorm._results.chosen import class_name, of_index
from fastgradnorm.atomic import write_text
from fastgradnorm.page import (
    beginning,
    definitions,
    number,
    page,
    percent,
    table,
    thumbnail,
    tile,
    tiles,
)

_SHOWN = 100


def write(
    selection: Any,
    folder: Path,
    ids: Any,
    picture: Any,
    text: Any,
    names: Sequence[str] | None,
    told: Mapping[str, str],
    link: Any = None,
) -> Path:
    """Writes `index.html` into a folder, which is made; returns its path."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        wanted = "`folder` must be a folder that can be written, or a place for one."
        raise OSError(error.errno, f"{wanted} {error.strerror}", str(folder)) from error
    picture, link = _by_index(picture, "picture"), _by_index(link, "link")
    rows = selection.to_records(ids)
    pool = selection.pool
    sections = {
        "The samples, best first": _legend(rows)
        + (
            _rows(rows, text, names, link)
            if picture is None
            else _pictures(rows, picture, names, link)
        ),
        "What the model predicts": _classes(selection, rows, names),
    }
    found = {each["kind"].capitalize(): each["message"] for each in pool["findings"]}
    if found:
        sections = {"What was noticed": definitions(found), **sections}
    sections["Where this comes from"] = definitions({**told, **_told(selection)})
    html = page(
        title="Which samples to label next",
        kicker="fastgradnorm acquire",
        lede=f"{len(rows):,} of {pool['candidates']:,} unlabelled samples, chosen by "
        f"{escape(str(selection.provenance['strategy']))}: "
        f"{escape(str(selection.provenance['words']))}.",
        facts=_facts(selection),
        sections=sections,
        footer="Written by <code>fastgradnorm.acquire</code>.",
    )
    path = folder / "index.html"
    write_text(path, html)
    return path


def _legend(rows: Sequence[Mapping[str, Any]]) -> str:
    """What the numbers of a sample are."""
    told = "Of each its rank and score, and the two classes that the model finds most probable"
    if rows and rows[0]["coverage"] is not None:
        told += "; <i>adds</i>: the share of the pool that is near it and near none before it"
    return f"<p>{told}.</p>\n"


def _by_index(values: Any, name: str) -> Any:
    """A function of the index, also where a sequence over the dataset is given."""
    if values is None or callable(values):
        return values
    return lambda index: of_index(values, index, name)


def _facts(selection: Any) -> list[tuple[str, str]]:
    pool = selection.pool
    labelled = pool["labelled"]  # None: in a loader of their own, which was not read
    already = "." if labelled is None else f", {labelled:,} of them labelled already."
    found = [
        (f"{pool['samples']:,}", f"samples in the pool{already}"),
        (percent(pool["confidence"]["mean"]), "mean confidence of the model."),
    ]
    if pool.get("coverage"):
        before, after = pool["coverage"]["before"], pool["coverage"]["after"]
        text = "of the pool is near a labelled or chosen sample; near a labelled one, "
        text += f"{percent(before)}."
        found.append((percent(after), text))
    alike = [row for row in selection.records if row["alike_chosen"] is not None]
    if alike:
        text = "of the chosen are near-duplicates of others chosen; <code>max_similarity</code>, "
        text += "on the command line <code>--max-similarity</code>, leaves them out."
        found.append((f"{len(alike):,}", text))
    return found


def _why(row: dict[str, Any], names: Sequence[str] | None, between: str = ", ") -> str:
    first, second = _called(row["predicted"], names), _called(row["runner_up"], names)
    told = [f"{first}: {percent(row['confidence'])}"]
    told.append(f"{second}: {percent(row['runner_up_probability'])}")
    if row["coverage"] is not None:
        told.append(f"adds {percent(row['coverage'])}")
    if row["alike"]:
        several = f"{row['alike']:,} near-duplicate{'s' if row['alike'] > 1 else ''}"
        before = row["alike_chosen"]
        told.append(several if before is None else f"{several}, of them rank {before}")
    return between.join(map(escape, told))


def _called(number: int | None, names: Sequence[str] | None) -> str:
    return f"class {number}" if names is None else str(class_name(number, names))


def _rows(rows: list[dict[str, Any]], text: Any, names: Sequence[str] | None, link: Any) -> str:
    def told(row: dict[str, Any]) -> list[str]:
        return [] if text is None else [beginning(of_index(text, row["index"], "text"))]

    return table(
        (
            "rank",
            "sample",
            *([] if text is None else ["text"]),
            "score",
            "prediction, runner-up, coverage it adds",
        ),
        [
            (
                str(row["rank"]),
                _linked(escape(str(row["id"])), row["index"], link),
                *told(row),
                number(row["score"], 4),
                _why(row, names),
            )
            for row in rows[:_SHOWN]
        ],
        "" if len(rows) <= _SHOWN else f"The first {_SHOWN} of {len(rows):,}.",
    )


def _linked(shown: str, index: int, link: Any) -> str:
    return shown if link is None else f'<a href="{escape(str(link(index)))}">{shown}</a>'


def _pictures(
    rows: list[dict[str, Any]], picture: Any, names: Sequence[str] | None, link: Any
) -> str:
    found = []
    for row in rows[:_SHOWN]:
        small = thumbnail(picture(row["index"]))
        name = escape(str(row["id"]))
        short = escape(Path(str(row["id"])).name)
        note = f'{_why(row, names, "<br>")}<br><span class="name" title="{name}">{short}</span>'
        there = "" if link is None else str(link(row["index"]))
        text = f"{row['rank']}. {number(row['score'])}"
        found.append(tile(small, alt=str(row["id"]), score=text, note=note, link=there))
    return tiles(found)


def _classes(selection: Any, rows: list[dict[str, Any]], names: Sequence[str] | None) -> str:
    chosen: dict[int, int] = {}
    for row in rows:
        chosen[row["predicted"]] = chosen.get(row["predicted"], 0) + 1
    counts = sorted(selection.pool["classes"].items(), key=lambda pair: -pair[1])
    return table(
        ("class", "in the pool", "among the chosen"),
        [
            (escape(_called(name, names)), f"{count:,}", str(chosen.get(name, 0)))
            for name, count in counts[:50]
        ],
    )


def _told(selection: Any) -> dict[str, str]:
    facts = {name: value for name, value in selection.provenance.items() if value is not None}
    facts.pop("words", None)  # the page begins with them
    seconds = facts.pop("seconds", {})
    told = {name.capitalize().replace("_", " "): str(value) for name, value in facts.items()}
    if seconds:
        told["Seconds"] = ", ".join(f"{value:.3g} to {name}" for name, value in seconds.items())
    told["Verified"] = selection.scores.verified or "nothing"
    return told
