"""What type checkers are told is what runs."""

from typing import get_type_hints

from fastgradnorm import Options
from fastgradnorm._keywords import Keywords
from tests.support import typed_calls


def test_keywords_are_the_options():
    options = get_type_hints(Options)
    del options["scheme"]
    assert get_type_hints(Keywords) == options


def test_typed_calls_run():
    typed_calls.calls()
