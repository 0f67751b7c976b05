"""What a file of operations says of a function is in the table, whatever other files say of it."""

import importlib
import pkgutil

import pytest

from fastgradnorm import _operations
from fastgradnorm._operations.table import TABLE

FILES = sorted({each.name for each in pkgutil.iter_modules(_operations.__path__)} - {"table"})


@pytest.mark.parametrize("name", FILES)
def test_no_file_replaces_what_another_says(name):
    """`Tensor.to_dense` had a form in two files, of which the later one lost what the other did."""
    file = importlib.import_module(f"fastgradnorm._operations.{name}")
    for function, entry in getattr(file, "OPERATIONS", {}).items():
        for part in ("form", "opened"):
            wanted = getattr(entry, part)
            assert wanted is None or getattr(TABLE[function], part) is wanted, (function, part)
