"""`python -m benchmarks`: tables in the terminal, figures and provenance in `results/`."""

import argparse
import importlib
import os
import sys
import tempfile
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import torch

from benchmarks import memory, peers, readme, scaling, throughput, verification
from benchmarks.cases import CASES
from benchmarks.label_efficiency import command as label_efficiency
from benchmarks.provenance import RESULTS
from benchmarks.throughput import Effort

Arguments = argparse.Namespace
_LIBRARIES = ("timm", "transformers")
_AGAIN = {
    "attribution": "packages for influence beside ours",
    "gradients": "products, sketches beside training steps",
    "recipes": "wrong labels, pruning, influence: of digits",
}
_NAMES = "README docs/any-model docs/attribution docs/benchmarks docs/experiments docs/recipes"
_PAGES = [Path(__file__).parents[1] / f"{name}.md" for name in _NAMES.split()]


def _folder(arguments: Arguments) -> Path | None:
    """Where results go; a tiny run is no measurement and never replaces one."""
    if arguments.no_store or (arguments.tiny and arguments.out == RESULTS):
        return None
    return Path(arguments.out)


def _either(module: str) -> Callable[[Arguments], int]:
    """`main` of a module, or its `tiny`."""

    def run(arguments: Arguments) -> int:
        found = importlib.import_module(f"benchmarks.{module}")
        if arguments.tiny:
            return int(found.tiny(_folder(arguments)))
        again = {"again": arguments.again} if "again" in arguments else {}
        return int(found.main(_folder(arguments), **again))

    return run


def _throughput(arguments: Arguments) -> int:
    folder = _folder(arguments)
    if arguments.tiny:
        return throughput.tiny(folder)
    cells = throughput.grid(arguments.case, arguments.classes)
    chosen = arguments.case is not None or arguments.classes is not None
    cuda = arguments.device.startswith("cuda")
    return throughput.main(
        cells,
        Effort(seconds=arguments.seconds, swept=min(arguments.seconds, 10.0), cap=arguments.cap),
        batch=arguments.batch,
        device=arguments.device,
        name="throughput_cuda" if cuda else "throughput",
        folder=folder,
        keep=chosen,
    )


def _peers(arguments: Arguments) -> int:
    if arguments.tiny:
        return peers.tiny(_folder(arguments))
    cases = [CASES[name] for name in arguments.case] if arguments.case else None
    effort = Effort(rounds=peers.FULL.rounds, seconds=arguments.seconds)
    return peers.main(cases, effort, batch=arguments.batch, folder=_folder(arguments))


def _memory(arguments: Arguments) -> int:
    if arguments.tiny:
        return memory.tiny(_folder(arguments))
    found = memory.subjects(arguments.batch or 32, arguments.texts, arguments.length)
    return memory.main(found, _folder(arguments))


def _scaling(arguments: Arguments) -> int:
    return (scaling.tiny if arguments.tiny else scaling.main)(folder=_folder(arguments))


def _traps(arguments: Arguments) -> int:
    from benchmarks import traps

    return traps.main(_folder(arguments), fewer=arguments.tiny)


def _zoo(arguments: Arguments) -> int:
    from benchmarks.zoo import command

    if arguments.threads is None:
        torch.set_num_threads(1)  # its models are small, and the process forks
    return command.main(
        _folder(arguments),
        libraries=arguments.libraries,
        only=arguments.only,
        again=arguments.again,
        fewer=arguments.tiny,
    )


def _fuzz(arguments: Arguments) -> int:
    from benchmarks import fuzz

    if arguments.threads is None:
        torch.set_num_threads(1)  # its models are tiny
    return fuzz.main(_folder(arguments), count=10 if arguments.tiny else arguments.count)


def _small_text(arguments: Arguments) -> int:
    from benchmarks import small_text

    return small_text.main(arguments.classes, arguments.rounds, _folder(arguments))


def _interruptions(arguments: Arguments) -> int:
    from benchmarks import interruptions

    sizes = interruptions.LEAST if arguments.tiny else interruptions.FULL
    return interruptions.main(sizes, _folder(arguments))


