"""Inputs unlike those that a model was trained on, as its first batch norm remembers them.

Running statistics are the mean and variance of what went in during training. Inputs scaled
otherwise, 0 to 255 instead of normalised ones, show there as no difference between data sets does:
every channel is off by the same large factor.
"""

from typing import Any

from torch import Tensor, nn

from fastgradnorm._witness.findings import Finding

# The size of what goes in, in standard deviations squared, where 1 is as in training. Data sets
# differ by a few times; pixels up to 255 give thousands.
_TOO_LARGE = 25.0
# Its variance, likewise: pixels from 0 to 1 that should have been divided by a standard deviation
# of a quarter give 1/16, images of little contrast may give a third.
_TOO_FLAT = 1 / 12
_FEW = 8  # samples, whose variance says something
_FEW_STEPS = 10  # of training, after which running statistics say little yet


class FirstNorm:
    """Looks at what goes into the first norm with running statistics."""

    def __init__(self) -> None:
        self.finding: Finding | None = None
        self._done = False

    def watch(self, view: nn.Module) -> None:
        """Hooks on all norms of a throw-away copy of a model."""
        for path, module in view.named_modules():
            mean, variance = (getattr(module, f"running_{n}", None) for n in ("mean", "var"))
            if isinstance(mean, Tensor) and isinstance(variance, Tensor):
                module.register_forward_pre_hook(self._look(path, mean, variance))

    def _look(self, path: str, mean: Tensor, variance: Tensor) -> Any:
        def look(module: nn.Module, args: tuple[Any, ...]) -> None:
            given = args[0] if args else None
            if self._done or not isinstance(given, Tensor) or given.dim() < 2:
                return
            self._done = True
            statistics = _of_training(module, mean, variance)
            if given.shape[1] == len(mean) and statistics is not None:
                name = f"`model.{path}` ({type(module).__name__})"
                self.finding = _judge(name, given.detach(), *statistics)

        return look


def _of_training(module: nn.Module, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor] | None:
    """Mean and variance `[channels]` without what they began with; None if they say nothing."""
    if bool((mean == 0).all() and (variance == 1).all()):
        return None
    mean, variance = mean.double(), variance.double()
    batches, momentum = getattr(module, "num_batches_tracked", None), getattr(module, "momentum", 0)
    if batches is not None and int(batches) > 0 and momentum:
        if int(batches) < _FEW_STEPS:
            return None
        # Of 0 and 1, with which they began, so much is left.
        left = (1 - momentum) ** int(batches)
        mean, variance = mean / (1 - left), ((variance - left) / (1 - left)).clamp_min(0)
    return mean, variance + float(getattr(module, "eps", 1e-5))


def _judge(name: str, given: Tensor, mean: Tensor, variance: Tensor) -> Finding | None:
    x = given.double().flatten(2) if given.dim() > 2 else given.double()[..., None]
    spread = variance[:, None]
    sizes = (x - mean[:, None]).square().div(spread).mean(-1)  # [N, channels]
    size = float(sizes.median(-1).values.median())
    if len(x) > 1 and size > _TOO_LARGE:
        return _finding(name, f"{size**0.5:.3g} standard deviations away from the mean", len(x))
    if len(x) < _FEW:
        return None
    ratios = x.transpose(0, 1).flatten(1).var(-1).div(spread[:, 0])
    ratio = float(ratios.median())
    if 0 < ratio < _TOO_FLAT:
        return _finding(name, f"{ratio**0.5:.2g} of the standard deviation in size", len(x))
    return None


def _finding(name: str, said: str, count: int) -> Finding:
    return Finding(
        "inputs",
        f"Inputs must be prepared as in training. What goes into {name}, the first norm, is {said} "
        f"that it has from training (median of the channels, {count} samples): images may lack "
        "their normalisation, or have one too many. Scores are of inputs that the model does not "
        "know. Use the transform of the training data.",
    )
