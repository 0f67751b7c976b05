"""The user's model: a function that makes it, and weights that hold nothing but tensors."""

import importlib
import os
import pickle
import re
import sys
import traceback
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fastgradnorm.cli._failures import BadInputError, near, told
from fastgradnorm.cli._pretrained import is_pretrained, load_pretrained


class Loaded(NamedTuple):
    """A model in eval mode, and what turns a picture or text into its input, if its maker told.

    `pretrained`: it is of transformers, whose files say how inputs are prepared.
    """

    model: nn.Module
    transform: Callable[[Any], Tensor] | None
    pretrained: bool = False


def load_model(factory: str, weights: Path | None) -> Loaded:
    """Calls `package.module:function`, or reads a folder; loads a state dict into what it returns.

    Raises:
        BadInputError: If there is no such function, it makes no model, or the weights are not its.
    """
    pretrained = is_pretrained(factory)
    made = load_pretrained(factory) if pretrained else _call(factory)
    transform = None
    if isinstance(made, tuple) and len(made) == 2:
        made, transform = made
    if not isinstance(made, nn.Module):
        raise BadInputError(
            "`MODEL` must name a function that returns a torch.nn.Module, or one and a transform "
            f"of pictures. Got {type(made).__name__} from {factory!r}."
        )
    if weights is not None:
        _load(made, weights)
    return Loaded(made.eval(), transform, pretrained)


def _call(factory: str) -> Any:
    module_name, colon, function_name = factory.partition(":")
    folder = Path.cwd()
    if module_name.endswith(".py"):
        file = Path(module_name).with_suffix("")
        if file.is_absolute() or ".." in file.parts:
            folder, file = file.parent.resolve(), Path(file.name)
        module_name = ".".join(file.parts)
    if factory.endswith(("/", os.sep)) and not Path(factory).exists():
        raise BadInputError(f"`MODEL` must be a folder that is there. Got {factory!r}.")
    if not (module_name and colon and function_name):
        raise BadInputError(
            "`MODEL` must be package.module:function, a folder that transformers wrote, or "
            f"hf:name. Got {factory!r}. For a function `make` in ./my_model.py write my_model:make."
        )
    if str(folder) not in sys.path and not ("" in sys.path and folder == Path.cwd()):
        sys.path.insert(0, str(folder))  # as `python -m` does
    try:
        with _failing(module_name):
            module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise BadInputError(
                f"`MODEL`: {module_name} imports {error.name}, not found."
            ) from error
        here = [path.stem for path in folder.glob("*.py")]
        raise BadInputError(
            f"`MODEL` must name a module that can be imported from {folder}. "
            f"Got {module_name!r}.{near(module_name, here)}"
        ) from error
    function = getattr(module, function_name, None)
    if isinstance(function, nn.Module):
        return function
    if not callable(function):
        names = [n for n, v in vars(module).items() if callable(v) and not n.startswith("_")]
        raise BadInputError(
            f"`MODEL` must name a function of {module_name}. Got {function_name!r}. "
            f"It has: {', '.join(names) or 'none'}.{near(function_name, names)}"
        )
    with _failing(factory):
        return function()


@contextmanager
def _failing(what: str) -> Iterator[None]:
    """Tells of what the caller's own code raises, and of a script that ends the process."""
    try:
        yield
    except ModuleNotFoundError:
        raise  # told with what brings it
    except SystemExit as error:
        raise BadInputError(
            f"`MODEL` {what} ended the process (exit code {error.code}), as scripts that read the "
            "command line do. Put what runs of it under `if __name__ == '__main__':`."
        ) from error
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        file, line = place.filename, place.lineno
        if isinstance(error, SyntaxError) and error.filename:
            file, line = error.filename, error.lineno
            error = type(error)(error.msg)  # its text has the place, too
        where = f" ({Path(file).name}, line {line})" if file != __file__ else ""
        raise BadInputError(
            f"`MODEL` {what} failed: {type(error).__name__}: {error}{where}. --debug shows all of "
            "it."
        ) from error


# Of DDP and DataParallel, `torch.compile`, FSDP and activation checkpoints.
_WRAPPERS = re.compile(
    r"(?<![^.])(?:module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\."
)


_USUAL = ("state_dict", "model_state_dict", "model")  # what trainers call it


def _load(model: nn.Module, path: Path) -> None:
    tensors = _tensors(_read(path), path)
    try:
        model.load_state_dict(_unwrapped(tensors, list(model.state_dict())))
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise BadInputError(
            f"`--weights` must fit the model. {reason} {_why_not(tensors, model.state_dict())}"
        ) from error


