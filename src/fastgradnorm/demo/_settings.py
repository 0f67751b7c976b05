"""How large a run of the demo is."""

from dataclasses import dataclass, replace
from typing import Self


@dataclass(frozen=True)
class Settings:
    """Sizes of one run of the demo.

    Attributes:
        seeds: Repetitions of the comparison, each with labels, network and draws of its own.
        start_labels: Labels that the first network is trained on.
        labels_per_step: Labels added between two points of the accuracy curve.
        steps: Points of the accuracy curve after the first.
        test_images: Images held out: never scored, never trained on.
        pool_limit: Most images in the pool; None takes all that are left.
        train_steps: Optimizer steps of every training run.
        loop_images: Images of the pool that the plain autograd loop scores too.
        batch_size: Images in a batch when scoring.
    """

    seeds: int = 5
    start_labels: int = 100
    labels_per_step: int = 50
    steps: int = 4
    test_images: int = 500
    pool_limit: int | None = None
    train_steps: int = 200
    loop_images: int = 64
    batch_size: int = 128

    @classmethod
    def full(cls, seeds: int | None = None) -> Self:
        """The whole demo: about a minute on two cores."""
        return cls() if seeds is None else cls(seeds=seeds)

    @classmethod
    def quick(cls, seeds: int | None = None) -> Self:
        """A few seconds: shows that everything runs, not what the choice is worth."""
        return replace(
            cls.full(2 if seeds is None else seeds),
            steps=2,
            pool_limit=250,
            train_steps=60,
            loop_images=4,
        )

    @property
    def label_counts(self) -> tuple[int, ...]:
        """Labels at each point of the accuracy curve.

        Example:
            >>> Settings().label_counts
            (100, 150, 200, 250, 300)
        """
        return tuple(
            self.start_labels + self.labels_per_step * step for step in range(self.steps + 1)
        )
