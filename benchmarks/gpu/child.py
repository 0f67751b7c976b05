"""One part, in a process of its own: `python -m benchmarks.gpu.child engine --out FILE`."""

import argparse
import sys
from pathlib import Path

from benchmarks.gpu.report import Report


def main(argv: list[str] | None = None) -> int:
    """Runs one part; its rows are in the file even where it is cut off."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.child")
    parser.add_argument("part")
    parser.add_argument("--only", help="of what there is, this one")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--dry", action="store_true")
    options = parser.parse_args(argv)
    report = Report(options.out, options.seconds, options.dry)
    report.save()
    if options.dry:
        from tests.support.interpreter import search_once_a_launch

        search_once_a_launch()
    if options.part == "warm":
        from benchmarks.gpu import warm

        warm.one(report, options.only)
    else:
        from benchmarks.gpu.parts import PARTS

        part = PARTS[options.part].module
        if options.only is None:
            part.run(report)
        else:
            part.one(report, options.only)
    report.save()
    return 0


if __name__ == "__main__":
    sys.exit(main())
