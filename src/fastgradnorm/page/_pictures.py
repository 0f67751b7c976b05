"""Pictures within a page."""

from base64 import b64encode
from collections.abc import Iterable
from html import escape
from io import BytesIO
from os import PathLike
from typing import Any

_PIXELS = 160
_MODES = ("1", "L", "LA", "P", "RGB", "RGBA")  # that PNG has and browsers show


def data_uri(png: bytes) -> str:
    """The address of a picture that is its own content."""
    return f"data:image/png;base64,{b64encode(png).decode('ascii')}"


def chart(light: bytes, dark: bytes, caption: str) -> str:
    """A figure for light pages and the same for dark ones; the caption is plain text."""
    text = escape(caption)
    return (
        '<figure class="chart"><picture>'
        f'<source srcset="{data_uri(dark)}" media="(prefers-color-scheme: dark)">'
        f'<img src="{data_uri(light)}" alt="{text}" width="1040" height="740"></picture>'
        f"<figcaption>{text}</figcaption></figure>"
    )


def pair(left: str, right: str) -> str:
    """Two things side by side where there is room."""
    return f'<div class="pair">\n{left}\n{right}\n</div>'


def tile(png: bytes, alt: str, score: str, note: str = "", link: str = "") -> str:
    """A small picture with its score; `alt` is plain text, `note` HTML, `link` an address.

    A `<span class="name">` in the note breaks anywhere, and ends after three lines.
    """
    below = f"<br>{note}" if note else ""
    shown = f'<img src="{data_uri(png)}" alt="{escape(alt)}">'
    if link:
        shown = f'<a href="{escape(link)}">{shown}</a>'
    return f"<li><figure>{shown}<figcaption><b>{score}</b>{below}</figcaption></figure></li>"


def tiles(items: Iterable[str], kind: str = "") -> str:
    """Small pictures in rows. `kind="drawing"`: dark pages show them inverted."""
    return f'<ul class="tiles {kind}">{"".join(items)}</ul>'


def thumbnail(picture: Any) -> bytes:
    """A small PNG of a picture, for `tile`; the caller's picture stays as it is.

    Args:
        picture: A PIL image, or the path of a file of one.

    Raises:
        TypeError: If it is neither.
    """
    from PIL import Image

    if isinstance(picture, (str, PathLike)):
        with Image.open(picture) as image:
            return thumbnail(image)
    if not isinstance(picture, Image.Image):
        raise TypeError(
            f"`picture` must give images of PIL, or paths of image files. Got "
            f"{type(picture).__name__}. `PIL.Image.fromarray(pixels)` makes one of bytes "
            "[height, width, 3]."
        )
    small = _shown(picture)
    small.thumbnail((_PIXELS, _PIXELS))
    buffer = BytesIO()
    small.save(buffer, format="PNG")
    return buffer.getvalue()


def _shown(picture: Any) -> Any:
    """A copy in a mode that browsers show; of more than eight bits, from its least to its most."""
    if picture.mode in _MODES:
        return picture.copy()
    if picture.mode[0] not in "IF":
        return picture.convert("RGB")
    low, high = picture.getextrema()
    wide = picture.convert("F")
    scale = 255 / (high - low) if high > low else 0.0
    return wide.point(lambda value: value * scale - low * scale).convert("L")
