"""The application: its commands, and how it tells of what went wrong."""

import functools
import io
import sys
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

from fastgradnorm import __version__
from fastgradnorm.atomic import ERRORS
from fastgradnorm.cli._failures import interrupts, plain_failures
from fastgradnorm.cli._wording import told_anew, warning

if TYPE_CHECKING:
    from typer import Typer


def main() -> None:
    """Run the command line; the entry point of the ``fastgradnorm`` script."""
    debug = "--debug" in sys.argv
    told_anew()
    if not debug:
        warnings.showwarning = _tell  # type: ignore[assignment]
    if sys.stdout is sys.__stdout__ and isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors=ERRORS)  # names keep their bytes, as in what is written
    with plain_failures(debug=debug):
        app = build_app()
        app([argument for argument in sys.argv[1:] if argument != "--debug"])


def _tell(message: Warning | str, *_: Any) -> None:
    print(warning(str(message)), file=sys.stderr)


def build_app() -> "Typer":
    """The command line as a Typer application.

    Raises:
        ModuleNotFoundError: If typer is not installed.
    """
    import typer

    app = typer.Typer(
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        help="Choose which unlabelled samples to label, by the norm of their gradient.",
    )

    def print_version(wanted: bool) -> None:
        if wanted:
            typer.echo(f"fastgradnorm {__version__}")
            raise typer.Exit

    @app.callback(epilog="--debug, anywhere, shows where an error came from.")
    def root(
        version: Annotated[
            bool,
            typer.Option(
                "--version", callback=print_version, is_eager=True, help="Print the version."
            ),
        ] = False,
    ) -> None:
        pass

    for add in _commands():
        add(app)
    for command in app.registered_commands:
        command.callback = _heard(command.callback)
    return app


def _heard(command: Any) -> Any:
    """The same, telling of an interrupt, of which Typer makes an exit code and no word."""

    @functools.wraps(command)
    def call(**given: Any) -> None:
        with interrupts():
            command(**given)

    return call


def _commands() -> tuple[Callable[["Typer"], None], ...]:
    # They describe their options with Typer, and so are imported once it is known to be there.
    from fastgradnorm.cli import _acquire, _bench, _campaign, _demo, _explain, _score, _select

    return (
        _acquire.add,
        _campaign.add,
        _score.add,
        _select.add,
        _explain.add,
        _bench.add,
        _demo.add,
    )
