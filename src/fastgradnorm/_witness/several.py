"""Several of the caller's batches that come as one, each looked at in its turn."""

from collections.abc import Sequence
from dataclasses import replace

from fastgradnorm._model import Batch
from fastgradnorm._witness.witness import Look, Witness


def look_at_each(
    witness: Witness, batch: Batch, each: int | None, *, keep: bool = False
) -> Sequence[Look]:
    """Looks at the caller's batches as if each had come by itself.

    Args:
        witness: Whose turns they are.
        batch: All of them.
        each: How many samples one of them has, but for the last; None: there is one.
        keep: As in `Witness.look`.
    """
    if each is None or witness.record is None:
        return witness.look(batch, keep=keep)
    looks: list[Look] = []
    for start in range(0, len(batch), each):
        part = slice(start, start + each)
        found = witness.look(batch, keep=keep, part=part)
        looks += [replace(look, part=part) for look in found] if found else ()
    return looks
