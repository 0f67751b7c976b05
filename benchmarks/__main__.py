"""`python -m benchmarks`: tables in the terminal, figures and provenance in `results/`."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks import tables, timing
from benchmarks.cases import CASES


def _throughput(arguments: argparse.Namespace, name: str = "throughput") -> int:
    from benchmarks import plots, throughput

    rows: list[dict[str, Any]] = []
    for case in arguments.case or CASES:
        for classes in arguments.classes:
            samples = throughput.samples_for(CASES[case], classes, arguments.quick)
            setting = throughput.Setting(
                CASES[case], classes, arguments.batch or samples, arguments.device
            )
            budget = 5.0 if arguments.quick else arguments.seconds
            rounds = 3 if arguments.quick else 15
            found = throughput.measure(setting, rounds, budget, arguments.peers)
            print(tables.terminal(found), end="\n\n", flush=True)
            rows += found
    if not arguments.no_store and not arguments.quick:
        done = {(row["case"], row["classes"]) for row in rows}
        kept = (timing.load(name) or {"rows": []})["rows"] if arguments.case else []
        others = [row for row in kept if (row["case"], row["classes"]) not in done]
        results = {"provenance": timing.provenance(arguments.device), "rows": others + rows}
        path = timing.store(name, results)
        picture = plots.throughput(results, path.with_suffix(".png"))
        print(f"written: {path}, {picture}")
    wrong = [row for row in rows if row.get("reason", "").startswith("wrong") and _is_ours(row)]
    return int(bool(wrong))


def _is_ours(row: dict[str, Any]) -> bool:
    from benchmarks.throughput import OURS

    return row["column"] in OURS or row["column"].startswith("naive")


def _traps(arguments: argparse.Namespace) -> int:
    from benchmarks import traps

    return traps.main(store=not arguments.no_store)


def _memory(arguments: argparse.Namespace) -> int:
    from benchmarks import memory

    return memory.main(arguments.batch or 8, arguments.length, store=not arguments.no_store)


def _rtol(arguments: argparse.Namespace) -> int:
    from benchmarks import rtol

    return rtol.main(store=not arguments.no_store)


def _gpu(arguments: argparse.Namespace) -> int:
    if not torch.cuda.is_available():
        print("`gpu` needs a CUDA device; PyTorch sees none on this machine.", file=sys.stderr)
        return 2
    try:
        from benchmarks.kernels import gpu
    except ImportError as error:
        print(f"benchmarks/kernels/gpu.py cannot be imported: {error}", file=sys.stderr)
        return 2
    failed = gpu.main(arguments.rest)
    shown = argparse.Namespace(
        case=None, classes=[10], quick=False, peers=False, batch=256, device="cuda",
        seconds=20.0, no_store=False,
    )  # fmt: skip
    return int(bool(failed)) or _throughput(shown, "throughput_cuda")


def _readme(arguments: argparse.Namespace) -> int:
    return tables.update(arguments.file)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)

    def command(name: str, run: Any, text: str) -> argparse.ArgumentParser:
        found = commands.add_parser(name, help=text, description=text)
        found.set_defaults(run=run)
        found.add_argument("--threads", type=int, help="default: all cores")
        found.add_argument("--no-store", action="store_true", help="leave results/ as it is")
        return found

    found = command("throughput", _throughput, "samples a second, beside the loop and the floor")
    found.add_argument("--case", action="append", choices=CASES, help="may be given repeatedly")
    found.add_argument("--classes", type=int, nargs="+", default=[10], help="default: 10")
    found.add_argument("--batch", type=int, help="samples at a time")
    found.add_argument("--device", default="cpu")
    found.add_argument("--seconds", type=float, default=40.0, help="of timing a case; default: 40")
    found.add_argument(
        "--quick", action="store_true", help="small batches, three rounds, nothing stored"
    )
    found.add_argument("--peers", action="store_true", help="other packages' columns too")
    command("traps", _traps, "models that engines get wrong, through each of them")
    found = command("memory", _memory, "peak memory of a long encoder beside a training step")
    found.add_argument("--batch", type=int, help="samples at a time; default: 8")
    found.add_argument("--length", type=int, default=512, help="tokens; default: 512")
    command("rtol", _rtol, "scores to a relative standard error beside exact ones")
    found = command("gpu", _gpu, "the kernels and the throughput on a CUDA device")
    found.add_argument("rest", nargs=argparse.REMAINDER, help="for benchmarks.kernels.gpu")
    found = command("readme", _readme, "writes the README's tables from results/")
    found.add_argument("--file", type=Path, default=Path(__file__).parents[1] / "README.md")
    return parser


def _check(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
    if arguments.threads is not None and arguments.threads < 1:
        parser.error(f"--threads must be at least 1. Got {arguments.threads}.")
    if any(classes < 2 for classes in getattr(arguments, "classes", [])):
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
    torch.set_num_threads(arguments.threads or os.cpu_count() or 1)
    return int(arguments.run(arguments))


if __name__ == "__main__":
    sys.exit(main())
