"""Numbers of pages, as people read them."""

import pytest

from fastgradnorm.page import number, percent


@pytest.mark.parametrize(
    "value, told",
    [
        (0.0, "0"),
        (8.21e-05, "8.21 × 10⁻⁵"),  # noqa: RUF001
        (0.00123, "0.00123"),
        (0.8979279, "0.898"),
        (9.999, "10.0"),
        (12.34, "12.3"),
        (123.4, "123"),
        (1234.5, "1,230"),
        (-0.5, "-0.500"),
        (3.2e9, "3.20 × 10⁹"),  # noqa: RUF001
        (float("nan"), "nan"),
        (float("inf"), "inf"),
    ],
)
def test_numbers(value, told):
    assert number(value).replace("\xa0", " ") == told


@pytest.mark.parametrize(
    "share, told",
    [
        (0, "0 %"),
        (1, "100 %"),
        (0.99996, "over 99.9 %"),
        (0.0004, "under 0.1 %"),
        (0.9962, "99.6 %"),
        (0.004, "0.4 %"),
        (0.5, "50 %"),
        (0.741, "74 %"),
    ],
)
def test_what_is_not_all_is_not_told_as_all(share, told):
    assert percent(share).replace("\xa0", " ") == told