def _tensors(state: Mapping[str, Any], path: Path) -> dict[str, Tensor]:
    """The tensors of a state dict, which a trainer keeps beside others in a checkpoint."""
    inside = {
        str(name): {str(k): v for k, v in part.items() if isinstance(v, Tensor)}
        for name, part in state.items()
        if isinstance(part, Mapping)
    }
    inside = {name: part for name, part in inside.items() if _has_weights(part)}
    usual = [*filter(inside.get, _USUAL)]
    own = {str(k): v for k, v in state.items() if isinstance(v, Tensor)}
    if usual or (len(inside) == 1 and not own):
        name = next(iter(usual or inside))
        others = [other for other in inside if other != name]
        if others:
            print(
                f"fastgradnorm: warning: {path} holds {name}, which is taken, and beside it "
                f"{', '.join(others)}. Save another one by itself, as by "
                "torch.save(model.state_dict(), path), if that is meant.",
                file=sys.stderr,
            )
        return inside[name]
    if not own:
        several = f"several sets of them, {', '.join(inside)}," if inside else "none"
        raise BadInputError(
            f"`--weights` must hold named tensors. Got {several} in {str(path)!r}. Save the "
            "model's own: torch.save(model.state_dict(), path)."
        )
    return own


def _has_weights(tensors: Mapping[str, Tensor]) -> bool:
    """Not of random states, which are bytes."""
    return any(tensor.is_floating_point() for tensor in tensors.values())


def _why_not(tensors: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> str:
    both = tensors.keys() & own.keys()
    if not both:
        some = ", ".join(map(repr, list(tensors)[:3]))
        return f"They are of a model with other names, {some}: of another MODEL?"
    if any(tensors[name].shape != own[name].shape for name in both):
        return "Let MODEL make it as it was trained: of as many classes and as wide."
    return "Let MODEL make it as it was trained: of the same layers, by the same names."


def _unwrapped(tensors: dict[str, Tensor], names: list[str]) -> dict[str, Tensor]:
    """Tensors by the model's names, where wrappers gave them others.

    DDP, `torch.compile`, FSDP and averaged models (which count their updates beside it) put their
    own in between, and a Lightning module or a trainer has
    the model as an attribute: `model.`, `net.`, with a loss or metrics beside it, which are left
    out. What stands beside the model's tensors and is not its own stays, to be told.

    Raises:
        BadInputError: If the model stands there more than once, as with averaged weights.
    """
    if "n_averaged" not in names and any(name.startswith("module.") for name in tensors):
        tensors = {name: tensor for name, tensor in tensors.items() if name != "n_averaged"}
    own = {_WRAPPERS.sub("", name): name for name in names}
    given = {_WRAPPERS.sub("", name): tensor for name, tensor in tensors.items()}
    if tensors.keys() >= {*names} or not (len(own) == len(names) and len(given) == len(tensors)):
        return tensors
    first = next(iter(own))
    starts = {name.removesuffix(first) for name in given if f".{name}".endswith(f".{first}")}
    fits = sorted(start for start in starts if all(f"{start}{name}" in given for name in own))
    if len(fits) > 1 and fits[0]:
        raise BadInputError(
            f"`--weights` must hold the model once. It stands there under {', '.join(fits)}. "
            "Save the one that is meant: torch.save(model.state_dict(), path)."
        )
    if not fits:
        return tensors
    here = {name: tensor for name, tensor in given.items() if name.startswith(fits[0])}
    short = {name.removeprefix(fits[0]): tensor for name, tensor in here.items()}
    return {own.get(name, name): tensor for name, tensor in short.items()}


def _read(path: Path) -> Mapping[str, Any]:
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except OSError as error:
            raise BadInputError(f"`--weights` cannot be read. {told(error)}") from error
        except SafetensorError as error:
            raise BadInputError(f"`--weights` {str(path)!r} is damaged: {error}.") from error
    try:
        with path.open("rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickles that are refused a moment later
            state = torch.load(file, map_location="cpu", weights_only=True)
    except OSError as error:
        reason = told(error) if error.filename else f"{path} is damaged."
        raise BadInputError(f"`--weights` cannot be read. {reason}") from error
    except pickle.UnpicklingError as error:
        raise BadInputError(
            f"`--weights` must hold tensors and nothing else. {str(path)!r} holds other objects; "
            "none of it was executed. Save with torch.save(model.state_dict(), path)."
        ) from error
    except (RuntimeError, EOFError, ValueError, KeyError) as error:
        if _is_scripted(path):
            raise BadInputError(
                f"`--weights` must hold tensors and nothing else. {str(path)!r} is a scripted "
                "model. Save with torch.save(model.state_dict(), path)."
            ) from error
        reason = f"{type(error).__name__} {str(error).strip().partition(chr(10))[0]}".strip()
        if not path.stat().st_size:
            reason = "it is empty"
        raise BadInputError(
            f"`--weights` {str(path)!r} is damaged or no state dict: {reason}."
        ) from error
    if not isinstance(state, Mapping):
        raise BadInputError(
            f"`--weights` must hold a state dict. Got {type(state).__name__} in {str(path)!r}."
        )
    return state


def _is_scripted(path: Path) -> bool:
    """Whether it is an archive of TorchScript: code lies beside the tensors."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any("/code/" in name for name in archive.namelist())
