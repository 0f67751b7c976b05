"""Formulas as MathML, which browsers draw by themselves: the site needs no network for them."""

import html
import re
from typing import Any

_INLINE = re.compile(r'<span class="arithmatex">\\\((.*?)\\\)</span>', re.DOTALL)
_BLOCK = re.compile(r'<div class="arithmatex">\s*\\\[(.*?)\\\]\s*</div>', re.DOTALL)
# One letter an element is what the converter makes of words.
_WORDS = re.compile(r"\\(?:mathrm|operatorname)\{([a-zA-Z ]{2,})\}")


def on_page_content(content: str, **_: Any) -> str:
    """The page with each formula converted."""
    content = _INLINE.sub(lambda found: _mathml(found[1], "inline"), content)
    return _BLOCK.sub(lambda found: _wide(_mathml(found[1], "block")), content)


def _wide(formula: str) -> str:
    """Scrolled by itself where a window is narrower, by the keyboard too."""
    return f'<div class="wide" tabindex="0">{formula}</div>'


def _mathml(formula: str, display: str) -> str:
    from latex2mathml.converter import convert

    plain = _WORDS.sub(r"\\text{\1}", html.unescape(formula))
    return str(convert(plain, display=display))
