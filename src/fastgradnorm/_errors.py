"""What goes wrong, as types: callers can tell a refusal from a failed check and from bad values."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from fastgradnorm_kernels import KernelError
from fastgradnorm_kernels.proof import SlowPathWarning as SlowPathWarning

# What is no fault of the model's: it surfaces as what it is, and nothing is tried instead.
NOT_THE_MODELS = (KernelError, torch.AcceleratorError)


class CoverageError(ValueError):
    """A trainable parameter's part in the forward pass cannot be accounted for exactly once."""


class UnsupportedModelError(ValueError):
    """A layer gives samples no gradient of their own: it mixes them, or draws random numbers."""


class _OfArgument(Exception):
    """An error that names an argument."""

    def __init__(self, message: str, argument: str) -> None:
        super().__init__(message)
        self.argument = argument

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self), self.argument), self.__dict__


class ArgumentError(_OfArgument, ValueError):
    """An argument has a value that cannot be used; the message says what to do.

    Attributes:
        argument: Its name, as the function has it.
    """


class ArgumentTypeError(_OfArgument, TypeError):
    """An argument is of a type that cannot be used.

    Attributes:
        argument: Its name, as the function has it.
    """


class LossError(ArgumentError):
    """A loss, or the labels that it is given, cannot be used; raised within a model's run."""

    def __init__(self, message: str, argument: str = "loss") -> None:
        super().__init__(message, argument)


class LabelError(ArgumentError):
    """A label is none that its loss can have.

    Attributes:
        row: Whose, of the samples that were given together.
    """

    def __init__(self, message: str, argument: str, row: int) -> None:
        super().__init__(message, argument)
        self.row = row

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self), self.argument, self.row), self.__dict__


class NoSingleHeadError(ValueError):
    """No single layer made the logits, so that there is no last layer."""


class NonFiniteScoreError(ValueError):
    """Some scores are NaN or infinite. Nothing is lost: the whole pool was scored.

    Attributes:
        indices: Positions of the bad samples in the pool, in loader order.
        scores: All scores, as `GradNormScorer.score` would have returned them.
    """

    def __init__(self, message: str, indices: Sequence[int], scores: Any) -> None:
        super().__init__(message)
        self.indices = list(indices)
        self.scores = scores

    def __reduce__(self) -> tuple[Any, ...]:
        # An exception is pickled by `args`, the message alone, where a process pool hands it on.
        return type(self), (str(self), self.indices, self.scores), self.__dict__


class VerificationError(RuntimeError):
    """The engine disagrees with plain autograd on the first samples. Nothing was scored.

    Attributes:
        missing: Whether the engine has a gradient of zero where plain autograd has another.
    """

    missing = False


class BatchDependenceWarning(UserWarning):
    """A model decides by values of its whole batch, so that company changes a sample's logits."""


class UntestedVersionWarning(UserWarning):
    """PyTorch or Triton is newer than the newest that this version is tested with."""


class DoubtfulScoresWarning(UserWarning):
    """Scores may not mean what they seem to; the message says what was seen, and where."""


class RankFailedError(RuntimeError):
    """Another process of a distributed run failed or went away, so that no rank has all scores.

    Attributes:
        failures: What the ranks that could tell said, by rank.
    """

    def __init__(self, message: str, failures: Mapping[int, str]) -> None:
        super().__init__(message)
        self.failures = dict(failures)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self), self.failures), self.__dict__
