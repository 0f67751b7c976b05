"""The version, for the package and for the provenance of its results."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("fastgradnorm")
except PackageNotFoundError:  # run from a checkout that is not installed
    __version__ = "0+unknown"
