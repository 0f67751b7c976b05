"""The frame of a page: one HTML file without scripts, fonts or anything else from elsewhere."""

import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape, unescape

from fastgradnorm.page._style import STYLE


def page(
    *,
    title: str,
    kicker: str,
    lede: str,
    facts: Iterable[tuple[str, str]],
    sections: Mapping[str, str],
    footer: str,
) -> str:
    """A whole page.

    Args:
        title: Of the page, plain text.
        kicker: A line above the title, plain text.
        lede: The first paragraph, HTML.
        facts: (figure, what it is), HTML.
        sections: Heading, plain text, to content, HTML.
        footer: HTML.
    """
    items = "\n".join(f"<li><b>{value}</b>{text}</li>" for value, text in facts)
    body = "\n".join(
        f"<section>\n<h2>{escape(heading)}</h2>\n{content}\n</section>\n"
        for heading, content in sections.items()
    )
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}: fastgradnorm</title>
<link rel="icon" href="data:,">
<style>{STYLE}</style>
</head>
<body>
<main>
<header>
<p class="kicker">{escape(kicker)}</p>
<h1>{escape(title)}</h1>
<p class="lede">{lede}</p>
<ul class="facts">
{items}
</ul>
</header>

{body}</main>
<footer class="muted">{footer}</footer>
</body>
</html>
"""


def table(head: Sequence[str], rows: Iterable[Sequence[str]], caption: str = "") -> str:
    """A table that scrolls where it is too wide; cells are HTML."""
    columns = "".join(f'<th scope="col">{name}</th>' for name in head)
    body = "".join(
        f'<tr><th scope="row">{first}</th>{"".join(f"<td>{cell}</td>" for cell in rest)}</tr>'
        for first, *rest in rows
    )
    told = f"<caption>{caption}</caption>" if caption else ""
    whole = f"<table>{told}<thead><tr>{columns}</tr></thead><tbody>{body}</tbody></table>"
    # In reach of the keyboard, which scrolls it where it is too wide.
    label = escape(_plain(caption) or f"Table: {', '.join(map(_plain, head))}")
    return f'<div class="scroll" tabindex="0" role="region" aria-label="{label}">{whole}</div>'


def _plain(cell: str) -> str:
    return unescape(re.sub(r"<[^>]+>", "", cell))


def beginning(text: object, most: int = 240) -> str:
    """The first characters of a text, as HTML for a cell."""
    whole = " ".join(str(text).split())
    cut = whole if len(whole) <= most else whole[: most - 1] + "…"
    return f'<span class="text">{escape(cut)}</span>'


def definitions(pairs: Mapping[str, str]) -> str:
    """Names and what they stand for, plain text."""
    items = "\n".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in pairs.items())
    return f"<dl>\n{items}\n</dl>"
