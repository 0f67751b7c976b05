"""Checks of a learner's arguments, and their messages."""

from collections.abc import Sequence


def check_count(name: str, value: object, least: int = 1, most: int | None = None) -> None:
    """Raises unless `value` is an integer within its bounds."""
    wanted = f"an integer >= {least}" + ("" if most is None else f" and <= {most}, the pool's size")
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"`{name}` must be {wanted}. Got {type(value).__name__}.")
    if value < least or (most is not None and value > most):
        raise ValueError(f"`{name}` must be {wanted}. Got {value}.")


def check_share(name: str, value: object) -> None:
    """Raises unless `value` is a number of items, or a share in (0, 1]."""
    if isinstance(value, float):
        if not 0 < value <= 1:
            raise ValueError(f"`{name}` must be a share in (0, 1], or an integer. Got {value}.")
        return
    check_count(name, value)


def checked_indices(name: str, value: Sequence[int], size: int) -> list[int]:
    """The indices as a list; raises unless they are different items of the pool."""
    found = [int(i) for i in value]
    if not found or len(set(found)) < len(found) or min(found) < 0 or max(found) >= size:
        raise ValueError(
            f"`{name}` must be different indices in [0, {size}), at least one. Got "
            f"{len(found)} with {len(set(found))} different ones."
        )
    return found
