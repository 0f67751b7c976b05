"""Options about losses and labels that cannot be meant."""

from typing import Any, Protocol

from fastgradnorm import _validate
from fastgradnorm._schemes.losses import LABELLED_SCHEMES, LOSSES


class Asked(Protocol):
    """What of the options concerns losses: see `Options`."""

    @property
    def schemes(self) -> tuple[Any, ...]: ...
    @property
    def loss(self) -> Any: ...
    @property
    def own_loss(self) -> bool: ...
    @property
    def by_output(self) -> bool: ...
    @property
    def mask(self) -> Any: ...
    @property
    def target(self) -> Any: ...
    @property
    def group_by(self) -> Any: ...
    @property
    def likelihood(self) -> str: ...
    @property
    def temperature(self) -> float: ...
    @property
    def rtol(self) -> float: ...
    @property
    def reduction(self) -> str: ...


def check_loss(options: Asked) -> None:
    """Raises `ValueError` or `TypeError` for them, by name."""
    loss, schemes = options.loss, options.schemes
    if isinstance(loss, str):
        _validate.check_choice("loss", loss, LOSSES)
    elif loss is not None and not callable(loss):
        wanted = "a name, a loss of torch.nn, or a function (output, batch) -> scalar"
        raise _validate.fail_type("loss", wanted, loss)
    elif isinstance(loss, type):
        given = _validate.Words(f"the class {loss.__name__}")
        told = f"Make one: `{loss.__name__}()`."
        raise _validate.fail("loss", "a loss that can be called with outputs", given, told)
    if "loss" in schemes and loss is None:
        raise _validate.fail("loss", "given for scheme='loss'", None, "Use 'cross_entropy'.")
    if loss is not None and "loss" not in schemes:
        advice = "Leave `scheme` out, or name it: scheme=['entropy', 'loss']."
        raise _validate.fail("scheme", "'loss', or several with it, for a `loss`", schemes, advice)
    if options.target is not None and not any(scheme in LABELLED_SCHEMES for scheme in schemes):
        raise _validate.fail("target", "None where no scheme asks for labels", options.target)
    if not isinstance(options.target, (str, int, type(None))) and not callable(options.target):
        wanted = "a key, a position or a function of the batch"
        raise _validate.fail_type("target", wanted, options.target)
    if options.own_loss and options.temperature != 1:
        advice = "Divide within the loss, or use loss='cross_entropy'."
        wanted = "1 for a loss that is given the model's outputs as they are"
        raise _validate.fail("temperature", wanted, options.temperature, advice)
    if options.by_output and options.mask is not None:
        advice = "Leave positions out within the loss, or use loss='cross_entropy'."
        wanted = "None for a loss that is given the model's outputs as they are"
        raise _validate.fail("mask", wanted, options.mask, advice)
    if options.likelihood == "gaussian" and ("el2n" in schemes or loss == "cross_entropy"):
        raise _validate.fail("likelihood", "'auto' for labels of classes", "gaussian")
    if options.group_by is not None:
        _check_groups(options)


def _check_groups(options: Asked) -> None:
    if not callable(options.group_by):
        _validate.check_choice("group_by", options.group_by, ("parameter", "module"))
    if options.rtol > 0:
        raise _validate.fail("rtol", "0 with `group_by`", options.rtol)
    if options.reduction != "global":
        raise _validate.fail("reduction", "'global' with `group_by`", options.reduction)
