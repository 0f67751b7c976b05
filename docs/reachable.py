"""What the theme leaves unsaid to those who do not see a page, or use no mouse."""

import re
from typing import Any

_TABLE = re.compile(r"<table>.*?</table>", re.DOTALL)


def on_page_content(content: str, **_: Any) -> str:
    """The page with its wide tables scrolled by the keyboard too."""
    return _TABLE.sub(lambda found: f'<div class="wide" tabindex="0">{found[0]}</div>', content)


def on_post_page(output: str, **_: Any) -> str:
    """The page with its search dialog named."""
    return output.replace('role="dialog"', 'role="dialog" aria-label="Search"')
