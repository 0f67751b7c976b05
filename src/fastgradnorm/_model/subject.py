"""The model being scored: which parameters count, and views of it with other tensors in place."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Literal

import torch
from fastgradnorm_kernels.functorch import is_transforming
from fastgradnorm_kernels.switches import has_backward_hooks
from torch import Tensor, nn

from fastgradnorm._errors import NOT_THE_MODELS, UnsupportedModelError
from fastgradnorm._model.batches import Batch
from fastgradnorm._model.buffers import Buffers, check_plain
from fastgradnorm._model.declared import declared, settled
from fastgradnorm._model.generators import Drawing
from fastgradnorm._model.holdings import Holdings
from fastgradnorm._model.lineage import Lineage
from fastgradnorm._model.marks import as_parameter
from fastgradnorm._model.own_loss import output_of, sample_loss
from fastgradnorm._model.returned import classes_last, extract, one_sample
from fastgradnorm._model.shadow import Mold, tensor_attributes
from fastgradnorm._model.standins import StandIns
from fastgradnorm._model.stored import Stored
from fastgradnorm._options import Options
from fastgradnorm._process import gradients_aside, models_in_use
from fastgradnorm._validate import check_model, fail, type_name


class Subject:
    """A model as it is at this moment: its parameters, the chosen ones, its device and dtype.

    Args:
        model: The caller's model; never changed.
        options: Which parameters, device, class dimension, temperature and autocast.

    Attributes:
        options: Those, with the likelihood that the model declares where none is asked for.
        asked: The likelihood that is asked for.
        declared: What the model says that its outputs are; None if nothing.
        chosen: The caller's parameters that count, by name. For `params="last_layer"` all trainable
            ones, until a plan narrows them down.
        blamed: Whether the model raised an error since this was set to False.
        drew: Whether the last run drew random numbers.
        draws_idly: Whether the model draws random numbers that do not matter.
        clips: Whether gradients were seen that do not grow with what is pulled back.
        hooks: Whether hooks on gradients, or functions of the model's own, were seen.
        own_generators: Of random numbers, that the model holds; None: not looked for yet.
        in_loss: Whether what runs, or has failed, is the loss.
    """

    def __init__(self, model: nn.Module, options: Options) -> None:
        self.model = check_model(model)
        self.asked, self.declared = options.likelihood, declared(self.model)
        self.options = options = settled(options, self.declared)
        self.parameters = dict(self.model.named_parameters())
        trainable = {k: p for k, p in self.parameters.items() if p.requires_grad}
        if not trainable:
            wanted = "`model` must have parameters with requires_grad=True. Got"
            if not self.parameters:
                raise ValueError(f"{wanted} none at all. A quantised model has lost them.")
            raise ValueError(
                f"{wanted} {len(self.parameters)} parameters, none of them trainable. "
                "Set requires_grad_(True) on those that count."
            )
        self.chosen = _choose(trainable, options)
        some = next(iter(self.parameters.values()))
        self.device = torch.device(options.device or some.device)
        self.dtype = next(iter(trainable.values())).dtype.to_real()
        self._moved = {id(p): self._usable(p) for p in self.parameters.values()}
        self.drew = self.draws_idly = self.in_loss = self.clips = self.blamed = False
        self.own_generators: dict[str, Any] | None = None
        self.hooks = self.hooked() is not None
        self._holdings = Holdings(self.parameters, self._moved)
        with models_in_use:
            self._mold = Mold(self.model)
            others = check_plain(self.model, tensor_attributes(self.model))
            self._buffers = Buffers(others, self._usable)
            self._stored = Stored(self.model, (options.loss, options.forward))
        leaves = [t for t in others.values() if t.is_leaf and t.requires_grad]
        self._leaves = [*self.parameters.values(), *leaves]

    def _usable(self, tensor: Tensor) -> Tensor:
        moved = tensor.to(self.device)
        # Autograd refuses tensors made in inference mode; and a model may set flags of what it has.
        return moved.detach().clone() if moved.is_inference() else moved.detach()

    def values(self, names: Sequence[str]) -> dict[str, Tensor]:
        """Parameters as tensors without a graph, on the device."""
        return {name: self._moved[id(self.parameters[name])] for name in names}

    def view(self, replaced: Mapping[str, Tensor]) -> tuple[nn.Module, StandIns]:
        """A copy with some parameters replaced, and what stands in it for the caller's tensors."""
        tensors = {
            id(p): replaced.get(name, self._moved[id(p)]) for name, p in self.parameters.items()
        }
        if self.differentiates and not is_transforming():  # by any of those that are trained
            for name in self._holdings.trainable - replaced.keys():
                key = id(self.parameters[name])
                tensors[key] = self._moved[key].detach().requires_grad_()
        for p in self.parameters.values():
            as_parameter(tensors[id(p)], p)
        tensors.update(self._buffers.copies())
        return self._mold.cast(tensors), StandIns(tensors, self._holdings)

    def check_kept(self) -> None:
        """After the first run of a view: nothing of the caller's has changed.

        Raises:
            UnsupportedModelError: If the model reached one of its buffers unseen and changed it.
        """
        changed = self._buffers.restore()
        self._holdings.written |= self._buffers.written
        names = {id(b): name for name, b in self.model.named_buffers()}
        if changed:
            raise UnsupportedModelError(
                "`model` must change its buffers where PyTorch lets others see it. Got "
                f"`{names.get(changed[0], 'a tensor')}`, changed past the module tree; it has its "
                "values back. Change it by operations of PyTorch, on the module's attribute."
            )

    def follows(self) -> bool:
        """Whether runs to come see values that are written to the model's tensors, in any way."""
        moved = ((p, self._moved[id(p)]) for p in self.parameters.values())
        return all(p.data_ptr() == own.data_ptr() for p, own in moved) and self._buffers.follow()

    @property
    def training(self) -> frozenset[int]:
        """Modules, by `id`, that the model's own `eval()` leaves in training mode."""
        return self._mold.training

    @property
    def differentiates(self) -> bool:
        """Whether the model was seen to take derivatives by plain autograd while it runs."""
        return self._holdings.differentiates

    def gradients_kept(self) -> AbstractContextManager[Any]:
        """The context of all that is pulled back: the caller's `.grad` stay what they are."""
        return gradients_aside(self._leaves)

    def graph(self) -> AbstractContextManager[Any]:
        """The context of a run whose graph nobody wants, but perhaps the model itself."""
        return torch.enable_grad() if self.differentiates else torch.no_grad()

    def hooked(self) -> str | None:
        """The first module with a backward hook, in words; transforms do not run those."""
        for path, module in self.model.named_modules():
            if has_backward_hooks(module):
                name = f"`model.{path}`" if path else "`model`"
                return f"{name} ({type_name(module)})"
        return None

    @property
    def randomness(self) -> Literal["error", "same"]:
        """What `vmap` shall do about random numbers: each run was found to draw the same, if any.

        On a GPU captured passes would go on drawing where a model begins anew each time.
        """
        return "same" if self.draws_idly or self.device.type == "cpu" else "error"

    def autocast(self) -> AbstractContextManager[Any]:
        """The context of the forward pass and the pull-backs."""
        if self.options.autocast is None:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self.options.autocast)

    @contextmanager
    def responsible(self) -> Iterator[None]:
        """What is raised inside is raised by the caller's model, or by what pulls back from it.

        Errors of kernels and of the device apart: those are nobody's.
        """
        try:
            yield
        except NOT_THE_MODELS:
            raise
        except Exception:
            self.blamed = True
            raise

    def run(self, view: nn.Module, batch: Batch, leaves: Sequence[Tensor]) -> Tensor:
        """Logits of one sample, leaves `[1, ...]`, as `[*positions, C]`; or its loss `[1]`."""
        return self.run_both(view, batch, leaves)[0]

    def run_both(
        self, view: nn.Module, batch: Batch, leaves: Sequence[Tensor]
    ) -> tuple[Tensor, Any]:
        """The same, and what the model returned."""
        before, self.in_loss = Drawing(self.own_generators), False
        with self.responsible(), self.autocast():
            scored, output = self.scored(view, batch, leaves)
        self.drew = before.drew()
        if not self.options.by_output:
            scored = one_sample(scored, self.options.class_dim)
        return scored, output

    def called(self, model: nn.Module, batch: Batch, leaves: Sequence[Tensor]) -> Any:
        """What a model returns for samples; the caller's own keeps nothing of a copy's run."""
        with self._stored.kept(model):
            return batch.run(model, leaves)

    def scored(
        self, model: nn.Module, batch: Batch, leaves: Sequence[Tensor], at_logits: bool = False
    ) -> tuple[Tensor, Any]:
        """Logits as a model returns them, or the loss `[1]` of one sample; and all it returned.

        Args:
            model: What is called.
            batch: How.
            leaves: The sample.
            at_logits: Whether the graph may begin there, but of a loss that the model makes.
        """
        if not self.options.by_output:
            output = self.called(model, batch, leaves)
            return extract(output), output
        assert batch.labelled is not None
        item = batch.labelled(leaves)
        with self._stored.kept(model):
            apart = at_logits and self.options.loss != "model"
            with self.graph() if apart else nullcontext():
                output = output_of(model, self.options, item)
            if apart:
                extract(output).requires_grad_()
            self.in_loss = True
            with self._stored.as_in(model):
                loss = sample_loss(self.options, extract, output, item)
        self.in_loss = False
        return loss, output

    def rows(
        self,
        view: nn.Module,
        batch: Batch,
        leaves: Sequence[Tensor],
        mode: AbstractContextManager[Any],
    ) -> Tensor | None:
        """Logits of many samples at once, `[N, ..., C]`; None if there is not a row for each.

        Args:
            view: What is called.
            batch: How.
            leaves: The samples.
            mode: A context for that call alone.
        """
        before = Drawing(self.own_generators)
        with self.responsible(), self.autocast(), mode:
            output = self.called(view, batch, leaves)
        self.drew = before.drew()
        logits = extract(output)
        if logits.dim() == 1:
            logits = logits[:, None]  # a single logit each, squeezed
        if (
            len(logits) != len(leaves[0])
            or not -logits.dim() < self.options.class_dim < logits.dim()
        ):
            return None
        return classes_last(logits, self.options.class_dim)

    def tempered(self, view: nn.Module, batch: Batch, leaves: Sequence[Tensor]) -> Tensor:
        """The same over the temperature: what is scored."""
        return self.with_head(view, batch, leaves, None)

    def with_head(
        self, view: nn.Module, batch: Batch, leaves: Sequence[Tensor], lineage: Lineage | None
    ) -> Tensor:
        """The same, where it must come from the last layer that a lineage is of.

        Raises:
            PlanChangedError: If it comes from another.
        """
        scored, output = self.run_both(view, batch, leaves)
        if lineage is not None:
            lineage.check(extract(output) if self.options.by_output else scored)
        temperature = self.options.temperature
        return scored if temperature == 1 else scored / temperature

    def lineage(self, own: Mapping[str, Tensor], sample: Sequence[Tensor]) -> Lineage:
        """To follow a last layer.

        Args:
            own: Its parameters, as a pass has them.
            sample: What the model is given.
        """
        others = [p for name, p in self.chosen.items() if name not in own]
        return Lineage(own.values(), [*others, *(self._moved[id(p)] for p in others)], sample)


def _choose(trainable: dict[str, nn.Parameter], options: Options) -> dict[str, nn.Parameter]:
    if not callable(options.params):
        return trainable
    chosen = {k: p for k, p in trainable.items() if options.params(k, p)}
    if not chosen:
        raise fail(
            "params",
            "a function that selects at least one trainable parameter",
            options.params,
            f"Its trainable parameters begin with {', '.join(list(trainable)[:5])}.",
        )
    return chosen
