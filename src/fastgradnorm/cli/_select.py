"""``fastgradnorm select``."""

from pathlib import Path
from typing import Annotated, Any

import typer

from fastgradnorm import select as select_indices
from fastgradnorm.atomic import write_text
from fastgradnorm.cli._failures import BadInputError, in_options, told
from fastgradnorm.cli._files import read_scores
from fastgradnorm.cli._fitting import how_many


def add(app: typer.Typer) -> None:
    """Adds the command."""

    @app.command()
    def select(
        scores: Annotated[
            Path, typer.Argument(metavar="SCORES", help="What `fastgradnorm score` wrote.")
        ],
        k: Annotated[
            int,
            typer.Argument(metavar="K", parser=how_many("SCORES K"), help="How many to label."),
        ],
        strategy: Annotated[
            str, typer.Option(help="top; or, by chance and for variety, gumbel or proportional.")
        ] = "top",
        seed: Annotated[int, typer.Option(min=0, help="Of the strategies by chance.")] = 0,
        out: Annotated[
            Path | None,
            typer.Option(help="Write the names here, one a line, and not to the screen."),
        ] = None,
    ) -> None:
        """Name the samples to label, best first, one a line."""
        values, names = read_scores(scores)
        seen: set[Any] = set()
        for place, name in enumerate(names):  # scored twice, labelled once
            values[place] = float("nan") if name in seen else values[place]
            seen.add(name)
        with in_options({"k": "K", "strategy": "--strategy"}):
            chosen = select_indices(values, k, strategy=strategy, seed=seed)  # type: ignore[arg-type]
        lines = "".join(f"{names[index]}\n" for index in chosen.tolist())
        if out is None:
            typer.echo(lines, nl=False)
            return
        try:
            write_text(out, lines)
        except OSError as error:
            raise BadInputError(f"`--out` could not be written. {told(error)}.") from error
