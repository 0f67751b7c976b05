"""What several commands are given: the model, the pool, how to score."""

import functools
import inspect
import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Concatenate, NamedTuple, ParamSpec

import typer
from torch import nn
from torch.utils.data import DataLoader

from fastgradnorm import LABELLED_SCHEMES, SCHEMES
from fastgradnorm.cli._failures import BadInputError, near
from fastgradnorm.cli._fitting import check_fitting
from fastgradnorm.cli._model import load_model
from fastgradnorm.cli._pool import open_pool
from fastgradnorm.cli._pretrained import picture_transform
from fastgradnorm.cli._samples import Pool
from fastgradnorm.cli._table_pool import Reading

Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="Function that makes it, package.module:function; or a folder that transformers "
        "wrote, or hf:name.",
    ),
]
PoolPath = Annotated[
    Path,
    typer.Argument(
        metavar="POOL",
        help="Folder of images; texts or numbers in .csv, .jsonl, .txt; .npy, .npz, .safetensors "
        "or .parquet.",
    ),
]
Weights = Annotated[
    Path | None,
    typer.Option(help="State dict, read as tensors only. Without: as MODEL makes them."),
]
Text = Annotated[
    str | None, typer.Option("--text", metavar="NAME", help="Column of texts, of a table.")
]
Tokenizer = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Folder or name of a tokenizer; by default MODEL's own."),
]
MaxLength = Annotated[
    int | None, typer.Option(min=1, help="Tokens of a text; by default MODEL's, at most 512.")
]
Keys = Annotated[
    list[str] | None,
    typer.Option("--key", metavar="NAME", help="Array or column to use; may be repeated."),
]
IdKey = Annotated[
    str | None, typer.Option("--ids", metavar="NAME", help="Array or column of names.")
]
ImageSize = Annotated[
    int | None, typer.Option(min=1, max=10_000, help="Resize images to squares of it.")
]
SkipBad = Annotated[
    bool,
    typer.Option(
        "--skip-bad", help="Leave out images that cannot be read, rows without a text or number."
    ),
]
EveryFrame = Annotated[
    bool,
    typer.Option("--every-frame", help="A row for each image of a file that holds several."),
]
BatchSize = Annotated[int, typer.Option(min=1, help="Samples at a time.")]
Scheme = Annotated[
    str,
    typer.Option(help=f"One of {', '.join([*SCHEMES, *LABELLED_SCHEMES])}."),
]
Loss = Annotated[
    str | None,
    typer.Option(help="cross_entropy or mse: scores by the gradient of the loss at known labels."),
]
Target = Annotated[
    str | None,
    typer.Option("--target", metavar="NAME", help="Array or column of labels."),
]
Params = Annotated[
    str,
    typer.Option(
        help="Gradient over: all, last_layer, or a regular expression on parameters' names."
    ),
]
Rtol = Annotated[
    float,
    typer.Option(min=0, help="Relative standard error to accept; 0 is exact."),
]
ClassDim = Annotated[int, typer.Option(help="Dimension of the classes in the model's output.")]
Likelihood = Annotated[
    str,
    typer.Option(help="What logits are of: categorical, or bernoulli: each a label of its own."),
]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, ...; where the model is by default.")]


P = ParamSpec("P")
_LOSSES = ("cross_entropy", "mse")


class Given(NamedTuple):
    """A model and a pool, opened, and how to score them.

    Attributes:
        model: What scores.
        origin: Where it comes from, in words.
        pool: What is scored.
        options: Of the scorer.
        batch_size: Samples at a time.
        opening: How the pool was opened.
    """

    model: Any
    origin: str
    pool: Pool
    options: dict[str, Any]
    batch_size: int
    opening: dict[str, Any]

    def loader(self, workers: int = 0) -> "DataLoader[Any]":
        """Batches of the pool, in order."""
        return DataLoader(self.pool.dataset, self.batch_size, num_workers=workers)


def opened(
    command: Callable[Concatenate[Given, P], None], without: Sequence[str] = (), **defaults: Any
) -> Callable[..., None]:
    """Gives a command the arguments and options of `open_all`, and hands it what that opens.

    Args:
        command: What is run.
        without: Options of `open_all` that it has not.
        defaults: Of options, where they are not those of `open_all`.
    """
    shared = [
        p.replace(default=defaults[p.name]) if p.name in defaults else p
        for p in inspect.signature(open_all).parameters.values()
        if p.name not in without
    ]
    own = list(inspect.signature(command).parameters.values())[1:]

    @functools.wraps(command)
    def call(**values: Any) -> None:
        given = open_all(**{p.name: values.pop(p.name) for p in shared})
        command(given, **values)  # type: ignore[call-arg]

    parameters = sorted([*shared, *own], key=lambda p: p.default is not p.empty)
    call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    call.__annotations__ = {p.name: p.annotation for p in (*shared, *own)}
    return call


