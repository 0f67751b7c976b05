"""Operations: their rules, and their forms under vmap."""

from fastgradnorm._operations import table
from fastgradnorm._operations.arguments import tensors_in
from fastgradnorm._operations.control_flow import CONTROL_FLOW
from fastgradnorm._operations.losses import FORMS
from fastgradnorm._operations.numbered import COPIED
from fastgradnorm._operations.numbers import count, in_double, is_finite, model_in_double, numbers
from fastgradnorm._operations.operators import in_python
from fastgradnorm._operations.others import ASKED
from fastgradnorm._operations.recurrence_operators import DIRECTLY
from fastgradnorm._operations.rules import Joint, Rule, can_join, forms_tied, joint_sq_norm
from fastgradnorm._operations.single_level import (
    SingleLevel,
    autocast_dtype,
    current_level,
    unwrap,
    wrap,
)
from fastgradnorm._operations.table import register_rule
from fastgradnorm._operations.tensor_sketch import ParameterMap, choose_form, inverse, scratch

__all__ = [
    "ASKED",
    "CONTROL_FLOW",
    "COPIED",
    "DIRECTLY",
    "FORMS",
    "Joint",
    "ParameterMap",
    "Rule",
    "SingleLevel",
    "autocast_dtype",
    "can_join",
    "choose_form",
    "count",
    "current_level",
    "forms_tied",
    "in_double",
    "in_python",
    "inverse",
    "is_finite",
    "joint_sq_norm",
    "model_in_double",
    "numbers",
    "register_rule",
    "scratch",
    "table",
    "tensors_in",
    "unwrap",
    "wrap",
]
