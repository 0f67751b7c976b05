"""How a model is run on many samples at once."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    """With equal settings the same samples give the same bits.

    Attributes:
        backend: What computes the norms.
        channels_last: Whether convolutions may put the channels last in memory.
        spread: Whether new tensors get a value a sample, so that the model may write values of its
            samples into them.
    """

    backend: str = "auto"
    channels_last: bool = True
    spread: bool = False