def _gpu(arguments: Arguments) -> int:
    from benchmarks.gpu import command

    dry = arguments.dry or arguments.tiny
    folder: Path = arguments.out
    if folder == RESULTS:
        folder = Path(tempfile.mkdtemp()) if dry or arguments.no_store else command.FOLDER
    return command.main(arguments.parts, arguments.seconds, folder, dry)


def _bounds(arguments: Arguments) -> int:
    from benchmarks import bounds

    return bounds.main(_folder(arguments), arguments.tiny)


def _witness(arguments: Arguments) -> int:
    from benchmarks.witness import command

    chosen = arguments.only, arguments.stages, arguments.processes
    return command.main(_folder(arguments), *chosen, tiny=arguments.tiny)


def _verification(arguments: Arguments) -> int:
    cell = ((130,), "cnn6") if arguments.tiny else (verification.SIZES, "resnet18")
    return verification.main(_folder(arguments), *cell)


def _real_sizes(arguments: Arguments) -> int:
    from benchmarks import real_sizes

    if arguments.tiny:
        return real_sizes.tiny(_folder(arguments))
    chosen = arguments.case, arguments.classes, arguments.seconds, arguments.batch
    return real_sizes.main(*chosen, _folder(arguments))


def _launches(arguments: Arguments) -> int:
    from benchmarks import launches

    models = ["resnet18"] if arguments.tiny else [*launches.MODELS]
    return launches.main(_folder(arguments), models)


def _parts(text: str) -> list[str]:
    """Names of parts, by commas."""
    from benchmarks.gpu.parts import PARTS

    found = text.split(",")
    unknown = [name for name in found if name not in PARTS]
    if unknown:
        raise argparse.ArgumentTypeError(f"must be of {', '.join(PARTS)}. Got {unknown}.")
    return found


def _readme(arguments: Arguments) -> int:
    return readme.update(arguments.file, arguments.out)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)

    def command(name: str, run: Callable[[Arguments], int], text: str) -> argparse.ArgumentParser:
        found = commands.add_parser(name, help=text, description=text)
        found.set_defaults(run=run)
        found.add_argument("--threads", type=int, help="default: all cores")
        found.add_argument("--no-store", action="store_true", help="write no results")
        found.add_argument("--out", type=Path, default=RESULTS, help="where results are")
        found.add_argument("--tiny", action="store_true", help="in seconds; stored with --out only")
        return found

    found = command("throughput", _throughput, "samples a second, beside the loop and the floor")
    _add_cases(found, Effort().seconds)
    found.add_argument("--classes", type=int, nargs="+", help="default: 10, some cases 2 to 1000")
    found.add_argument("--device", default="cpu")
    found.add_argument("--cap", type=float, default=Effort().cap, help="seconds a run")
    found = command("peers", _peers, "other packages' per-sample gradients, on the same job")
    _add_cases(found, peers.FULL.seconds)
    found = command("memory", _memory, "peak memory beside training and vmap(grad)")
    found.add_argument("--batch", type=int, help="images at a time; default: 32")
    found.add_argument("--texts", type=int, default=8, help="texts at a time; default: 8")
    found.add_argument("--length", type=int, default=512, help="tokens; default: 512")
    command("scaling", _scaling, "cost a sample as pools, classes and batches grow")
    command("traps", _traps, "models that engines get wrong, through each of them")
    found = command("zoo", _zoo, "a small model of each family of timm and transformers")
    found.add_argument("--libraries", nargs="+", choices=_LIBRARIES, default=_LIBRARIES)
    for name, what in (("--only", "families, by name"), ("--again", "outcomes")):
        found.add_argument(name, nargs="+", default=(), help=f"{what}, judged again")
    drawn = command("fuzz", _fuzz, "models drawn at random, beside the float64 loop")
    drawn.add_argument("--count", type=int, default=2000, help="of models; default: 2000")
    found = command("small-text", _small_text, "the drop-in for small-text's own strategy")
    found.add_argument("--classes", type=int, nargs="+", default=[10, 50], help="default: 10 50")
    found.add_argument("--rounds", type=int, default=1, help="of small-text's own; default: 1")
    command("interruptions", _interruptions, "a long run killed at random, and gone on with")
    command("rtol", _either("rtol"), "scores to a relative standard error beside exact ones")
    found = command("gpu", _gpu, "what is to be known of a CUDA device, in eight minutes")
    found.add_argument("--parts", type=_parts, help="by commas; default: all, most telling first")
    found.add_argument("--seconds", type=float, default=450.0, help="in all; default: 450")
    found.add_argument("--dry", action="store_true", help="tiny shapes, on the CPU")
    command("bounds", _bounds, "what an H100 could do at best, by counting")
    _add_stages(command("witness", _witness, "planted faults: which tests and verification see"))
    command("batch-sizes", _either("batch_sizes"), "what a loader's batch size costs")
    command("verification", _verification, "what verification costs of scoring a pool")
    command("bfloat16", _either("bfloat16"), "scores in bfloat16 beside float32: time and order")
    command("recurrent", _either("recurrent"), "LSTMs, GRUs and RNNs beside loop, step, pull-backs")
    for name, text in _AGAIN.items():
        found = command(name, _either(f"{name}.command"), text)
        found.add_argument("--again", nargs="+", default=(), help="measured anew")
    command("acquire", _either("acquire"), "100 of 100,000 images chosen: seconds and memory")
    found = command("real-sizes", _real_sizes, "models as large as people use them")
    _add_cases(found, 30.0, None)
    found.add_argument("--classes", type=int, nargs="+", help="default: 10")
    command("launches", _launches, "what a pass starts on a GPU, counted on one that is not there")
    what = "accuracy by labels, strategy and task"
    label_efficiency.add_arguments(command("label-efficiency", label_efficiency.main, what))
    found = command("readme", _readme, "writes the tables of README and docs from results/")
    found.add_argument("--file", type=Path, nargs="+", default=_PAGES)
    return parser


