"""``fastgradnorm explain``."""

import json
from typing import Annotated

import typer

from fastgradnorm import GradNormScorer
from fastgradnorm.cli import _given

_LEGEND = (
    "T positions, I inputs, O outputs of each parameter's operation; FLOPs and peak memory a "
    "sample. How long it takes here: fastgradnorm bench, with the same arguments."
)


def add(app: typer.Typer) -> None:
    """Adds the command."""

    @app.command()
    @_given.opened
    def explain(
        given: _given.Given,
        measure: Annotated[
            bool, typer.Option("--measure", help="Also time each parameter's share.")
        ] = False,
        as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
    ) -> None:
        """Show how each parameter is counted, and what is slow."""
        batch = next(iter(given.loader()))
        table = GradNormScorer(given.model, **given.options).explain(batch, measure=measure)
        typer.echo(json.dumps(table.to_dict(), indent=1) if as_json else str(table))
        if not as_json:
            typer.echo(_LEGEND, err=True)
