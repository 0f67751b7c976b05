"""``fastgradnorm score``."""

import contextlib
import errno
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from fastgradnorm import ArgumentError, GradNormScorer, PoolScores
from fastgradnorm.cli import _given
from fastgradnorm.cli._failures import BadInputError, fail, in_options, told
from fastgradnorm.cli._files import WRITERS, print_scores, write_scores
from fastgradnorm.cli._samples import Pool

# Arguments of the scorer that stand on the command line.
_OPTIONS = {"params": "--params", "rtol": "--rtol", "class_dim": "--class-dim"}
_OPTIONS |= {"scheme": "--scheme", "loss": "--loss", "target": "--target"}
_PROBE = 16384  # bytes: more than the head of a checkpoint


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
        checkpoint = out.with_name(out.name + ".checkpoint")
        if not resume:
            checkpoint.unlink(missing_ok=True)
        # NaN scores are told of and kept, without a rank: the others are not lost for them.
        place = checkpoint if _takes_more(checkpoint) else None
        with in_options(_OPTIONS):
            scorer = GradNormScorer(
                given.model, checkpoint=place, on_nonfinite="warn", **given.options
            )
        typer.echo(f"Model: {given.origin}")
        scores = _score(scorer, given.loader(workers), checkpoint)
        typer.echo(str(scores))
        for finding in scores.provenance["findings"]:
            typer.echo(f"Noticed ({finding['kind']}): {finding['message']}")
        wrong = (~scores.values.isfinite()).nonzero()[:, 0].tolist()
        if wrong:
            typer.echo(f"Without a score: {given.pool.named(wrong)}")
        _keep(scores, given.pool, out)
        ranked = int((~scores.values.isnan()).sum())
        if ranked and report is not None:
            _show(report, scores, given, out)
        checkpoint.unlink(missing_ok=True)  # not before: a page that failed costs no second run
        if not ranked:
            fail(f"every score is NaN, and so are the model's outputs. {out} has no ranks.", 1)
        some = min(100, max(1, ranked // 10))
        typer.echo(
            "The highest are often alike; samples that differ are chosen by `fastgradnorm acquire` "
            "of the same MODEL and POOL."
        )
        typer.echo(f"Next: fastgradnorm select {out} {some}")


def _takes_more(checkpoint: Path) -> bool:
    """Whether the checkpoint can be made: without it a full disk would end the run.

    Raises:
        BadInputError: If the scores could not be written there in the end.
    """
    probe = checkpoint.with_name(checkpoint.name + ".probe")
    try:
        checkpoint.parent.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(bytes(_PROBE))
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise BadInputError(
                f"`--out` must be where files can be written. {told(error)}. Choose another place."
            ) from error
        typer.echo(
            f"fastgradnorm: warning: {checkpoint.parent} is full: scoring without a checkpoint. "
            "If it stays full, the scores go elsewhere.",
            err=True,
        )
        return False
    finally:
        with contextlib.suppress(OSError):
            probe.unlink()
    return True


def _score(scorer: GradNormScorer[Any, PoolScores], loader: Any, checkpoint: Path) -> PoolScores:
    try:
        with in_options(_OPTIONS):
            scores = scorer.score(loader)
    except KeyboardInterrupt:
        if not checkpoint.exists():
            fail("interrupted.", 130)
        fail(f"interrupted. {checkpoint} keeps what is done: the same command goes on.", 130)
    except ArgumentError as error:
        if error.argument != "checkpoint":
            raise
        raise BadInputError(
            f"{error} On the command line: another --out, or --no-resume."
        ) from error
    return scores


def _keep(scores: PoolScores, pool: Pool, out: Path) -> None:
    """Writes the scores, elsewhere if they cannot be written where they should go."""
    try:
        write_scores(scores, out, pool.ids)
    except OSError as error:
        place = _keep_elsewhere(scores, pool, out.name)
        fail(f"`--out` could not be written. {told(error)}. The scores are {place}.", 1)
    typer.echo(f"Scores: {out}")


def _keep_elsewhere(scores: PoolScores, pool: Pool, name: str) -> str:
    try:
        spare = Path(tempfile.mkdtemp(prefix="fastgradnorm-")) / name
        write_scores(scores, spare, pool.ids)
    except OSError:  # that disk is full, too
        print_scores(scores, pool.ids)
        return "above, as CSV"
    return f"in {spare}"


def _show(report: Path, scores: PoolScores, given: _given.Given, out: Path) -> None:
    from fastgradnorm.cli._report import write_report

    try:
        page = write_report(report, scores, given.pool, given.origin)
    except OSError as error:
        fail(f"`--report` could not be written. {told(error)}. The scores are in {out}.", 1)
    typer.echo(f"Report: {page}")
