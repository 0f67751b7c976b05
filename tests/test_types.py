"""What type checkers are told is what runs."""

import inspect
import re
from dataclasses import fields
from typing import get_type_hints

import pytest

from fastgradnorm import Options, naive_score_pool, score_pool
from fastgradnorm._keywords import Keywords
from tests.support import typed_calls


def test_keywords_are_the_options():
    options = get_type_hints(Options)
    del options["scheme"]
    assert get_type_hints(Keywords) == options


@pytest.mark.slow
def test_typed_calls_run():
    typed_calls.calls()


@pytest.mark.parametrize("function", [score_pool, naive_score_pool])
def test_help_says_what_each_option_does(function):
    text = inspect.getdoc(function)
    arguments = text[text.index("Args:") : text.index("Returns:")]
    for field in fields(Options):
        assert re.search(rf"^        {field.name}: \S", arguments, re.MULTILINE), field.name
    assert text.index("Returns:") < text.index("Raises:")


@pytest.mark.slow
def test_typed_calls_on_gradients_run():
    typed_calls.calls_on_gradients()
