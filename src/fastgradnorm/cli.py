"""The command line: ``fastgradnorm COMMAND``.

A command is one ``_add_<command>`` function, listed in ``_COMMANDS``. Typer and what a command
needs are imported when they are used, so that a missing extra is one line to the user and costs
``import fastgradnorm`` nothing.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

from fastgradnorm import __version__

if TYPE_CHECKING:
    from typer import Typer

# Import name -> the distribution that brings it.
_DEMO_EXTRA = {
    "matplotlib": "matplotlib",
    "rich": "rich",
    "sklearn": "scikit-learn",
    "typer": "typer",
}


def main() -> None:
    """Run the command line; the entry point of the ``fastgradnorm`` script."""
    with _one_line_errors("The command line"):
        app = build_app()
    app()


def build_app() -> "Typer":
    """The command line as a Typer application.

    Raises:
        ModuleNotFoundError: If typer is not installed.
    """
    import typer

    app = typer.Typer(
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_show_locals=False,
        help="Score unlabelled samples by the norm of their gradient, fast and exactly.",
    )

    def print_version(wanted: bool) -> None:
        if wanted:
            typer.echo(f"fastgradnorm {__version__}")
            raise typer.Exit

    @app.callback()
    def root(
        version: Annotated[
            bool,
            typer.Option(
                "--version", callback=print_version, is_eager=True, help="Print the version."
            ),
        ] = False,
    ) -> None:
        pass

    for add in _COMMANDS:
        add(app)
    return app


def _add_demo(app: "Typer") -> None:
    import typer

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
        """Choose which handwritten digits to label next, and see what the choice is worth.

        Trains a small CNN on 100 labels, scores the pool with every scheme, compares speed and
        values with plain autograd, and trains again on the best of the pool and on random ones.
        """
        with _one_line_errors("The demo"):
            from fastgradnorm.demo import Settings, run_demo

            run_demo(out, Settings.quick(seeds) if quick else Settings.full(seeds))


_COMMANDS: tuple[Callable[["Typer"], None], ...] = (_add_demo,)


@contextmanager
def _one_line_errors(subject: str) -> Iterator[None]:
    """Tell of a missing extra, or a folder that cannot be written, without a traceback."""
    try:
        yield
    except ModuleNotFoundError as error:
        package = _DEMO_EXTRA.get((error.name or "").partition(".")[0])
        if package is None:
            raise
        _fail(
            f"{subject} needs {package}, which is not installed. "
            'Run: pip install "fastgradnorm[demo]"'
        )
    except OSError as error:
        _fail(
            f"`--out` must be a folder that can be written. Got {error.filename}: "
            f"{error.strerror}. Choose another one."
        )


def _fail(message: str) -> NoReturn:
    print(f"fastgradnorm: {message}", file=sys.stderr)
    raise SystemExit(1)
