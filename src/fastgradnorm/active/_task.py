"""What a user writes, once: the data, the model, and how it is trained and judged."""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset


@runtime_checkable
class Task(Protocol):
    """A learning problem whose labels are bought one by one.

    Two optional attributes: `batch_size` for scoring (256), and `score_options`, keyword arguments
    of `score_pool` such as `{"class_dim": 1}` or `{"forward": ...}`.

    Attributes:
        name: For results and plots.
    """

    name: str

    def pool(self) -> Dataset[Any]:
        """Map-style, with a length; item i is `(input, label)`, or a mapping with the inputs.

        Of a mapping, such as a row of a `datasets.Dataset`, the model is given what it takes. The
        label of an item is looked at by nobody until that item has been chosen; it may be a
        placeholder that does not exist before.
        """
        ...

    def make_model(self, seed: int) -> nn.Module:
        """A new model, its weights drawn from the seed, on the device where it is to be trained."""
        ...

    def train(self, model: nn.Module, labelled: Dataset[Any], seed: int) -> None:
        """Trains the model in place on the items chosen so far."""
        ...

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Metrics on held-out data; the first is the headline, higher is better."""
        ...


class Inputs(Dataset[Any]):
    """The inputs of some items of a pool, without their labels."""

    def __init__(self, pool: Dataset[Any], indices: Tensor) -> None:
        self.pool, self.indices = pool, indices.tolist()

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, position: int) -> Any:
        index = self.indices[position]
        try:
            sample = self.pool[index]
        except Exception as error:  # whoever reads candidates knows their places among these alone
            error.add_note(f"Loading `task.pool()` failed at its sample {index}.")
            raise
        paired = isinstance(sample, list) and not isinstance(sample[0], (int, float, list))
        return sample[0] if paired or isinstance(sample, tuple) else sample


def as_indices(indices: Sequence[int] | Tensor) -> Tensor:
    """Indices `[n]`, int64."""
    return torch.as_tensor(indices, dtype=torch.int64, device="cpu").reshape(-1)
