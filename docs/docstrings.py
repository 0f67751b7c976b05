"""Docstrings as editors read them, made what the site's parser of docstrings expects."""

import re
import textwrap
from typing import Any

import griffe

_BLOCK = re.compile(r"^\.\. math::[ ]*(\S.*\n|\n\n?)((?:[ ]+.*\n?|\n)*)", re.MULTILINE)
_INLINE = re.compile(r":math:`([^`]+)`")
# What decorators that take the options of scoring apart say to type checkers.
_RETURNS = {"score_pool": "Tensor | dict[str, Tensor]"}
_RETURNS |= {"naive_score_pool": _RETURNS["score_pool"]}


class Docstrings(griffe.Extension):
    """Rewrites docstrings before they are parsed, and signatures that decorators change."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrites one object."""
        if isinstance(obj, griffe.Function):
            _open_options(obj)
        if obj.docstring:
            text = _BLOCK.sub(_formula, obj.docstring.value)
            text = _INLINE.sub(r"\\(\1\\)", text)
            # Shown as code; of a single `Example` the parser makes a quotation.
            obj.docstring.value = re.sub(r"^Example:$", "Examples:", text, flags=re.MULTILINE)


def _formula(found: re.Match[str]) -> str:
    return f"$$\n{textwrap.dedent(found[1] + found[2]).strip()}\n$$\n\n"


def _open_options(function: griffe.Function) -> None:
    """Options are keywords, and none of them is required."""
    taken = any("takes_options" in str(each.value) for each in function.decorators)
    if (taken or function.name in _RETURNS) and "options" in function.parameters:
        options = function.parameters["options"]
        options.kind, options.default = griffe.ParameterKind.var_keyword, "{}"
        options.annotation = griffe.ExprName("Any")
        function.returns = _RETURNS.get(function.name, function.returns)
    for each in function.parameters:
        if each.name == "options" and each.kind is griffe.ParameterKind.var_keyword:
            about = function.parent if function.name == "__init__" else function
            if about is not None and about.docstring:
                text = about.docstring.value
                text = re.sub(r"^(\s+)options: ", r"\1**options: ", text, flags=re.MULTILINE)
                about.docstring.value = text
