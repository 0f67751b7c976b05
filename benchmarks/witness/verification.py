"""What verification makes of planted faults: small pools scored with and without, beside the truth.

    python -m benchmarks.witness.verification --out results/witness.json

A fault matters to a pool if a score is off by more than `WRONG`, in silence, with `verify=False`.
Of the pools to which it matters, counted are those for which verification raises.
"""

import argparse
import json
import sys
import tempfile
import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import planting
from benchmarks.witness.fault import Fault, makes_scores
from benchmarks.witness.fault_list import FAULTS
from benchmarks.witness.planter import copied, enter, preload
from benchmarks.witness.record import Record

WRONG = 1e-4  # relative
_SECONDS = 300  # of processor time
_WAYS: dict[str, Any] = {"none": False, "default": True, "all": "all"}

Truths = dict[str, Any]


def ways() -> dict[str, Any]:
    """Kinds of verification that this version has."""
    import fastgradnorm

    try:
        fastgradnorm.Options(verify=_WAYS["all"])
    except (TypeError, ValueError):
        return {name: value for name, value in _WAYS.items() if name != "all"}
    return _WAYS


def outcome(case: Any, exact: Truths, verify: Any) -> str:
    """`right`, `wrong`, or the name of the error."""
    import torch

    import fastgradnorm

    torch.manual_seed(0)
    model, batches = case.make()
    options = {"scheme": tuple(exact), "progress": False, "verify": verify, **case.options}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = fastgradnorm.score_pool(model, batches, **options)
    except Exception as error:  # whatever it is, the user is told
        return type(error).__name__
    for scheme, values in exact.items():
        if found[scheme].shape != values.shape:
            return "wrong"
        errors = (found[scheme].double() - values).abs() / values.abs().clamp_min(1e-30)
        if not bool((errors <= WRONG).all()):
            return "wrong"
    return "right"


def outcomes(truths: dict[str, Truths], everywhere: bool = False) -> dict[str, dict[str, str]]:
    """By way and case; unless `everywhere`, with verification where scores are wrong without."""
    from benchmarks.witness.cases import CASES

    found: dict[str, dict[str, str]] = {}
    for way, verify in ways().items():
        found[way] = {
            case.name: outcome(case, truths[case.name], verify)
            for case in CASES
            if everywhere or way == "none" or found["none"][case.name] == "wrong"
        }
    return found


def _run(fault: Fault, truths: dict[str, Truths], place: Path, report: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        enter(copied(fault, Path(folder)))
        try:
            found: dict[str, Any] = outcomes(truths)
        except ImportError as error:
            found = {"error": str(error)}
    place.write_text(json.dumps(found))
    report.write_text(json.dumps({"code": 0, "first": ""}))


def judged(found: dict[str, Any], seconds: float) -> dict[str, Any]:
    """Which pools a fault matters to, and for how many of them verification raises."""
    if "error" in found:
        return {"matters": [], "raises": [found["error"]], "seconds": seconds}
    none = found.pop("none")
    matters = [name for name, what in none.items() if what == "wrong"]
    told = [name for name, what in none.items() if what not in ("right", "wrong")]
    row: dict[str, Any] = {"matters": matters, "raises": told, "seconds": seconds}
    for way, by_case in found.items():
        row[way] = sum(by_case[name] not in ("right", "wrong") for name in matters)
    return row


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.witness.verification")
    parser.add_argument("--out", type=Path, required=True, help="results, read and written")
    parser.add_argument("--only", default="", help="faults with this in their file or text")
    parser.add_argument("--again", action="store_true", help="also those that were judged before")
    parser.add_argument("--processes", type=int, default=1)
    options = parser.parse_args(argv)
    record = Record(options.out, FAULTS)
    waiting = [
        fault
        for fault in FAULTS
        if options.only in fault.name
        and makes_scores(fault.file)
        and (options.again or not record.is_witnessed(fault))
    ]
    waiting.sort(key=record.age)
    preload()
    from benchmarks.witness.cases import CASES
    from benchmarks.witness.truth import truth

    truths = {case.name: truth(case) for case in CASES}
    with tempfile.TemporaryDirectory() as folder:
        places = [Path(folder) / f"{i}.json" for i in range(len(waiting))]
        pairs = zip(waiting, places, strict=True)
        runs = [partial(_run, fault, truths, place) for fault, place in pairs]
        for index, verdict in planting.in_forks(runs, options.processes, _SECONDS):
            if verdict.caught is None:
                print(f"{waiting[index].name}: {verdict.first_failure}", flush=True)
                continue
            died = {"error": verdict.first_failure}
            found = json.loads(places[index].read_text()) if places[index].exists() else died
            row = judged(found, verdict.seconds)
            record.witnessed(waiting[index], row)
            print(f"{waiting[index].name}: {row}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
