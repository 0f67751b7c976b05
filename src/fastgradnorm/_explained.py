"""How sketches and products would be made of batches like one, without making them."""

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from fastgradnorm._directions import Directions, Dots, checked_dots, directed
from fastgradnorm._engine import Explanation, Vectors, explain_dots, explain_sketches
from fastgradnorm._errors import SlowPathWarning
from fastgradnorm._model import Subject, as_batch
from fastgradnorm._process import OwnRandomState, autograd_ready
from fastgradnorm._sketches import checked_sketches, sketching
from fastgradnorm._validate import check_bool, check_integer, check_model, fail


def explain_gradients(
    model: nn.Module,
    batch: Any,
    *,
    dim: int | None = None,
    directions: Directions | int | None = None,
    cosine: bool = False,
    **options: Any,
) -> Explanation:
    """How `gradient_sketch` or `gradient_dots` treats each parameter on batches like this one.

    The rule of a parameter is, of sketches, `"TensorSketch"` of inputs and output gradients, the
    gradient of a use `"formed"` and hashed, or a `"lookup"` of the rows it took; of products,
    a `"product"` of the inputs with each direction, the gradient of a use `"formed"` once for all
    directions, or a `"lookup"`; all of them `"forward mode"` where the logits' derivative along one
    direction costs less. `"gradient"`: as autograd has formed it, for the parameters that
    have no such rule, such as biases, and of cosines for all. FLOPs and bytes are of one sample.

    Args:
        model: As in `score_pool`.
        batch: As a loader yields it.
        dim: Length of a sketch, for sketches.
        directions: As in `gradient_dots`, or how many there are, for products.
        cosine: As in `gradient_dots`.
        options: As of these, `scheme` included.

    Returns:
        A table to print, with `.to_dict()`.

    Raises:
        ValueError: As these; also unless one of `dim` and `directions` is given.

    Example:
        >>> model = nn.Linear(3, 2).eval()
        >>> found = explain_gradients(model, torch.ones(1, 3), directions=1, scheme="entropy")
        >>> [(row.parameter, row.rule) for row in found.rows]
        [('weight', 'product'), ('bias', 'gradient')]
    """
    if (dim is None) == (directions is None):
        raise fail("dim", "given for sketches, or `directions` for products", dim)
    check_bool("cosine", cosine)
    scheme = options.pop("scheme", None)
    if dim is not None:
        if cosine:
            raise fail("cosine", "False for sketches", cosine)
        chosen, scheme = checked_sketches("explain_gradients", dim, scheme, options)
    else:
        chosen = checked_dots("explain_gradients", scheme or "loss", options)
    make = sketching(dim or 1, scheme or "loss")
    with OwnRandomState(), autograd_ready(), warnings.catch_warnings():
        warnings.simplefilter("ignore", SlowPathWarning)  # told in the table
        engine = make(check_model(model), chosen)
        subject = engine.subject
        given = chosen.forward, chosen.mask, subject.model, chosen.labels
        parsed = as_batch(batch, subject.device, *given)
        plan = engine.plan(parsed)
        if dim is not None:
            return explain_sketches(subject, plan, dim, engine.loop_reason)
        stacked = _stacked(model, subject, directions)
        unchecked = chosen.changed(verify=False)
        dots = Dots(subject, unchecked, stacked, scheme or "loss", cosine, None)
        engine.making(dots).score(parsed.take(slice(0, 1)))  # whether forward mode runs it
        told = dots.forward.why, engine.loop_reason
        return explain_dots(subject, plan, dots.count_all, cosine, *told)


def _stacked(model: nn.Module, subject: Subject, directions: Any) -> dict[str, Vectors]:
    """Directions by parameter; as many of zeros, of all that count."""
    if isinstance(directions, (Mapping, list, tuple)):
        return directed(model, directions)
    count = check_integer("directions", directions, at_least=1)
    values = subject.values(list(subject.chosen))
    numbers = {n: torch.view_as_real(v) if v.is_complex() else v for n, v in values.items()}
    return {name: Vectors({}, count, tuple(v.shape)) for name, v in numbers.items()}
