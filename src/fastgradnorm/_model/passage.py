"""What all samples of one pass have in common: how the model is run, and what was seen of it."""

from dataclasses import dataclass, field

from fastgradnorm._model.branches import Branches


@dataclass(frozen=True)
class Settings:
    """How a model is run; with equal settings the same samples give the same bits.

    Attributes:
        backend: What computes the norms.
        channels_last: Whether convolutions may put the channels last in memory.
        spread: Whether new tensors get a value a sample, so that the model may write values of its
            samples into them.
        several: Whether several cotangents of a sample are pulled back from a pass.
        together: Whether a last layer may be found by one plain forward pass of many samples.
    """

    backend: str = "auto"
    channels_last: bool = True
    spread: bool = False
    several: bool = False
    together: bool = False


@dataclass
class Passage:
    """One pass.

    Attributes:
        settings: How the model is run.
        branches: Settles the values that the model reads.
        laid_out: Whether an operation was run that may have put the channels last in memory.
        hooked: Whether the model put a hook on the gradient of a tensor, or may have.
    """

    settings: Settings
    branches: Branches = field(default_factory=Branches)
    laid_out: bool = False
    hooked: bool = False
