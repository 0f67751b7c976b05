"""Formulas of docstrings, in reStructuredText for editors and Sphinx, as arithmatex reads them."""

import re
import textwrap
from typing import Any

import griffe

_BLOCK = re.compile(r"^\.\. math::\n\n?((?:[ ]+.*\n?|\n)+)", re.MULTILINE)
_INLINE = re.compile(r":math:`([^`]+)`")


class RstMath(griffe.Extension):
    """Rewrites `.. math::` blocks and `:math:` roles before docstrings are parsed."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrites one object's docstring."""
        if obj.docstring:
            text = _BLOCK.sub(
                lambda m: "$$\n" + textwrap.dedent(m[1]).strip() + "\n$$\n\n", obj.docstring.value
            )
            obj.docstring.value = _INLINE.sub(r"\\(\1\\)", text)
