"""A pool of texts: tokenised when they are read, padded batch by batch."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from fastgradnorm.cli._failures import BadInputError

_LONGEST = 512  # tokens, where neither the user nor the tokenizer says


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


def load_tokenizer(name: str, model: nn.Module, max_length: int | None) -> Callable[..., Any]:
    """From some texts to what `model` takes of each.

    Args:
        name: A folder with a tokenizer, or the name of one of Hugging Face's.
        model: Whose `forward` tells which of the tokenizer's outputs it takes; the ids alone, if it
            names none of them.
        max_length: Tokens of a text that are read; by default as many as the model takes, at most
            512.

    Raises:
        BadInputError: If there is none.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(name.removeprefix("hf:"))
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise BadInputError(
            "`--tokenizer` must be a folder with a tokenizer, or a name of Hugging Face's that can "
            f"be loaded. Got {name!r}. {reason}"
        ) from error
    if tokenizer.pad_token is None:  # of GPTs
        tokenizer.pad_token = tokenizer.eos_token
    config = getattr(model, "config", None)
    if config is not None and getattr(config, "pad_token_id", 0) is None:
        config.pad_token_id = tokenizer.pad_token_id
    tokenizer.padding_side = "right"  # what is left out of a batch again, where it changes nothing
    most = max_length or min(_most(tokenizer, config), _LONGEST)
    names = _taken(model, tokenizer.model_input_names)

    def make(texts: list[str]) -> list[Any]:
        found = tokenizer(
            texts, padding=True, truncation=True, max_length=most, return_tensors="pt"
        )
        if not names:
            return list(found["input_ids"])
        return [{name: found[name][i] for name in names} for i in range(len(texts))]

    return make


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


def _most(tokenizer: Any, config: Any) -> int:
    told = [tokenizer.model_max_length, getattr(config, "max_position_embeddings", None)]
    return int(min(value for value in told if value))


def _taken(model: nn.Module, names: Sequence[str]) -> list[str]:
    parameters = inspect.signature(model.forward).parameters.values()
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return list(names)
    known = {p.name for p in parameters}
    return [name for name in names if name in known]


def check_ids(model: nn.Module, make: Callable[[list[str]], list[Any]], text: str) -> None:
    """Raises where a tokenizer has tokens that the model has no vector for."""
    config = getattr(model, "config", None)
    size = getattr(config, "vocab_size", None)
    inputs = make([text])[0]
    ids = (
        inputs
        if isinstance(inputs, Tensor)
        else inputs.get("input_ids", torch.zeros(1, device="cpu"))
    )
    if size is not None and int(ids.max()) >= size:
        raise BadInputError(
            f"`--tokenizer` must be the model's own. It makes the token {int(ids.max())} of "
            f"{text!r:.40}; the model knows {size}."
        )
