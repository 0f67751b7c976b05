"""Tokenizers of the transformers library, and whether one is the model's own."""

import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import typer
from torch import nn

from fastgradnorm.cli._failures import BadInputError
from fastgradnorm.cli._hub import from_here, why_not

_LONGEST = 512  # tokens, where neither the user nor the tokenizer says
_LOOKED_AT = 64  # texts of the pool, in which unknown tokens are counted


def load_tokenizer(
    name: str, model: nn.Module, max_length: int | None, texts: Sequence[str]
) -> Callable[[list[str]], list[Any]]:
    """From some texts to what `model` takes of each.

    Args:
        name: A folder with a tokenizer, or the name of one of Hugging Face's.
        model: Whose `forward` tells which of the tokenizer's outputs it takes; the ids alone, if it
            names none of them.
        max_length: Tokens of a text that are read; by default as many as the model takes, at most
            512.
        texts: The pool, of which some are looked at.

    Raises:
        BadInputError: If there is none, or it knows nothing of the texts.
    """
    from transformers import AutoTokenizer

    plain = name.removeprefix("hf:")
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(plain, local_files_only=from_here(plain))
    except (OSError, ValueError, KeyError) as error:
        _refuse_empty(plain)
        raise BadInputError(
            "`--tokenizer` must be a folder with a tokenizer, or a name of Hugging Face's that can "
            f"be loaded. Got {name!r}. {why_not(plain, error)}"
        ) from error
    special = {*tokenizer.all_special_tokens}
    if sum(token not in special for token in tokenizer.get_vocab()) < 2:
        raise _empty(plain)  # made of nothing but the kind that the config tells
    if tokenizer.pad_token is None:  # of GPTs
        tokenizer.pad_token = tokenizer.eos_token
    config = getattr(model, "config", None)
    if config is not None and getattr(config, "pad_token_id", 0) is None:
        config.pad_token_id = tokenizer.pad_token_id
    tokenizer.padding_side = "right"  # what is left out of a batch again, where it changes nothing
    most = max_length or min(_most(tokenizer, config), _LONGEST)
    names = _taken(model, tokenizer.model_input_names)
    size = getattr(config, "vocab_size", None)

    def make(texts: list[str]) -> list[Any]:
        found = tokenizer(
            texts, padding=True, truncation=True, max_length=most, return_tensors="pt"
        )
        if size is not None:
            _check_ids(found["input_ids"], texts, size)
        if not names:
            return list(found["input_ids"])
        return [{name: found[name][i] for name in names} for i in range(len(texts))]

    make([texts[0]])  # what is wrong with all is told before any is scored
    if size is not None and len(tokenizer) > size:
        typer.echo(
            f"warning: the tokenizer of {name} has {len(tokenizer):,} tokens, the model knows "
            f"{size:,}: is it the model's own?",
            err=True,
        )
    _check_known(name, tokenizer, texts[:: max(1, len(texts) // _LOOKED_AT)], most)
    return make


def _check_ids(ids: Any, texts: Sequence[str], size: int) -> None:
    """Raises where a tokenizer has tokens that the model has no vector for."""
    for row, text in zip(ids, texts, strict=True):
        largest = int(row.max()) if len(row) else 0
        if largest >= size:
            raise BadInputError(
                f"`--tokenizer` must be the model's own. It makes the token {largest} of "
                f"{text!r:.40}; the model knows {size}."
            )


def _check_known(name: str, tokenizer: Any, texts: Sequence[str], most: int) -> None:
    """Tells of texts whose words are unknown, which are all the same to the model.

    Raises:
        BadInputError: If it knows not one token of them.
    """
    unknown = tokenizer.unk_token_id
    if unknown is None or unknown in (tokenizer.eos_token_id, tokenizer.bos_token_id):
        return  # of bytes, to which nothing is unknown
    made = tokenizer([*texts], add_special_tokens=False, truncation=True, max_length=most)
    tokens = [token for row in made["input_ids"] for token in row]
    count = sum(token == unknown for token in tokens)
    if count == len(tokens):
        raise BadInputError(
            f"`--tokenizer` must be of the language of the texts. That of {name} knows no token of "
            f"the {len(texts)} looked at, such as {texts[0]!r:.40}."
        )
    if 2 * count > len(tokens):
        typer.echo(
            f"warning: of {len(tokens):,} tokens of the first texts {count:,} are unknown to the "
            f"tokenizer of {name}: is it the model's own, and of the language of the texts?",
            err=True,
        )


def _empty(name: str) -> BadInputError:
    where = f" Save it beside the model: tokenizer.save_pretrained({name!r})."
    return BadInputError(
        f"`--tokenizer` must be given: {name} holds no tokenizer, without which all texts are the "
        f"same to the model.{where if Path(name).is_dir() else ''}"
    )


def _refuse_empty(name: str) -> None:
    """Raises for a folder without any file of a tokenizer."""
    folder = Path(name)
    if folder.is_dir() and not any(
        "token" in file.name or file.name.startswith(("vocab", "merges")) or file.suffix == ".model"
        for file in folder.iterdir()
    ):
        raise _empty(name)


def _most(tokenizer: Any, config: Any) -> int:
    told = [tokenizer.model_max_length, getattr(config, "max_position_embeddings", None)]
    return int(min(value for value in told if value))


def _taken(model: nn.Module, names: Sequence[str]) -> list[str]:
    parameters = inspect.signature(model.forward).parameters.values()
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return list(names)
    known = {p.name for p in parameters}
    return [name for name in names if name in known]
