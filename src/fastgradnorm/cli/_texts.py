"""A pool of texts: tokenised when they are read, padded batch by batch."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.utils.data import Dataset

from fastgradnorm.cli._failures import BadInputError


class Texts(Dataset[Any]):
    """What the model takes of each text, and its label where there is one.

    Args:
        texts: One a sample.
        make: From some texts to the inputs of each, of one length.
        labels: `[N]`, or None.
    """

    def __init__(
        self, texts: Sequence[str], make: Callable[[list[str]], list[Any]], labels: Tensor | None
    ) -> None:
        self.texts, self._make, self._labels = texts, make, labels

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, index: int) -> Any:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: list[int]) -> list[Any]:
        """A batch at once, so that its texts are padded to the longest of them."""
        made = self._make([self.texts[i] for i in indices])
        if self._labels is None:
            return made
        return [(inputs, self._labels[i]) for inputs, i in zip(made, indices, strict=True)]


def by_transform(transform: Callable[[str], Any]) -> Callable[[list[str]], list[Any]]:
    """The same by the function that came with the model."""

    def make(texts: list[str]) -> list[Any]:
        found = []
        for text in texts:
            try:
                found.append(transform(text))
            except Exception as error:
                raise BadInputError(
                    f"The transform failed on the text {text!r:.60}: {type(error).__name__}: "
                    f"{error}. It is given each text by itself."
                ) from error
        for inputs in found:
            if not isinstance(inputs, (Tensor, Mapping)):
                raise BadInputError(
                    "`MODEL`'s transform must return a tensor, or a mapping of them, for a text. "
                    f"Got {type(inputs).__name__}."
                )
        return found

    return make


def usable(
    texts: Sequence[Any], names: Sequence[Any], path: Path, skip_bad: bool
) -> tuple[list[int], list[str]]:
    """Places of the texts that can be read, and why others cannot.

    Raises:
        BadInputError: If some cannot, unless they are to be left out; or none can.
    """
    bad = {
        place: f"{names[place]}: {'no text' if not isinstance(text, str) else 'an empty text'}"
        for place, text in enumerate(texts)
        if not isinstance(text, str) or not text.strip()
    }
    if bad and not skip_bad:
        some = "; ".join([*bad.values()][:5]) + ("; ..." if len(bad) > 5 else "")
        raise BadInputError(
            f"{len(bad)} of {len(texts)} rows of {path} have no text: {some}. --skip-bad leaves "
            "them out."
        )
    good = [place for place in range(len(texts)) if place not in bad]
    if not good:
        raise BadInputError(f"`POOL` must hold at least one text. Got none in {path}.")
    return good, [f"{name}." for name in bad.values()]
