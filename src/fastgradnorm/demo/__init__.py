"""The demo: which handwritten digits to label next, and what the choice is worth."""

from fastgradnorm.demo._run import run_demo
from fastgradnorm.demo._settings import Settings

__all__ = ["Settings", "run_demo"]
