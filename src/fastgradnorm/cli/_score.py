"""``fastgradnorm score``."""

import os
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from fastgradnorm import LABELLED_SCHEMES, GradNormScorer, PoolScores, score_and_predict
from fastgradnorm.cli import _given
from fastgradnorm.cli._classes import Classes, class_names, fitting
from fastgradnorm.cli._failures import BadInputError, fail, in_options, told
from fastgradnorm.cli._files import WRITERS, check_folder, print_scores, write_scores
from fastgradnorm.cli._resuming import Resume, checkpoint_at, forget, going_on
from fastgradnorm.cli._samples import Pool
from fastgradnorm.cli._wording import noticed, summary

# Arguments of the scorer that stand on the command line.
_OPTIONS = {"params": "--params", "rtol": "--rtol", "class_dim": "--class-dim"}
_OPTIONS |= {"scheme": "--scheme", "loss": "--loss", "target": "--target"}
_OPTIONS |= {"likelihood": "--likelihood"}


def add(app: typer.Typer) -> None:
    """Adds the command."""

    @app.command()
    @_given.opened
    def score(
        given: _given.Given,
        out: Annotated[Path, typer.Option(help=f"Scores go here: {', '.join(WRITERS)}.")] = Path(
            "scores.csv"
        ),
        report: Annotated[
            Path | None, typer.Option(help="Folder for a page with pictures of both ends.")
        ] = None,
        classes: Classes = None,
        resume: Resume = True,
        workers: Annotated[int, typer.Option(min=0, help="Processes that load samples.")] = 0,
    ) -> None:
        """Score each sample of a pool by the norm of its gradient.

        Interrupted, it tells how many samples it keeps; the same command goes on from there.
        """
        again = _given.repeated(given.pool)
        if again:
            typer.echo(
                f"warning: {again}: it cannot be told which sample is meant. Choose others by "
                "--ids, or leave it out: rows are counted.",
                err=True,
            )
        if out.suffix not in WRITERS:
            raise BadInputError(f"`--out` must end in one of {', '.join(WRITERS)}. Got {out}.")
        if os.path.isdir(out):
            raise BadInputError(f"`--out` must be a file. Got the folder {out}.")
        if report is not None:
            check_folder(report, "--report")
        called = class_names(classes, given.model, report is not None)
        checkpoint = out.with_name(f"{out.name}.checkpoint")
        # NaN scores are told of and kept, without a rank: the others are not lost for them.
        place = checkpoint_at(checkpoint, "--out", resume)
        with in_options(_OPTIONS):
            asked = {"checkpoint": place, "on_nonfinite": "warn", **given.options}
            scorer = GradNormScorer(given.model, **asked)  # what is wrong with it is told first
        typer.echo(f"Model: {given.origin}")
        with going_on(checkpoint, "--out"), in_options(_OPTIONS):
            scores, seen = _score(scorer, given, asked, workers)
        typer.echo(summary(scores))
        for line in noticed(scores.provenance["findings"]):
            typer.echo(line)
        wrong = (~scores.values.isfinite()).nonzero()[:, 0].tolist()
        if wrong:
            typer.echo(f"Without a score: {given.pool.named(wrong)}")
        _keep(scores, given.pool, seen, out)
        ranked = int((~scores.values.isnan()).sum())
        if ranked and report is not None:
            _show(report, scores, seen, given, out, called, classes)
        forget(checkpoint)  # not before: a page that failed costs no second run
        if not ranked:
            fail(f"every score is NaN, and so are the model's outputs. {out} has no ranks.", 1)
        some = min(100, max(1, ranked // 10))
        typer.echo(
            "The highest are often alike; samples that differ are chosen by `fastgradnorm acquire` "
            "of the same MODEL and POOL."
        )
        typer.echo(f"Next: fastgradnorm select {out} {some}")


def _score(
    scorer: GradNormScorer[Any, Any], given: _given.Given, asked: dict[str, Any], workers: int
) -> tuple[PoolScores, dict[str, list[Any]]]:
    """Scores, and what the model predicts for each sample where its outputs are classes."""
    loader = given.loader(workers)
    if asked.get("loss") is not None or asked.get("scheme") in LABELLED_SCHEMES:
        return scorer.score(loader), {}
    scores, seen = score_and_predict(given.model, loader, **asked)
    known = (~seen["confidence"].isnan()).tolist()
    return scores, {
        name: [value if k else None for value, k in zip(values.tolist(), known, strict=True)]
        for name, values in seen.items()
    }


def _keep(scores: PoolScores, pool: Pool, seen: dict[str, list[Any]], out: Path) -> None:
    """Writes the scores, elsewhere if they cannot be written where they should go."""
    try:
        write_scores(scores, out, pool.ids, seen)
    except OSError as error:
        place = _keep_elsewhere(scores, pool, seen, out.name)
        fail(f"`--out` could not be written. {told(error)}. The scores are {place}.", 1)
    typer.echo(f"Scores: {out}")


def _keep_elsewhere(scores: PoolScores, pool: Pool, seen: dict[str, list[Any]], name: str) -> str:
    try:
        spare = Path(tempfile.mkdtemp(prefix="fastgradnorm-")) / name
        write_scores(scores, spare, pool.ids, seen)
    except OSError:  # that disk is full, too
        print_scores(scores, pool.ids, seen)
        return "above, as CSV"
    return f"in {spare}"


def _show(
    report: Path,
    scores: PoolScores,
    seen: dict[str, list[Any]],
    given: _given.Given,
    out: Path,
    names: list[str] | None,
    classes: Path | None,
) -> None:
    from fastgradnorm.cli._report import write_report

    both = seen.get("predicted", ()), seen.get("runner_up", ())
    names, wrong = fitting(names, both, classes)
    try:
        page = write_report(report, scores, seen, given.pool, given.origin, names)
    except OSError as error:
        fail(f"`--report` could not be written. {told(error)}. The scores are in {out}.", 1)
    typer.echo(f"Report: {page}")
    if wrong is not None:
        raise BadInputError(wrong)
