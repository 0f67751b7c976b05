"""Families of transformers, made small from their configurations; nothing is downloaded.

A configuration is made anew with small numbers for the names that are known to be sizes, in its
parts too. A family with a head for classification is used with it, another by its body under an
average and a linear layer.
"""

import inspect
import os
from collections.abc import Iterator
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.zoo import torchvision_operators
from benchmarks.zoo.judge import CLASSES, SAMPLES, Batch, Family, NotMade
from benchmarks.zoo.small_configurations import WORDS, smaller

os.environ["HF_HUB_OFFLINE"] = "1"  # before the first import of transformers

_TASKS = ("SEQUENCE", "IMAGE", "AUDIO", "VIDEO")
_MOST = 40_000_000  # parameters
_LENGTH = 12


def families() -> Iterator[Family]:
    """One a type of configuration that has a model; those with heads for classification first."""
    torchvision_operators.declare()
    from transformers.models.auto import modeling_auto as auto
    from transformers.utils import logging

    logging.set_verbosity_error()
    import_module("transformers.models.bert.modeling_bert")  # once, for all children of the process
    with_head = {kind for task in _TASKS for kind in getattr(auto, _mapping(task))}
    for kind in [*sorted(with_head), *sorted(auto.MODEL_MAPPING_NAMES.keys() - with_head)]:
        yield Family("transformers", kind, lambda kind=kind: _build(kind))  # type: ignore[misc]


def _mapping(task: str) -> str:
    return f"MODEL_FOR_{task}_CLASSIFICATION_MAPPING_NAMES"


def _build(kind: str) -> tuple[nn.Module, Batch, str]:
    import transformers as hf
    from transformers.models.auto import modeling_auto as auto

    config = smaller(hf.CONFIG_MAPPING[kind])
    names = [getattr(auto, _mapping(task)).get(kind) for task in _TASKS]
    name = next((name for name in names if name), None)
    if name is None:
        named = auto.MODEL_MAPPING_NAMES[kind]
        name = named if isinstance(named, str) else named[0]
        model: nn.Module = Pooled(_made(getattr(hf, name), config))
    else:
        model = _made(getattr(hf, name), config)
    model.eval()
    body = model.body if isinstance(model, Pooled) else model
    problems = []
    for batch in _batches(body, config):
        try:
            with torch.no_grad():
                output = model(**batch)
            logits = output if isinstance(output, Tensor) else output.logits
            if logits.shape == (SAMPLES, CLASSES):
                return model, batch, name
            problems.append(f"logits {list(logits.shape)}")
        except Exception as error:  # another kind of batch may suit
            problems.append(f"{type(error).__name__}: {' '.join(str(error).split())[:150]}")
    raise NotMade("; ".join(dict.fromkeys(problems)))


def _made(cls: type[nn.Module], config: Any) -> nn.Module:
    with torch.device("meta"):
        size = sum(p.numel() for p in cls(config).parameters())
    if size > _MOST:
        raise NotMade(f"{size} parameters")
    torch.manual_seed(0)
    return cls(config)


class Pooled(nn.Module):
    """A body without a head: the average of its features under a linear layer."""

    def __init__(self, body: nn.Module):
        super().__init__()
        self.body, self.head = body, nn.LazyLinear(CLASSES)

    def forward(self, **batch: Tensor) -> Tensor:
        output = self.body(**batch)
        hidden = getattr(output, "last_hidden_state", None)
        if hidden is None:
            floats = (x for x in output.values() if isinstance(x, Tensor) and x.is_floating_point())
            hidden = next(x for x in floats if x.dim() > 1)
        hidden = hidden.flatten(2).mean(2) if hidden.dim() == 4 else hidden
        return self.head(hidden.mean(1) if hidden.dim() == 3 else hidden)


def _batches(body: nn.Module, config: Any) -> Iterator[dict[str, Tensor]]:
    """Batches that the model may take, by what its `forward` has places for."""
    takes = inspect.signature(body.forward).parameters
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(5, WORDS, (SAMPLES, _LENGTH), generator=generator)
    mask = torch.ones_like(ids)
    mask[1, 8:] = 0
    ids[1, 7], ids[[0, 2], -1] = 2, 2  # where a text ends, which some take the features of
    ids = torch.where(mask.bool(), ids, 0)
    text: dict[str, Tensor] = {"input_ids": ids, "attention_mask": mask}
    text = {key: value for key, value in text.items() if key in takes}
    size = _image_size(config)
    if "pixel_values" in takes and "input_ids" not in takes:
        for frames in ((), (_frames(config),)):
            yield {"pixel_values": torch.randn(SAMPLES, *frames, 3, *size)}
        for side in (32, 64, 128, 224):
            yield {"pixel_values": torch.randn(SAMPLES, 3, side, side)}
    for name in ("pixel_values_videos", "pixel_values_video"):
        if name in takes:
            yield {name: torch.randn(SAMPLES, _frames(config), 3, *size)}
    if "input_values" in takes:
        yield {"input_values": torch.randn(SAMPLES, 1600)}
        shape = getattr(config, "max_length", 64), getattr(config, "num_mel_bins", 16)
        yield {"input_values": torch.randn(SAMPLES, *shape)}
        yield {"input_values": torch.randn(SAMPLES, 1, 1600)}
    if "input_features" in takes:
        mels = next((getattr(config, n) for n in ("num_mel_bins", "feature_projection_input_dim",
                     "input_feat_per_channel", "n_mels") if hasattr(config, n)), 16)  # fmt: skip
        for shape in ((mels, 64), (64, mels), (mels, 32), (1, mels, 64)):
            yield {"input_features": torch.randn(SAMPLES, *shape)}
    if "inputs" in takes:
        yield {"inputs": ids}
    if "input_ids" not in takes:
        return
    yield text
    boxes = torch.randint(0, 30, (SAMPLES, _LENGTH, 2)).repeat(1, 1, 2)
    boxes[..., 2:] += 5
    if "bbox" in takes:
        yield text | {"bbox": boxes}
    if "decoder_input_ids" in takes:
        yield text | {"decoder_input_ids": ids[:, :6]}
    if "pixel_values" in takes:
        yield text | {"pixel_values": torch.randn(SAMPLES, 3, *size)}
    if "image" in takes:
        yield text | {"bbox": boxes, "image": torch.rand(SAMPLES, 3, *size)}
    yield {"input_ids": ids.clamp_min(1)}


def _image_size(config: Any) -> tuple[int, int]:
    for part in (config, getattr(config, "vision_config", None)):
        size = getattr(part, "image_size", None)
        if isinstance(size, int):
            return size, size
        if isinstance(size, (list, tuple)):
            return size[0], size[1]
    return 32, 32


def _frames(config: Any) -> int:
    names = ("num_frames", "frames_per_clip")
    return next((getattr(config, name) for name in names if hasattr(config, name)), 4)
