"""Classifiers of the transformers library, from a folder or by name."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import nn

from fastgradnorm.cli._failures import BadInputError
from fastgradnorm.cli._hub import from_here, why_not


def is_pretrained(factory: str) -> bool:
    """Whether `MODEL` is a folder that transformers wrote, or `hf:` and a name."""
    return factory.startswith("hf:") or (Path(factory) / "config.json").is_file()


def load_pretrained(factory: str) -> nn.Module:
    """The classifier, all of whose weights are in its files.

    Raises:
        BadInputError: If it is not there, is no classifier, or lacks weights, which would be drawn
            at random.
    """
    import transformers

    name = factory.removeprefix("hf:")
    here = from_here(name)
    try:
        config: Any = transformers.AutoConfig.from_pretrained(name, local_files_only=here)
        kind = (config.architectures or ["none"])[0]
        if "Classification" not in kind or not hasattr(transformers, kind):
            raise BadInputError(
                f"`MODEL` must be a classifier of transformers, fine-tuned and saved by "
                f"`save_pretrained`. Got {factory!r}, which is of the kind {kind}."
            )
        made: Any = getattr(transformers, kind)
        with _quiet():
            model, told = made.from_pretrained(
                name, config=config, output_loading_info=True, local_files_only=here
            )
    except BadInputError:
        raise
    except (OSError, ValueError, KeyError) as error:
        raise BadInputError(
            f"`MODEL` must be a folder that `save_pretrained` wrote, or a name of Hugging Face's "
            f"that can be loaded. Got {factory!r}. {why_not(name, error)}"
        ) from error
    missing = [*told.get("missing_keys", ())]
    if missing:
        raise BadInputError(
            f"`MODEL` must have all its weights. {factory!r} lacks {', '.join(missing[:3])}, which "
            "would be drawn at random."
        )
    found: nn.Module = model
    return found


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without tables and bars of the library's own: what they tell is told in a line."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def picture_transform(factory: str) -> Any:
    """From a picture to `pixel_values`, as the folder's own preprocessing has it.

    Raises:
        BadInputError: If it has none.
    """
    from transformers import AutoImageProcessor

    try:
        name = factory.removeprefix("hf:")
        processor = AutoImageProcessor.from_pretrained(
            name, use_fast=False, local_files_only=from_here(name)
        )
    except (OSError, ValueError, ImportError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise BadInputError(
            f"`MODEL` must have a file that says how pictures are prepared, for a folder of them. "
            f"Got {factory!r}. {reason} Or let a function return (model, transform)."
        ) from error

    def transform(image: Any) -> Any:
        found = processor(images=image.convert("RGB"), return_tensors="pt")
        return {"pixel_values": found["pixel_values"][0]}

    return transform
