"""One batch to scores."""

from fastgradnorm._engine.chunks import Limits
from fastgradnorm._engine.directed import dots_elements, sample_dots
from fastgradnorm._engine.engine import Engine
from fastgradnorm._engine.explain import Explanation, explain, tried
from fastgradnorm._engine.explain_linear import explain_dots, explain_sketches
from fastgradnorm._engine.forward import ForwardMode
from fastgradnorm._engine.last_layer import logits_and_features, of_one
from fastgradnorm._engine.outcome import Norms, Outcome
from fastgradnorm._engine.passes import Passes
from fastgradnorm._engine.plain import PlainPass, plain_scores
from fastgradnorm._engine.plan import Plan, make_plan
from fastgradnorm._engine.sketched import (
    Maps,
    rescaled,
    sample_sketch,
    transient_elements,
    used_once,
)
from fastgradnorm._engine.tapped import TappedPass
from fastgradnorm._engine.timing import Clock, now
from fastgradnorm._engine.vectors import Vectors

__all__ = [
    "Clock",
    "Engine",
    "Explanation",
    "ForwardMode",
    "Limits",
    "Maps",
    "Norms",
    "Outcome",
    "Passes",
    "PlainPass",
    "Plan",
    "TappedPass",
    "Vectors",
    "dots_elements",
    "explain",
    "explain_dots",
    "explain_sketches",
    "logits_and_features",
    "make_plan",
    "now",
    "of_one",
    "plain_scores",
    "rescaled",
    "sample_dots",
    "sample_sketch",
    "transient_elements",
    "tried",
    "used_once",
]
