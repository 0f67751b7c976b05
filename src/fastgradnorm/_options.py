"""The options of scoring: declared, documented and checked here, and nowhere else."""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn

from fastgradnorm import _validate
from fastgradnorm._errors import ArgumentError
from fastgradnorm._schemes import (
    LABELLED_SCHEMES,
    SCHEMES,
    GroupBy,
    LabelledScheme,
    Labels,
    LossName,
    Scheme,
    Target,
    check_loss,
    takes_logits,
)

ParamSelector = Literal["all", "last_layer"] | Callable[[str, nn.Parameter], bool]
Forward = Callable[[nn.Module, Any], Any]
Mask = Callable[[Any], Tensor]
AnyScheme = Scheme | LabelledScheme
Loss = LossName | nn.Module | Callable[[Any, Any], Tensor]

R = TypeVar("R")

# Equal to the name, and known from it where that is written: with a loss it means "loss".
_DEFAULT_SCHEME: Scheme = "".join(["exp", "ected"])  # type: ignore[assignment]

# Options that change a score, or which samples have one; and those about speed, memory, checks and
# what is shown, without which scores are the same.
_SCORES, _RUNNING = {"changes_scores": True}, {"changes_scores": False}


@dataclass(frozen=True, kw_only=True)
class Options:
    r"""How a pool is scored. The keyword arguments of everything that scores.

    Args:
        scheme: Which score. With :math:`p = \mathrm{softmax}(z)` and :math:`\ell` the
            cross-entropy,

            - `"expected"`: :math:`\sum_c p_c \|\nabla_\theta \ell(x, c)\|`, the expected gradient
              length (Settles et al., 2007);
            - `"expected_squared"`: :math:`\sum_c p_c \|\nabla_\theta \ell(x, c)\|^2`, the trace of
              the sample's Fisher matrix;
            - `"entropy"`: :math:`\|\nabla_\theta H(p)\|`, entropy-gradnorm (Wang et al., 2022,
              https://arxiv.org/abs/2112.05683).

            and of samples whose labels are known,

            - `"loss"`: :math:`\|\nabla_\theta \ell(x, y)\|` of the `loss` (GraNd);
            - `"el2n"`: :math:`\|p - e_y\|` (both Paul et al., 2021,
              https://arxiv.org/abs/2107.07075), from the logits alone.

            A sequence of names computes all of them in one pass, and the result is a dict.
        params: The parameters :math:`\theta` the gradient is taken over: `"all"` that have
            `requires_grad=True`; those of the `"last_layer"`, the operation that produced the
            logits (one forward pass, no backward), with all that its weight and bias are made of;
            or a function `(name, parameter) -> bool`.
        reduction: `"global"`: one L2 norm over all parameters. `"per_tensor"`: the sum of the L2
            norms of the parameter tensors, as in the code published with Wang et al.
        loss: What `"loss"` is the gradient of; implies that scheme. `"cross_entropy"` and `"mse"`,
            of logits and labels; `"model"`, the loss that a model returns which is given labels
            (transformers); a loss of `torch.nn` or a function of `torch.nn.functional`, called as
            `(logits, target)`; or a function `(output, batch) -> scalar` of what the model returns
            for one sample and that sample's part of the batch, labels and all. Of dense outputs
            named losses are the mean over what is no padding and has no label -100.
        target: Where the labels are in a batch: a key, a name, a position, or a function of the
            batch. By default the key or field `labels` or `label`, or the second of two things.
        group_by: Also gives squared norms by `"parameter"`, by `"module"`, or by a function of
            parameters' names: `PoolScores.by_group`.
        likelihood: `"categorical"`: softmax over the classes. `"bernoulli"`: each logit is a label
            of its own. `"gaussian"`: outputs are values, as of a regression; `"expected_squared"`
            is then the trace of the Fisher matrix `JᵀJ`, `"expected"` its square root. `"auto"`:
            what `config.problem_type` of a transformers model says; else Bernoulli for a single
            logit, and categorical for several.
        class_dim: The dimension of the classes in the logits `[N, C, ...]`; -1 for `[N, T, C]`.
        temperature: Logits are divided by it first.
        forward: `(model, batch) -> logits` for batches that are no tensor, sequence or mapping, or
            of which the model takes more than the first; it is given the model to call and a batch
            of one sample, or for `verify` of several, in the container that the loader yields.
        mask: `(batch) -> bool [N, *positions]`: the valid positions of dense outputs. By default
            all of them, or a mapping's `attention_mask` where it has the logits' length.
        device: Where to compute; by default where the model is.
        autocast: A dtype for `torch.autocast` during the forward pass and the pull-backs. Squares
            and sums are float32 in any case.
        backend: `"auto"`, `"torch"` or `"triton"`: what computes the norms.
        max_memory: What may be used beside the model and a batch: bytes (an int), or a share in
            (0, 1] of what is free when scoring starts (a float; 1.0 is all, 1 is one byte). By
            default four fifths of it. Chunks fit, samples that wait counted. An estimate of
            tensors; on top come, for `verify`, the gradient of all parameters, and on the CPU freed
            memory that the C library keeps (see `docs/scaling.md`).
        rtol: 0 is exact. Above 0, `"expected"` and `"expected_squared"` are estimated from some of
            the classes: those that weigh most by the closed form of the last layer, and a few drawn
            from the rest, until the standard error, which `PoolScores` tells, is within `rtol`
            times the score; if that takes all classes, the score is exact and its error 0. Draws
            are unbiased; stopping where the error looks small enough biases by a small part of
            it. Scores that are cheap stay exact: the entropy, two classes, the last layer in closed
            form; so do models that only plain autograd can run, and `naive_score_pool`. Drawn label
            maps of many positions refuse it: see `num_samples`. Large batches pay more.
        num_samples: Label maps drawn for `"expected"` and `"expected_squared"` of dense and
            multi-label outputs, where classes cannot be enumerated. If that many cover every
            combination of labels, all are used and the score is exact.
        seed: Of all draws, and of `subset`. The same numbers are used for each sample, so that a
            score depends on its sample alone.
        verify: Call the model itself, as it is and on the loader's batches, and raise if its
            logits, the gradients of plain autograd or the scores made of them by the definition are
            others than those of the engine. `"sampled"` (or True): the first batch, each further
            way in which the model uses its parameters, and a few later batches drawn by the seed;
            of each the logits of 16 samples, and the gradients of two. `"first"`: the first
            batch alone. `"all"`: every sample, as slow as `naive_score_pool`. False: nothing. What
            was compared, and how closely it agreed, stands in the provenance of `PoolScores`.
            Hooks on modules run in these calls. Outputs and inputs that look unlikely are told.
        on_nonfinite: What to do about NaN and infinite scores when the pool is done: `"raise"`
            `NonFiniteScoreError` (which holds all scores), `"warn"`, or `"keep"` them.
        subset: Score a random part of the pool: so many samples (an int), or a fraction in (0, 1]
            (a float; 1.0 is all, 1 is one sample). Of a DataLoader over an indexable dataset only
            those are loaded; of any other each sample is scored with that probability. For `score`.
        latency: How many samples `stream` may hold back to gather those of one shape over batches;
            by default as many as are fastest. 0: each batch is scored when it is read.
        checkpoint: A file that makes a run resumable: after a stop, the next call with the same
            model, options and pool goes on where it was, and gives the same bits; at once where
            that was the end. A file of anything else is refused.
        distributed: Share the pool with the other ranks of `torch.distributed`: each scores every
            W-th batch, and every rank gets all scores, in loader order; in dataset order where a
            distributed sampler is undone. Every rank must call, with the same model and the whole
            pool. By default where there is more than one rank; False: this rank scores alone.
        progress: Show a progress bar (rank 0 does); by default where standard error is a terminal.
    """

    scheme: AnyScheme | Sequence[AnyScheme] = field(default=_DEFAULT_SCHEME, metadata=_SCORES)
    params: ParamSelector = field(default="all", metadata=_SCORES)
    reduction: Literal["global", "per_tensor"] = field(default="global", metadata=_SCORES)
    loss: Loss | None = field(default=None, metadata=_SCORES)
    target: Target | None = field(default=None, metadata=_SCORES)
    group_by: GroupBy | None = field(default=None, metadata=_SCORES)
    likelihood: Literal["auto", "categorical", "bernoulli", "gaussian"] = field(
        default="auto", metadata=_SCORES
    )
    class_dim: int = field(default=1, metadata=_SCORES)
    temperature: float = field(default=1.0, metadata=_SCORES)
    forward: Forward | None = field(default=None, metadata=_SCORES)
    mask: Mask | None = field(default=None, metadata=_SCORES)
    device: torch.device | str | None = field(default=None, metadata=_RUNNING)
    autocast: torch.dtype | None = field(default=None, metadata=_SCORES)
    backend: Literal["auto", "torch", "triton"] = field(default="auto", metadata=_SCORES)
    max_memory: int | float | None = field(default=None, metadata=_RUNNING)
    rtol: float = field(default=0.0, metadata=_SCORES)
    num_samples: int = field(default=8, metadata=_SCORES)
    seed: int = field(default=0, metadata=_SCORES)
    verify: bool | Literal["sampled", "first", "all"] = field(default=True, metadata=_RUNNING)
    on_nonfinite: Literal["raise", "warn", "keep"] = field(default="raise", metadata=_RUNNING)
    subset: int | float | None = field(default=None, metadata=_SCORES)
    latency: int | None = field(default=None, metadata=_RUNNING)
    checkpoint: str | Path | None = field(default=None, metadata=_RUNNING)
    distributed: bool | None = field(default=None, metadata=_RUNNING)
    progress: bool | None = field(default=None, metadata=_RUNNING)

    def __post_init__(self) -> None:
        for each in fields(self):
            object.__setattr__(self, each.name, _validate.plain_number(getattr(self, each.name)))
        if self.loss is not None and self.scheme is _DEFAULT_SCHEME:
            object.__setattr__(self, "scheme", "loss")
        self._check_schemes()
        check_loss(self)
        _validate.check_params(self.params)
        _validate.check_choice("reduction", self.reduction, ("global", "per_tensor"))
        known = ("auto", "categorical", "bernoulli", "gaussian")
        _validate.check_choice("likelihood", self.likelihood, known)
        _validate.check_choice("backend", self.backend, ("auto", "torch", "triton"))
        _validate.check_choice("on_nonfinite", self.on_nonfinite, ("raise", "warn", "keep"))
        _validate.check_integer("class_dim", self.class_dim)
        if self.class_dim == 0:
            told = "class_dim", "a dimension other than the batch's", 0, "Use 1 or -1."
            raise _validate.fail(*told)
        _validate.check_number("temperature", self.temperature, above=0)
        _validate.check_integer("num_samples", self.num_samples, at_least=1)
        _validate.check_integer("seed", self.seed, at_least=0)
        _validate.check_flag("verify", self.verify, ("sampled", "first", "all"))
        for name in ("distributed", "progress"):
            if getattr(self, name) is not None:
                _validate.check_bool(name, getattr(self, name))
        _validate.check_callable("forward", self.forward, "(model, batch) -> logits")
        _validate.check_callable("mask", self.mask, "(batch) -> bool [N, *positions]")
        if not isinstance(self.autocast, (torch.dtype, type(None))):
            raise _validate.fail_type("autocast", "a torch.dtype or None", self.autocast)
        if self.autocast not in (None, torch.bfloat16, torch.float16):
            raise _validate.fail("autocast", "torch.bfloat16, torch.float16 or None", self.autocast)
        if self.device is not None:
            _check_device(self.device)
        _validate.check_number("rtol", self.rtol, at_least=0, at_most=1)
        _validate.check_amount("max_memory", self.max_memory, "bytes")
        _validate.check_amount("subset", self.subset, "samples")
        _validate.check_integer("latency", 0 if self.latency is None else self.latency, at_least=0)
        if not isinstance(self.checkpoint, (str, Path, type(None))):
            raise _validate.fail_type("checkpoint", "a path or None", self.checkpoint)

    def _check_schemes(self) -> None:
        if isinstance(self.scheme, str):
            _validate.check_choice("scheme", self.scheme, (*SCHEMES, *LABELLED_SCHEMES))
            return
        if not isinstance(self.scheme, Sequence) or not self.scheme:
            wanted = "a name or a non-empty sequence of names"
            raise _validate.fail_type("scheme", wanted, self.scheme)
        for name in self.scheme:
            _validate.check_choice("scheme", name, (*SCHEMES, *LABELLED_SCHEMES))
        if len(set(self.scheme)) < len(self.scheme):
            raise _validate.fail("scheme", "names that differ", self.scheme)

    def refuse_subset(self, function: str) -> None:
        """For functions whose result cannot tell which samples it is of."""
        if self.subset is not None:
            raise ArgumentError(
                f"`subset` must be None for `{function}`, whose result has no place for the chosen "
                f"indices. Got {self.subset!r}. Use `GradNormScorer(model, subset=...)"
                ".score(loader)`.",
                "subset",
            )

    @property
    def changing(self) -> dict[str, Any]:
        """Those that change a score, or which samples have one, by name."""
        chosen = [f.name for f in fields(self) if f.metadata["changes_scores"]]
        return {name: getattr(self, name) for name in chosen}

    @property
    def schemes(self) -> tuple[AnyScheme, ...]:
        """The asked-for schemes as a tuple, also for one."""
        return (self.scheme,) if isinstance(self.scheme, str) else tuple(self.scheme)

    @property
    def own_loss(self) -> bool:
        """Whether the loss is made of what the model returns, not of logits alone."""
        return self.loss is not None and self.loss not in ("cross_entropy", "mse")

    @property
    def by_output(self) -> bool:
        """Whether that loss is all that is asked for, so that a model returns it."""
        return self.own_loss and self.schemes == ("loss",)

    @property
    def labels(self) -> Labels | None:
        """How batches are read for their labels, if they are."""
        schemes = self.whole.schemes
        if not any(scheme in LABELLED_SCHEMES for scheme in schemes):
            return None
        named = "el2n" in schemes or not self.own_loss
        given = self.loss == "model" and self.forward is None
        return Labels(self.target, named, self.own_loss, given, given or takes_logits(self.loss))

    def parts(self) -> "list[Options]":
        """What one pass can make each; a loss of the model's outputs has one of its own."""
        others = tuple(scheme for scheme in self.schemes if scheme != "loss")
        if not self.own_loss or not others:
            return [self]
        return [self._with(others), self._with("loss")]

    def _with(self, scheme: Any) -> "Options":
        return self.changed(scheme=scheme, asked_whole=self)

    def changed(self, **values: Any) -> "Options":
        """The same with other values, which have been checked, as a part's are of the whole."""
        made = copy.copy(self)
        for name, value in values.items():
            object.__setattr__(made, name, value)
        return made

    @property
    def whole(self) -> "Options":
        """All that is asked for, of which this may be a part."""
        found: Options = self.__dict__.get("asked_whole", self)
        return found

    def pick(self, by_scheme: Mapping[str, R]) -> R | dict[str, R]:
        """The value of the one asked-for scheme, or a dict of those of several."""
        if isinstance(self.scheme, str):
            return by_scheme[self.scheme]
        return {name: by_scheme[name] for name in self.scheme}


def _check_device(device: object) -> None:
    if not isinstance(device, (str, torch.device)):
        raise _validate.fail_type("device", "a torch.device, its name, or None", device)
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        wanted, reason = "`device` must be usable on this machine.", str(error).splitlines()[0]
        advice = "Without it, scores are computed where the model is."
        raise ValueError(f"{wanted} Got '{device}': {reason.rstrip('.')}. {advice}") from error
