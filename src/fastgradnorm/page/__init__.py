"""Reports as one HTML file: of scores, of a choice, and of the demo."""

from fastgradnorm.page._frame import beginning, definitions, page, table
from fastgradnorm.page._numbers import number, percent
from fastgradnorm.page._pictures import chart, data_uri, pair, thumbnail, tile, tiles

__all__ = [
    "beginning",
    "chart",
    "data_uri",
    "definitions",
    "number",
    "page",
    "pair",
    "percent",
    "table",
    "thumbnail",
    "tile",
    "tiles",
]
