"""What belongs to the whole process, and is put back."""

from fastgradnorm._process import heap
from fastgradnorm._process.gradients import gradients_aside
from fastgradnorm._process.interrupts import in_steps, interrupts_wait
from fastgradnorm._process.memory import allowed_bytes, in_words, is_out_of_memory
from fastgradnorm._process.states import (
    OwnRandomState,
    autograd_ready,
    check_transforms,
    collection_paused,
    models_in_use,
    put_back_random_states,
    random_states,
    same_random_states,
    tensors_ready,
)

__all__ = [
    "OwnRandomState",
    "allowed_bytes",
    "autograd_ready",
    "check_transforms",
    "collection_paused",
    "gradients_aside",
    "heap",
    "in_steps",
    "in_words",
    "interrupts_wait",
    "is_out_of_memory",
    "models_in_use",
    "put_back_random_states",
    "random_states",
    "same_random_states",
    "tensors_ready",
]
