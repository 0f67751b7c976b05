"""What tests of the engine share."""

import pytest

from fastgradnorm._engine import together


@pytest.fixture
def passes(monkeypatch):
    """What each plain pass gave: whether there was anything to be had from it."""
    found = []
    right = together.head_together

    def noting(*args):
        made = right(*args)
        found.append(made is not None)
        return made

    monkeypatch.setattr("fastgradnorm._engine.passes.head_together", noting)
    return found
