"""``fastgradnorm acquire``."""

import os
import shlex
import sys
from pathlib import Path, PurePath
from typing import Annotated

import typer

from fastgradnorm import Selection
from fastgradnorm import acquire as acquire_samples
from fastgradnorm.atomic import write_text
from fastgradnorm.cli import _given, _placing
from fastgradnorm.cli._classes import Classes, class_names, fitting
from fastgradnorm.cli._failures import BadInputError, fail, in_options, told
from fastgradnorm.cli._files import check_folder
from fastgradnorm.cli._fitting import how_many
from fastgradnorm.cli._labelled import labelled_samples
from fastgradnorm.cli._resuming import Resume, checkpoint_at, forget, going_on
from fastgradnorm.cli._wording import noticed, summary

# What a strategy's name may say otherwise, as long as nobody asked for anything.
DEFAULTS = {"scheme": "expected", "params": "last_layer", "rtol": 0.0, "class_dim": 1}
DEFAULTS |= {"likelihood": "auto"}
# Arguments that stand on the command line, in the words of the function.
_OPTIONS = {"k": "K", "strategy": "--strategy", "max_per_group": "--max-per-folder"}
_OPTIONS |= {"max_similarity": "--max-similarity", "labelled": "--labelled", "scheme": "--scheme"}
_OPTIONS |= {"params": "--params", "space": "--space", "likelihood": "--likelihood"}
_ADVICE = " With --out or --checkpoint it would keep whole chunks of samples."

K = Annotated[
    int, typer.Argument(metavar="K", parser=how_many("MODEL POOL K"), help="How many to label.")
]
Labelled = Annotated[
    Path | None,
    typer.Option(
        help="What has labels: names in the pool, one a line or a CSV's `id`; or a folder, table "
        "or file of samples."
    ),
]
Strategy = Annotated[
    str, typer.Option(help="auto, margin, badge, typiclust, expected/all/herding, ...")
]
Space = Annotated[
    str,
    typer.Option(
        help="last_layer, or sketch: of the gradient over --params; for strategies over points."
    ),
]
Seed = Annotated[int, typer.Option(min=0, help="Of everything random.")]
MaxPerFolder = Annotated[int | None, typer.Option(min=1, help="Images of one folder, at most.")]
MaxSimilarity = Annotated[
    float | None, typer.Option(help="Leave out near-duplicates above it, such as 0.99.")
]
Out = Annotated[Path | None, typer.Option(help="A CSV, JSON lines or text file of the chosen.")]
Report = Annotated[Path | None, typer.Option(help="Folder for a page with the chosen and why.")]
CopyTo = Annotated[Path | None, typer.Option("--copy-to", help="Copy the chosen files there.")]
LinkTo = Annotated[Path | None, typer.Option("--link-to", help="Link the chosen files there.")]
Paths = Annotated[bool, typer.Option("--paths", help="Print paths, not names within the pool.")]
Checkpoint = Annotated[
    Path | None,
    typer.Option(help="Keep there what is done until all is; by default beside --out."),
]
Workers = Annotated[int, typer.Option(min=0, help="Processes that load samples.")]


def add(app: typer.Typer) -> None:
    """Adds the command."""
    # The last layer's scores take a forward pass alone; there are no labels to take a loss of.
    made = _given.opened(acquire, without=("loss", "target"), params="last_layer")
    app.command()(made)


