"""Numbers as people read them."""

import math

_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def number(value: float, digits: int = 3) -> str:
    """With so many digits: `12.3`, `1,230`, and of very small or large ones `8.21 × 10⁻⁵`."""
    if not math.isfinite(value) or value == 0:
        return f"{value:g}"
    mantissa, _, exponent = f"{value:.{digits - 1}e}".partition("e")
    power = int(exponent)
    if -4 < power < 6:
        return f"{float(f'{value:.{digits}g}'):,.{max(0, digits - 1 - power)}f}"
    return f"{mantissa}\xa0\u00d7\xa010{str(power).translate(_RAISED)}"


def percent(share: float) -> str:
    """Of a share in [0, 1]; what is neither none nor all is not told as that: `over 99.9 %`."""
    value = 100 * share
    if 0 < value < 0.1:
        return "under\xa00.1\xa0%"
    if 99.9 < value < 100:
        return "over\xa099.9\xa0%"
    far = 9.5 <= value <= 90.5 or value in (0, 100)
    return f"{value:.0f}\xa0%" if far else f"{value:.1f}\xa0%"