def open_all(
    model: Model,
    pool: PoolPath,
    weights: Weights = None,
    scheme: Scheme = "expected",
    loss: Loss = None,
    target: Target = None,
    params: Params = "all",
    rtol: Rtol = 0.0,
    class_dim: ClassDim = 1,
    likelihood: Likelihood = "auto",
    device: Device = None,
    key: Keys = None,
    ids: IdKey = None,
    image_size: ImageSize = None,
    skip_bad: SkipBad = False,
    every_frame: EveryFrame = False,
    text: Text = None,
    tokenizer: Tokenizer = None,
    max_length: MaxLength = None,
    batch_size: BatchSize = 32,
) -> Given:
    """Opens the model and the pool; checks what was said of them.

    Raises:
        BadInputError: If something cannot be used.
    """
    names = (*SCHEMES, *LABELLED_SCHEMES)
    if scheme not in names:
        raise BadInputError(
            f"`--scheme` must be one of {', '.join(names)}. Got {scheme!r}.{near(scheme, names)}"
        )
    scheme = _labelled(scheme, loss, target)
    files = {"--key": key, "--ids": ids, "--image-size": image_size, "--every-frame": every_frame}
    texts = {"--text": text, "--tokenizer": tokenizer, "--max-length": max_length}
    check_fitting(pool, files | texts)
    loaded = load_model(model, weights)
    if device is not None:
        try:
            loaded.model.to(device)
        except (RuntimeError, AssertionError) as error:
            reason = str(error).partition("\n")[0]
            raise BadInputError(
                f"`--device` must be usable here. Got {device!r}: {reason.rstrip('.')}. Leave it "
                "out to use what there is."
            ) from error
    transform = loaded.transform
    if loaded.pretrained:
        tokenizer = tokenizer or model
        transform = picture_transform(model) if pool.is_dir() else None
    opening: dict[str, Any] = {
        "keys": key or (),
        "id_key": ids,
        "target": target,
        "transform": transform,
        "image_size": image_size,
        "skip_bad": skip_bad,
        "every_frame": every_frame,
        "reading": Reading(loaded.model, text, tokenizer, loaded.transform, max_length),
    }
    found = open_pool(pool, **opening)
    for reason in found.left_out:
        typer.echo(f"left out: {reason}", err=True)
    options = {
        "scheme": scheme,
        "params": _parameters(params, loaded.model),
        "rtol": rtol,
        "class_dim": class_dim,
        "likelihood": likelihood,
        "loss": loss,
    }
    made = "its own weights" if loaded.pretrained else "weights as it makes them"
    origin = f"{model}, {f'weights of {weights}' if weights else made}"
    return Given(loaded.model, origin, found, options, batch_size, opening)


def repeated(pool: Pool) -> str:
    """Names that several samples have, by which nobody can tell which is meant; or nothing."""
    counts = Counter(map(str, pool.ids))
    name, most = next(iter(counts.most_common(1)), ("", 0))
    if most < 2:
        return ""
    several = sum(count > 1 for count in counts.values())
    stand = "name stands" if several == 1 else "names stand"
    return f"{several} {stand} more than once, such as {name!r} {most} times"


def _labelled(scheme: str, loss: str | None, target: str | None) -> str:
    """The scheme, which a loss implies; labels are there where they are needed."""
    if loss is not None and loss not in _LOSSES:
        raise BadInputError(f"`--loss` must be one of {', '.join(_LOSSES)}. Got {loss!r}.")
    scheme = "loss" if loss is not None and scheme == "expected" else scheme
    if scheme == "loss" and loss is None:
        raise BadInputError("`--scheme loss` needs a `--loss`: cross_entropy or mse.")
    if loss is not None and scheme != "loss":
        raise BadInputError(f"`--loss` must go with `--scheme loss`. Got --scheme {scheme}.")
    if (scheme in LABELLED_SCHEMES) != (target is not None):
        needed = "needs" if target is None else "reads no"
        raise BadInputError(f"`--scheme {scheme}` {needed} labels: `--target NAME`.")
    return scheme


def _parameters(params: str, model: nn.Module) -> Any:
    if params in ("all", "last_layer"):
        return params
    try:
        pattern = re.compile(params)
    except re.error as error:
        raise BadInputError(
            f"`--params` must be all, last_layer or a regular expression. Got {params!r}: {error}."
        ) from error
    names = [name for name, _ in model.named_parameters()]
    if not any(map(pattern.search, names)):
        meant = near(params, ("all", "last_layer")) or f" The model has {', '.join(names[:5])}, ..."
        raise BadInputError(
            "`--params` must be all, last_layer or a regular expression that finds parameters. Got "
            f"{params!r}.{meant}"
        )
    return lambda name, parameter: pattern.search(name) is not None
