"""``fastgradnorm demo``."""

from pathlib import Path
from typing import Annotated

import typer


def add(app: typer.Typer) -> None:
    """Adds the command."""

    @app.command()
    def demo(
        out: Annotated[
            Path, typer.Option(help="Folder of the report; made if it is not there.")
        ] = Path("report"),
        seeds: Annotated[
            int | None, typer.Option(min=1, help="Repetitions of the comparison.  [default: 5]")
        ] = None,
        quick: Annotated[
            bool, typer.Option("--quick", help="A run of a few seconds, to see that it works.")
        ] = False,
    ) -> None:
        """See on handwritten digits what the choice is worth.

        Trains a small CNN on 100 labels, scores the pool with every scheme, compares speed and
        values with plain autograd, shows which 50 to label next and why, and trains again on what
        `acquire` chooses, on the highest scores, the highest entropies, and random ones.
        """
        from fastgradnorm.cli._failures import BadInputError
        from fastgradnorm.demo import Settings, run_demo

        try:
            run_demo(out, Settings.quick(seeds) if quick else Settings.full(seeds))
        except OSError as error:
            raise BadInputError(
                f"`--out` must be a folder that can be written. Got {error.filename}: "
                f"{error.strerror}. Choose another one."
            ) from error
