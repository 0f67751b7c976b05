"""The caller's model and batches, watched while it runs."""

from fastgradnorm._model.batches import Batch, Reader, as_batch
from fastgradnorm._model.branches import Branches, DivergentControlFlowError, Foreseen
from fastgradnorm._model.buffers import without_values
from fastgradnorm._model.chance import check_repeatable, own_states
from fastgradnorm._model.changes import Unchanged
from fastgradnorm._model.code_names import globals_in, is_of_packages, names_in
from fastgradnorm._model.declared import meaning_of_loss
from fastgradnorm._model.given import Given
from fastgradnorm._model.handed import constant
from fastgradnorm._model.held import Held
from fastgradnorm._model.layout import (
    check_copies,
    check_memory,
    is_only_called,
    may_be_in_place,
)
from fastgradnorm._model.lineage import Lineage
from fastgradnorm._model.marks import marked
from fastgradnorm._model.mixing import check_unmixed
from fastgradnorm._model.numbers_of import parts, same
from fastgradnorm._model.origin import Origins, behind
from fastgradnorm._model.own_loss import loss_failed
from fastgradnorm._model.passage import Passage, Settings
from fastgradnorm._model.record import Recorder, Use
from fastgradnorm._model.returned import extract
from fastgradnorm._model.sameness import Appearance
from fastgradnorm._model.shadow import Mold, tensor_attributes
from fastgradnorm._model.snapshot import NoSnapshotError, Snapshot
from fastgradnorm._model.standins import StandIns
from fastgradnorm._model.stored import reaches
from fastgradnorm._model.subject import Subject
from fastgradnorm._model.substitution import Swapping, Unharmed
from fastgradnorm._model.views import Piece, Pieces
from fastgradnorm._model.watch import READING, Followed, PlanChangedError, Watch

__all__ = [
    "READING",
    "Appearance",
    "Batch",
    "Branches",
    "DivergentControlFlowError",
    "Followed",
    "Foreseen",
    "Given",
    "Held",
    "Lineage",
    "Mold",
    "NoSnapshotError",
    "Origins",
    "Passage",
    "Piece",
    "Pieces",
    "PlanChangedError",
    "Reader",
    "Recorder",
    "Settings",
    "Snapshot",
    "StandIns",
    "Subject",
    "Swapping",
    "Unchanged",
    "Unharmed",
    "Use",
    "Watch",
    "as_batch",
    "behind",
    "check_copies",
    "check_memory",
    "check_repeatable",
    "check_unmixed",
    "constant",
    "extract",
    "globals_in",
    "is_of_packages",
    "is_only_called",
    "loss_failed",
    "marked",
    "may_be_in_place",
    "meaning_of_loss",
    "names_in",
    "own_states",
    "parts",
    "reaches",
    "same",
    "tensor_attributes",
    "without_values",
]
