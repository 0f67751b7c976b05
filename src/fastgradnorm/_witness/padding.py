"""Whether a model's own logits are the same without the padding that a mask tells."""

from collections.abc import Sequence

from fastgradnorm._engine import Engine
from fastgradnorm._errors import NOT_THE_MODELS
from fastgradnorm._model import Batch
from fastgradnorm._process import is_out_of_memory
from fastgradnorm._witness.company import differ
from fastgradnorm._witness.own_call import OwnModel
from fastgradnorm._witness.rounding import tolerance

_ROUNDING, _HALF = 3e-5, 5e-2  # relative to the largest logit


def same_without(engine: Engine, pairs: Sequence[tuple[Batch, Batch]]) -> bool:
    """Whether each sample has the logits of its shorter form, in calls of the model as it is.

    Args:
        engine: Whose model.
        pairs: Batches of one, with all of the padding and with less.
    """
    own = OwnModel(engine.subject)
    try:
        found = iter(own.each([batch for pair in pairs for batch in pair]))
        wide = tolerance(engine.subject, own.narrow).double <= 5e-3
        for padded, short in zip(found, found, strict=True):
            gap = differ(short, padded)
            if not gap <= (_ROUNDING if wide else _HALF):
                return False
    except NOT_THE_MODELS:
        raise
    except Exception as error:  # a model of one length
        if is_out_of_memory(error):
            raise
        return False
    return True
