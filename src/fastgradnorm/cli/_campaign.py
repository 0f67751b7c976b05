"""``fastgradnorm ask``, ``tell``, ``status`` and ``labels``: rounds of labels from people."""

import csv
import io
import json
from pathlib import Path
from typing import Annotated, Any

import typer

from fastgradnorm.active import Campaign, argilla_answers, label_studio_answers
from fastgradnorm.atomic import write_text
from fastgradnorm.cli import _given
from fastgradnorm.cli._acquire import DEFAULTS, K, Paths, Seed, Space, Strategy
from fastgradnorm.cli._failures import BadInputError, in_options, told
from fastgradnorm.cli._files import ENCODING, read_rows
from fastgradnorm.cli._resuming import Resume, checkpoint_at, forget, going_on

Folder = Annotated[Path, typer.Option("--campaign", help="Folder of what was asked and told.")]
_PLACE = Path("campaign")
# Arguments of `Campaign` that stand on the command line.
_OPTIONS = {"k": "K", "batch": "BATCH", "answers": "--answers", "folder": "--campaign"}
_OPTIONS |= {"strategy": "--strategy", "key": "--ids", "scheme": "--scheme", "params": "--params"}
_OPTIONS |= {"space": "--space", "likelihood": "--likelihood"}


def add(app: typer.Typer) -> None:
    """Adds the commands."""
    made = _given.opened(ask, without=("loss", "target"), params="last_layer")
    app.command()(made)
    app.command()(tell)
    app.command()(status)
    app.command()(labels)


def ask(
    given: _given.Given,
    k: K,
    campaign: Folder = _PLACE,
    labelled: Annotated[
        Path | None,
        typer.Option(help="Labels that are there already: a CSV of `id` and `label`, as of tell."),
    ] = None,
    strategy: Strategy = "auto",
    space: Space = "last_layer",
    seed: Seed = 0,
    paths: Paths = False,
    resume: Resume = True,
) -> None:
    """Name the samples to label: the batch that waits for answers, or K new ones.

    Names that have no answer yet go to the screen, best first, one a line. Interrupted, it tells
    how many samples it keeps; the same command goes on from there.
    """
    if paths and given.pool.root is None:
        raise BadInputError("`--paths` must be left out where the pool is no folder of files.")
    ids = [str(name) for name in given.pool.ids]
    asked = {n: v for n, v in given.options.items() if v != DEFAULTS.get(n)}
    checkpoint = campaign / "ask.checkpoint"
    place = checkpoint_at(checkpoint, "--campaign", resume)
    known = {} if labelled is None else _labels_there(labelled)
    try:
        made = _opened(campaign, given.pool.dataset, ids, root=given.pool.root)
        if known:
            with in_options({"answers": "--labelled"}):
                typer.echo(f"{made.add_labels(known)} new or other labels", err=True)
        with going_on(checkpoint, "--campaign"), in_options(_OPTIONS):
            batch = made.ask(
                k,
                given.model,
                strategy=strategy,
                space=space,
                seed=seed,
                batch_size=given.batch_size,
                on_nonfinite="warn",
                checkpoint=place,
                **asked,
            )
    except OSError as error:
        raise BadInputError(f"`--campaign` cannot be used. {told(error)}.") from error
    forget(checkpoint)
    waiting = {*batch.waiting}
    typer.echo(f"Batch {batch.id}: {len(waiting)} to label. Model: {given.origin}", err=True)
    for name, index in zip(batch.keys, batch.indices, strict=True):
        if name in waiting:
            typer.echo(str(given.pool.path(index) if paths else name))


