"""Checks of a learner's arguments, and their messages."""

from collections.abc import Mapping, Sequence

from torch import nn

from fastgradnorm import ArgumentError, ArgumentTypeError


def check_count(name: str, value: object, least: int = 1, most: int | None = None) -> None:
    """Raises unless `value` is an integer within its bounds."""
    wanted = f"an integer >= {least}" + ("" if most is None else f" and <= {most}, the pool's size")
    if isinstance(value, bool) or not isinstance(value, int):
        raise ArgumentTypeError(f"`{name}` must be {wanted}. Got {type(value).__name__}.", name)
    if value < least or (most is not None and value > most):
        raise ArgumentError(f"`{name}` must be {wanted}. Got {value}.", name)


def checked_subset(value: object, size: int, budget: int) -> int:
    """The items that a number of them or a share of the pool stands for; at least the budget."""
    if isinstance(value, float):
        if not 0 < value <= 1:
            raise ArgumentError(
                f"`subset` must be a share in (0, 1], or an integer. Got {value}.", "subset"
            )
        count = round(value * size)
    else:
        check_count("subset", value)
        assert isinstance(value, int)
        count = value
    if count < budget:
        raise ArgumentError(
            f"`subset` must be at least the {budget} items of `budget`. Got {value!r}, which is "
            f"{count} of {size}.",
            "subset",
        )
    return count


def checked_indices(name: str, value: Sequence[int], size: int) -> list[int]:
    """The indices as a list; raises unless they are different items of the pool."""
    found = [int(i) for i in value]
    if not found or len(set(found)) < len(found) or min(found) < 0 or max(found) >= size:
        raise ArgumentError(
            f"`{name}` must be different indices in [0, {size}), at least one. Got "
            f"{len(found)} with {len(set(found))} different ones.",
            name,
        )
    return found


def check_made(model: object) -> None:
    """Raises unless what a task made is a model."""
    if isinstance(model, nn.Module):
        return
    weights = " If these are its weights, make the model and call its `load_state_dict`."
    raise ArgumentTypeError(
        f"`task.make_model` must return a torch.nn.Module. Got {type(model).__name__}."
        f"{weights if isinstance(model, Mapping) else ''}",
        "task",
    )
