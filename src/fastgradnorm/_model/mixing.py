"""Whether statistics of a batch are of samples, or of a weight, which is the same for all of them.

Weight standardisation is often written as a batch norm of the weight. A plain pass over one sample
cannot tell the two apart; under `vmap` a tensor that depends on the sample is a batched one.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.func import vmap

from fastgradnorm._errors import UnsupportedModelError
from fastgradnorm._model.batches import Batch
from fastgradnorm._model.passage import Passage, Settings
from fastgradnorm._model.subject import Subject
from fastgradnorm._model.views import Pieces
from fastgradnorm._model.watch import Watch, takes_statistics


class _Counting(Watch):
    """Counts norms by the statistics of a batch."""

    calls = 0

    def check(self, func: Callable[..., Any], call: Mapping[str, Any]) -> None:
        self.calls += takes_statistics(func, call)
        super().check(func, call)


def check_unmixed(subject: Subject, sample: Batch, layers: Sequence[str]) -> None:
    """Runs a model under `vmap` for which a plain pass has found norms by statistics of a batch.

    Args:
        subject: The model.
        sample: A batch of one.
        layers: What each of the norms is in, by path, in order.

    Raises:
        UnsupportedModelError: If one of them mixes samples; also where that cannot be told, as the
            model does not run under `vmap`.
    """
    modes: list[_Counting] = []

    def per_sample(*leaves: Tensor) -> Tensor:
        view, stand_ins = subject.view({})
        mode = _Counting(Pieces({}), stand_ins, Passage(Settings()), leaves)
        modes.append(mode)
        with mode:
            return subject.run(view, sample, [leaf[None].clone() for leaf in leaves])

    try:
        with torch.no_grad():
            vmap(per_sample, randomness=subject.randomness)(*sample.leaves)
    except UnsupportedModelError as error:
        raise UnsupportedModelError(f"{_told(subject, layers, modes)}: {error}") from error
    except (RuntimeError, NotImplementedError) as error:
        raise UnsupportedModelError(
            f"{_told(subject, layers, modes)} normalises by the statistics of a batch, and the "
            "model does not run under `torch.func.vmap`, where it would show whether these are of "
            "samples. Write the normalisation of a weight with `torch.var_mean`."
        ) from error


def _told(subject: Subject, layers: Sequence[str], modes: Sequence[_Counting]) -> str:
    place = modes[-1].calls - 1 if modes else 0
    path = layers[min(max(place, 0), len(layers) - 1)]
    kind = type(subject.model.get_submodule(path)).__name__
    return f"`model.{path}` ({kind})" if path else f"`model` ({kind})"
