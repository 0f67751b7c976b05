"""The version, for the package and the provenance of its results; what it is tested with."""

import functools
import re
import warnings
from importlib.metadata import PackageNotFoundError, version

import torch

from fastgradnorm._errors import UntestedVersionWarning

try:
    __version__ = version("fastgradnorm")
except PackageNotFoundError:  # run from a checkout that is not installed
    __version__ = "0+unknown"

# The lowest, which `pyproject.toml` asks for, and the newest: what `.ci/lowest` and `.ci/newest`
# install. Each PyTorch brings its own Triton.
TESTED = {"torch": ("2.11", "2.15"), "triton": ("3.6", "3.9")}


@functools.cache
def warn_if_untested() -> None:
    """Warns, once, if PyTorch is newer than the newest that this version is tested with.

    Of Triton only on a machine with a GPU: elsewhere it is not used.

    Warns:
        UntestedVersionWarning: With the range.
    """
    installed = {"torch": str(torch.__version__)}
    if torch.cuda.is_available():
        installed["triton"] = _installed("triton")
    for name, found in installed.items():
        lowest, newest = TESTED[name]
        if release(found) > release(newest):
            warnings.warn(
                f"fastgradnorm {__version__} is tested with {name} {lowest} to {newest}. Got "
                f"{name} {found}, which is newer. Scores are verified on the first samples as "
                "always; look for a newer fastgradnorm.",
                UntestedVersionWarning,
                stacklevel=3,
            )
            return  # a newer PyTorch brings a newer Triton


def _installed(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "0"


def release(text: str) -> tuple[int, ...]:
    """The first two numbers: patches, builds and previews of a release count as that release."""
    return tuple(int(number) for number in re.findall(r"\d+", text)[:2])
