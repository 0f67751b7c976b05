"""``fastgradnorm score``."""

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from fastgradnorm import GradNormScorer, PoolScores
from fastgradnorm.cli import _given
from fastgradnorm.cli._failures import BadInputError, fail, told
from fastgradnorm.cli._files import WRITERS, write_scores
from fastgradnorm.cli._pool import Pool


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
        resume: Annotated[
            bool, typer.Option(help="Go on where the same command was interrupted.")
        ] = True,
        workers: Annotated[int, typer.Option(min=0, help="Processes that load samples.")] = 0,
    ) -> None:
        """Score each sample of a pool by the norm of its gradient.

        Interrupted, it keeps what is done; the same command goes on from there.
        """
        if out.suffix not in WRITERS:
            raise BadInputError(f"`--out` must end in one of {', '.join(WRITERS)}. Got {out}.")
        out.parent.mkdir(parents=True, exist_ok=True)
        checkpoint = out.with_name(out.name + ".checkpoint")
        if not resume:
            checkpoint.unlink(missing_ok=True)
        # NaN scores are told of and kept, without a rank: the others are not lost for them.
        scorer = GradNormScorer(
            given.model, checkpoint=checkpoint, on_nonfinite="warn", **given.options
        )
        try:
            scores = scorer.score(given.loader(workers))
        except KeyboardInterrupt:
            fail(f"interrupted. {checkpoint} keeps what is done: the same command goes on.", 130)
        typer.echo(str(scores))
        _keep(scores, given.pool, out)
        checkpoint.unlink(missing_ok=True)
        if report is not None:
            from fastgradnorm.cli._report import write_report

            typer.echo(f"Report: {write_report(report, scores, given.pool)}")
        typer.echo(f"Next: fastgradnorm select {out} 100")


def _keep(scores: PoolScores, pool: Pool, out: Path) -> None:
    """Writes the scores, elsewhere if they cannot be written where they should go."""
    try:
        write_scores(scores, out, pool.ids)
        typer.echo(f"Scores: {out}")
    except OSError as error:
        spare = Path(tempfile.mkdtemp(prefix="fastgradnorm-")) / out.name
        write_scores(scores, spare, pool.ids)
        fail(f"`--out` could not be written. {told(error)}. The scores are in {spare}.", 1)