def acquire(
    given: _given.Given,
    k: K,
    labelled: Labelled = None,
    strategy: Strategy = "auto",
    space: Space = "last_layer",
    seed: Seed = 0,
    max_per_folder: MaxPerFolder = None,
    max_similarity: MaxSimilarity = None,
    out: Out = None,
    report: Report = None,
    classes: Classes = None,
    copy_to: CopyTo = None,
    link_to: LinkTo = None,
    paths: Paths = False,
    checkpoint: Checkpoint = None,
    resume: Resume = True,
    workers: Workers = 0,
) -> None:
    """Choose the K samples of a pool to label next, from one pass over it.

    Their names go to the screen, best first, one a line; what is told goes beside them. With --out
    or --checkpoint it keeps whole chunks of samples, and the same command goes on after a stop.
    """
    again = _given.repeated(given.pool)
    if again:
        raise BadInputError(
            f"`--ids` must have a name of its own for each sample: {again}, and nobody could tell "
            "which are chosen. Choose another column, or leave it out: rows are counted."
        )
    if out is not None and out.suffix not in (".csv", ".jsonl", ".txt"):
        raise BadInputError(f"`--out` must end in .csv, .jsonl or .txt. Got {out}.")
    if out is not None and os.path.isdir(out):
        raise BadInputError(f"`--out` must be a file. Got the folder {out}.")
    _check_places(given, report, copy_to, link_to, paths)
    called = class_names(classes, given.model, report is not None)
    known = labelled_samples(given, labelled, workers)
    groups = None if max_per_folder is None else _folders(given)
    asked = {n: v for n, v in given.options.items() if v != DEFAULTS.get(n)}
    option = "--out" if checkpoint is None else "--checkpoint"
    if checkpoint is None and out is not None:
        checkpoint = out.with_name(f"{out.name}.checkpoint")
    place = None if checkpoint is None else checkpoint_at(checkpoint, option, resume)
    typer.echo(f"Model: {given.origin}", err=True)
    with going_on(checkpoint, option, _ADVICE), in_options(_OPTIONS):
        chosen = acquire_samples(
            given.model,
            given.loader(workers),
            k,
            labelled=known,
            strategy=strategy,
            space=space,  # type: ignore[arg-type]  # told if it is another
            seed=seed,
            groups=groups,
            max_per_group=max_per_folder,
            max_similarity=max_similarity,
            on_nonfinite="warn",
            checkpoint=place,
            **asked,
        )
    _tell(chosen)
    wrong = (~chosen.scores.values.isfinite()).nonzero()[:, 0].tolist()
    if wrong:
        typer.echo(f"Without a score, not chosen: {given.pool.named(wrong)}", err=True)
    names = [given.pool.path(i) if paths else given.pool.ids[i] for i in chosen]
    lines = "".join(f"{name}\n" for name in names)
    typer.echo(lines, nl=False)
    _place(given, chosen, copy_to, link_to)
    seconds = (row.get("runner_up") for row in chosen.records)
    called, wrong_names = fitting(called, (chosen.predicted.tolist(), seconds), classes)
    _write(given, chosen, lines, out, report, called)
    if wrong_names is not None:
        raise BadInputError(wrong_names)
    forget(checkpoint)  # not before: what failed to be written costs no second run


def _check_places(
    given: _given.Given,
    report: Path | None,
    copy_to: Path | None,
    link_to: Path | None,
    paths: bool,
) -> None:
    """Raises `BadInputError` unless what was asked for can be put where it should go."""
    if copy_to is not None and link_to is not None and copy_to.resolve() == link_to.resolve():
        raise BadInputError(f"`--link-to` must be another folder than `--copy-to`. Got {link_to}.")
    for option, place in (("--copy-to", copy_to), ("--link-to", link_to)):
        if place is not None:
            _placing.check_place(given.pool, place, option)
            check_folder(place, option)
    if report is not None:
        check_folder(report, "--report")
    if paths and given.pool.root is None:
        raise BadInputError("`--paths` must be left out where the pool is no folder of files.")


def _folders(given: _given.Given) -> list[str]:
    if given.pool.root is None:
        raise BadInputError("`--max-per-folder` must be left out where the pool is no folder.")
    return [str(PurePath(str(name)).parent) for name in given.pool.ids]


def _tell(chosen: Selection) -> None:
    typer.echo(summary(chosen), err=True)
    for line in noticed(chosen.pool["findings"]):
        typer.echo(line, err=True)


def _place(
    given: _given.Given, chosen: Selection, copied: Path | None, linked: Path | None
) -> None:
    for option, place, put in (
        ("--copy-to", copied, _placing.copy_to),
        ("--link-to", linked, _placing.link_to),
    ):
        if place is None:
            continue
        try:
            put(given.pool, [*chosen], place)
        except OSError as error:
            fail(f"`{option}` could not be filled. {told(error)}.", 1)
        typer.echo(f"{len(chosen)} files: {place}", err=True)
        others = _placing.others(given.pool, [*chosen], place)
        if others:
            some = ", ".join(others[:3]) + (", ..." if len(others) > 3 else "")
            typer.echo(
                f"warning: {place} holds {len(others):,} other files, not of this choice: {some}. "
                f"`{option}` with a new folder has the chosen alone.",
                err=True,
            )


def _write(
    given: _given.Given,
    chosen: Selection,
    lines: str,
    out: Path | None,
    report: Path | None,
    names: list[str] | None,
) -> None:
    texts = given.pool.texts
    columns = None if texts is None else {"text": texts}
    option = "--out"
    try:
        if out is not None:
            out.parent.mkdir(parents=True, exist_ok=True)
            if out.suffix == ".txt":
                write_text(out, lines)
            elif out.suffix == ".csv":
                chosen.to_csv(out, ids=given.pool.ids, columns=columns)
            else:
                chosen.to_jsonl(out, ids=given.pool.ids, columns=columns)
            typer.echo(f"Chosen: {out}", err=True)
        option = "--report"
        if report is not None:
            facts = {"Command": shlex.join(["fastgradnorm", *sys.argv[1:]]), "Model": given.origin}
            page = chosen.report(
                report,
                ids=given.pool.ids,
                picture=given.pool.picture,
                text=texts,
                names=names,
                told=facts,
                link=given.pool.links(report),
            )
            typer.echo(f"Report: {page}", err=True)
    except OSError as error:
        fail(f"`{option}` could not be written. {told(error)}. The chosen are above.", 1)