def _add_cases(
    parser: argparse.ArgumentParser, seconds: float, choices: Collection[str] | None = CASES
) -> None:
    parser.add_argument("--case", action="append", choices=choices, help="may be given repeatedly")
    parser.add_argument("--batch", type=int, help="samples at a time")
    parser.add_argument(
        "--seconds", type=float, default=seconds, help=f"of timing a case; default: {seconds:g}"
    )


def _add_stages(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--only", default="", help="faults with this in their file or text")
    parser.add_argument(
        "--stages", nargs="+", choices=("quick", "slow", "whole"), default=["quick", "slow"],
        help="tests to run, each for what those before have missed; default: quick slow",
    )  # fmt: skip
    parser.add_argument("--processes", type=int, default=1, help="faults at a time; default: 1")


def _check(parser: argparse.ArgumentParser, arguments: Arguments) -> None:
    if arguments.threads is not None and arguments.threads < 1:
        parser.error(f"--threads must be at least 1. Got {arguments.threads}.")
    if any(classes < 2 for classes in getattr(arguments, "classes", None) or []):
        parser.error(f"--classes must be at least 2 each. Got {arguments.classes}.")
    batch = getattr(arguments, "batch", None)
    if batch is not None and batch < 2:
        parser.error(f"--batch must be at least 2. Got {batch}.")
    device = getattr(arguments, "device", "cpu")
    if device != "cpu" and not (device.startswith("cuda") and torch.cuda.is_available()):
        parser.error(f"--device must be usable on this machine: cpu, or cuda. Got {device!r}.")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; its exit status."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    _check(parser, arguments)
    tiny = arguments.tiny or getattr(arguments, "dry", False)
    measures = arguments.command not in ("readme", "witness") and not tiny
    if measures or arguments.threads is not None:
        torch.set_num_threads(arguments.threads or os.cpu_count() or 1)
    return int(arguments.run(arguments))


if __name__ == "__main__":
    sys.exit(main())
