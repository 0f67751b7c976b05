"""What the numbers say: whether a model's outputs, inputs and scores are what they are taken for.

What outputs and inputs say is read from plain calls on some samples of the first batch, predictions
from the logits that scores are made of. What is found is told, and changes no score.
"""

from fastgradnorm_kernels.switches import has_backward_hooks

from fastgradnorm._engine import Engine
from fastgradnorm._errors import NOT_THE_MODELS, UnsupportedModelError
from fastgradnorm._model import Batch, Subject
from fastgradnorm._schemes import Scored, make_objective, reads_classes
from fastgradnorm._witness.declaration import declaration
from fastgradnorm._witness.dimensions import class_dimension
from fastgradnorm._witness.findings import Finding, Findings
from fastgradnorm._witness.graph import last_operations
from fastgradnorm._witness.inputs import FirstNorm
from fastgradnorm._witness.labels import labels_found
from fastgradnorm._witness.numbers import probabilities
from fastgradnorm._witness.outputs import parameters_left_out, which_output
from fastgradnorm._witness.probe import Seen, probe
from fastgradnorm._witness.scores import ALIKE, Predictions

_SAMPLES = 32  # of the first batch, at most


class Meaning:
    """Looks at one run.

    Args:
        engine: What scores it.

    Attributes:
        findings: What was found so far.
        looked: Whether outputs and inputs were looked at.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine, self.findings = engine, Findings()
        self._predictions = Predictions()
        self.looked = False

    def wants(self, batch: Batch) -> bool:
        """Whether it is this batch's turn."""
        if self.looked or len(batch) == 0:
            return False
        return self._reads_classes or not self._are_values

    def look(self, batch: Batch) -> None:
        """Looks at the first batch that has samples.

        Raises:
            UnsupportedModelError: If what is scored has no meaning, by name.
        """
        self.looked = True
        try:
            self.findings.add(self._found(batch))
        except (UnsupportedModelError, *NOT_THE_MODELS):
            raise
        except (RuntimeError, MemoryError) as error:
            reason = str(error).strip().partition("\n")[0]
            message = f"Outputs and inputs were not looked at: {type(error).__name__}: {reason}"
            self.findings.add([Finding("not looked at", message, "note")])

    def count(self, scored: Scored) -> None:
        """Counts the predictions that scores were made of; labels of their own are no classes."""
        no_classes = self._are_values or self.engine.options.likelihood == "bernoulli"
        if scored.logits is not None and not no_classes:
            self._predictions.add(scored.logits)

    @property
    def _are_values(self) -> bool:
        """Whether nothing is said of what the outputs are."""
        options = self.engine.options
        return options.by_output or options.loss == "mse" or options.likelihood == "gaussian"

    @property
    def _reads_classes(self) -> bool:
        """Whether it is a loss of PyTorch's alone, which says where its classes are."""
        options = self.engine.options
        return options.by_output and reads_classes(options.loss)

    def conclude(self) -> None:
        """Looks at the predictions of a whole pool."""
        self.findings.add(self._predictions.judge())

    def _found(self, batch: Batch) -> list[Finding]:
        engine = self.engine
        subject, options = engine.subject, engine.options
        plan = engine.plan(batch)
        # As many as are scored at a time: where one is too much, the error is the same.
        outcome, most = engine.outcome, min(_SAMPLES, len(batch))
        room, _ = engine.chunks.sizes(outcome.planned(plan), most, outcome.count(plan))
        norm = FirstNorm()
        seen = probe(subject, batch.take(slice(0, room)), norm.watch)
        z = seen.logits if seen.logits.dim() > 1 else seen.logits[:, None]
        if not -z.dim() < options.class_dim < z.dim():
            return []
        dense = class_dimension(seen.logits, seen.samples, plan, options.class_dim)
        if self._reads_classes:
            return dense
        logits = z.movedim(options.class_dim, -1)
        likelihood = make_objective(options, logits.shape[1:]).likelihood
        other = which_output(seen)
        return [
            *_alike(seen),
            *_hooked(subject),
            *other,
            *declaration(subject, logits.shape[-1]),
            *dense,
            *probabilities(logits, last_operations(seen.scored), likelihood),
            *(labels_found(batch, options.class_dim) if likelihood == "categorical" else []),
            *parameters_left_out(seen, subject, bool(other)),
            *([] if norm.finding is None else [norm.finding]),
        ]


def _hooked(subject: Subject) -> list[Finding]:
    """Whether parameters have hooks on their gradients, which are those of training."""
    names = [name for name, p in subject.chosen.items() if has_backward_hooks(p)]
    if not names:
        return []
    message = (
        f"`{names[0]}`{f' and {len(names) - 1} more' if names[1:] else ''} has a hook on its "
        "gradient, which does not run: scores are of the gradient itself. What the hook takes out "
        "of training, as rows of a table that are frozen, still counts; leave such parameters out "
        "by `params`."
    )
    return [Finding("hooks on gradients", message, "note")]


def _alike(seen: Seen) -> list[Finding]:
    """Whether all samples are one and the same, and so are their scores."""
    leaves, count = seen.samples.leaves, len(seen.samples)
    if count == 1 or not all(bool((leaf == leaf[:1]).all()) for leaf in leaves):
        return []
    message = f"The {count} samples looked at are all the same, so that scores cannot differ."
    return [Finding(ALIKE, message, "note")]
