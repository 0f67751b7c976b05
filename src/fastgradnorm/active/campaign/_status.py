"""How far a campaign is, and whether more labels still change what the model says."""

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fastgradnorm.active.campaign._state import State

# Bloodgood and Vijay-Shanker (2009): stop once predictions on a fixed set agree, kappa of at least
# 0.99 on average over three rounds.
_AGREE, _ROUNDS, _FEWEST = 0.99, 3, 30
_UNCHANGED = " Not one did: was the model trained on the labels of each of these rounds?"
_LAST = "Every sample of the pool is answered."


@dataclass(frozen=True)
class Status:
    """Of a campaign.

    Attributes:
        samples: Of the pool.
        labelled: How many of these have a label.
        skipped: How many of these people would not label.
        rounds: How often was asked.
        open: Id of the batch that waits for answers; None: none does.
        waiting: Its keys without an answer.
        changed: Of each round but the first, the share of a fixed set of samples whose predicted
            class is another than the round before.
        agreement: Cohen's kappa of these predictions.
        hint: What to do next, in words.
    """

    samples: int
    labelled: int
    skipped: int
    rounds: int
    open: int | None
    waiting: tuple[str, ...]
    changed: tuple[float, ...]
    agreement: tuple[float, ...]
    hint: str

    def __str__(self) -> str:
        lines = [
            f"{self.labelled:,} of {self.samples:,} samples labelled, {self.skipped:,} skipped, in "
            f"{self.rounds} round{'s' * (self.rounds != 1)}"
        ]
        if self.open is not None:
            lines.append(f"batch {self.open} waits for {len(self.waiting)} answers")
        if self.changed:
            lines.append(f"predictions changed in the last round: {100 * self.changed[-1]:.1f} %")
        return "\n".join([*lines, self.hint])


def status_of(state: State, samples: int | Sequence[str], nothing_left: bool = False) -> Status:
    """The status of a campaign over a pool of so many samples, or of samples with these keys."""
    known, skipped = {*state.labelled}, {*state.skipped}
    if not isinstance(samples, int):  # of others, which were in it once, labels are kept
        keys = {*samples}
        known, skipped, samples = known & keys, skipped & keys, len(samples)
    rounds = list(state.batches.values())
    compared = [_compared(a.predicted, b.predicted) for a, b in itertools.pairwise(rounds)]
    changed = tuple(share for share, _, _ in compared)
    agreement = tuple(kappa for _, kappa, _ in compared)
    counts = [count for _, _, count in compared]
    waiting = state.open
    return Status(
        samples=samples,
        labelled=len(known),
        skipped=len(skipped),
        rounds=len(rounds),
        open=None if waiting is None else waiting.id,
        waiting=() if waiting is None else state.waiting(waiting),
        changed=changed,
        agreement=agreement,
        hint=_LAST if nothing_left else _hint(agreement, counts, waiting is not None),
    )


def _compared(before: Mapping[str, int], after: Mapping[str, int]) -> tuple[float, float, int]:
    """Share that changed, Cohen's kappa, and over how many samples of both.

    Over none where all are of one class before and after: that two models agree says nothing then.
    """
    common = [key for key in before if key in after]
    if not common:
        return 0.0, 0.0, 0
    same = sum(before[key] == after[key] for key in common) / len(common)
    first = Counter(before[key] for key in common)
    second = Counter(after[key] for key in common)
    by_chance = sum(count * second[c] for c, count in first.items()) / len(common) ** 2
    if by_chance == 1:
        return 0.0, 1.0, 0
    kappa = (same - by_chance) / (1 - by_chance)
    return 1 - same, kappa, len(common)


def _hint(agreement: tuple[float, ...], counts: list[int], waiting: bool) -> str:
    recent = agreement[-_ROUNDS:]
    enough = len(recent) == _ROUNDS and min(counts[-_ROUNDS:]) >= _FEWEST
    if enough and sum(recent) / _ROUNDS >= _AGREE:
        return (
            f"Predictions hardly changed over {_ROUNDS} rounds (kappa "
            f"{sum(recent) / _ROUNDS:.3f}): more labels may be worth little. "
            f"Check it on held-out data.{_UNCHANGED if min(recent) == 1 else ''}"
        )
    if waiting:
        return "Tell the answers, or release the batch."
    return "Ask for the next batch."