def tell(
    batch: Annotated[int, typer.Argument(metavar="BATCH", min=1, help="Its number.")],
    campaign: Folder = _PLACE,
    answers: Annotated[
        Path | None,
        typer.Option(
            help="A CSV of `id` and `label` (empty: skipped), or JSON of Label Studio or Argilla."
        ),
    ] = None,
    release: Annotated[
        bool, typer.Option("--release", help="What has no answer may be asked again.")
    ] = False,
) -> None:
    """Take answers of a batch: some or all of them, late, again, or corrected."""
    if answers is None and not release:
        raise BadInputError("`--answers` must be a file, or `--release` given.")
    made = _opened(campaign)
    given = None if answers is None else _answers(answers, "--answers")
    try:
        with in_options(_OPTIONS):
            if given is not None:
                typer.echo(f"{made.tell(batch, given)} new or corrected")
            if release:
                typer.echo(f"{made.release(batch)} without an answer may be asked again")
    except OSError as error:
        raise BadInputError(f"`--campaign` cannot be used. {told(error)}.") from error


def status(campaign: Folder = _PLACE) -> None:
    """Tell how far a campaign is, and whether labels still change what the model says."""
    made = _opened(campaign)
    with in_options(_OPTIONS):
        typer.echo(str(made.status()))


def labels(
    campaign: Folder = _PLACE,
    out: Annotated[Path | None, typer.Option(help="A CSV; by default the screen.")] = None,
) -> None:
    """Write the labels so far, of all samples that have one: a CSV of `id` and `label`."""
    made = _opened(campaign)
    with in_options(_OPTIONS):
        known = made.labelled
    sheet = io.StringIO()
    writer = csv.writer(sheet, lineterminator="\n")
    writer.writerow(["id", "label"])
    for name, label in known.items():  # boxes, several labels: as JSON
        writer.writerow([name, label if isinstance(label, str) else json.dumps(label)])
    if out is None:
        typer.echo(sheet.getvalue(), nl=False)
        return
    if out.suffix != ".csv":
        raise BadInputError(f"`--out` must end in .csv. Got {out}.")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_text(out, sheet.getvalue())
    except OSError as error:
        raise BadInputError(f"`--out` cannot be written. {told(error)}.") from error
    typer.echo(f"{len(known)} labels: {out}", err=True)


def _opened(folder: Path, *pool: Any, **options: Any) -> Campaign:
    try:
        with in_options(_OPTIONS):
            return Campaign(folder, *pool, **options)
    except OSError as error:
        raise BadInputError(f"`--campaign` cannot be used. {told(error)}.") from error


def _labels_there(path: Path) -> dict[str, Any]:
    """Labels by name; samples without one may be asked for."""
    found = _answers(path, "--labelled")
    known = {name: label for name, label in found.items() if label is not None}
    if len(known) < len(found):
        without = len(found) - len(known)
        typer.echo(f"{path}: {without} without a label, which may be asked for", err=True)
    return known


def _of_rows(path: Path) -> dict[str, Any]:
    """Labels by name, of which the last counts; tells of names with several."""
    found: dict[str, str | None] = {}
    several: dict[str, str] = {}
    for row in read_rows(path, "id", "label"):
        name, label = row["id"], row["label"].strip() or None
        if found.setdefault(name, label) != label:
            several.setdefault(name, f"{name!r}, {found[name] or ''!r} and {label or ''!r}")
            found[name] = label
    if several:
        samples = "samples have" if len(several) > 1 else "sample has"
        typer.echo(
            f"warning: {path}: {len(several)} {samples} several labels, such as "
            f"{next(iter(several.values()))}: of these the last counts.",
            err=True,
        )
    return found


def _answers(path: Path, option: str) -> dict[str, Any]:
    try:
        if path.suffix == ".json":
            items = json.loads(path.read_text(encoding=ENCODING))
            first = items[0] if isinstance(items, list) and items else None
            records = isinstance(first, dict) and "responses" in first
            return argilla_answers(items) if records else label_studio_answers(items)
        return _of_rows(path)
    except OSError as error:
        raise BadInputError(f"`{option}` cannot be read. {told(error)}") from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BadInputError(
            f"`{option}` must be a CSV with the columns `id` and `label`, or the JSON export of "
            f"Label Studio or Argilla. Got {path}: {error}"
        ) from error
