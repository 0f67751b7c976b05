"""The command line: ``fastgradnorm COMMAND``, over the face alone.

Typer and what a command needs are imported when it runs, so that a missing extra is one line to the
user and costs ``import fastgradnorm`` nothing.
"""

from fastgradnorm.cli._app import build_app, main

__all__ = ["build_app", "main"]
