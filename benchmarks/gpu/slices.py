"""A part that times nothing, shared out among processes: `one(report, name)` of its module each."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.gpu.processes import Job, module, run_all
from benchmarks.gpu.report import Report


def share_out(report: Report, part: str, names: Sequence[str], at_once: int | None = None) -> None:
    """Runs every name of a part in a process of its own, and joins what each of them found.

    Args:
        report: Of the part; what a name leaves behind goes there as soon as it has ended.
        part: By its name in `PARTS`.
        names: Of what is shared out, the most telling first.
        at_once: How many processes; by default all, two in a dry run.
    """
    with tempfile.TemporaryDirectory() as folder:

        def take(job: Job) -> None:
            found = Report(job.log.with_suffix(".json"), 0, report.dry).document
            report.document["rows"] += found["rows"]
            report.document["errors"] |= found["errors"]
            report.document["left_out"] += found["left_out"]
            if job.status != 0:
                said = f"{job.told()}\n{job.output()[-3000:]}"
                report.document["errors"][f"{part}, {job.name}"] = said
            report.save()

        jobs = [_job(part, name, Path(folder), report) for name in names]
        together = 2 if report.dry else at_once or len(jobs)
        left = run_all(jobs, together, report.left - 2, report.dry, take)
    report.document["left_out"] += [job.name for job in left]
    report.save()


def _job(part: str, name: str, folder: Path, report: Report) -> Job:
    path = folder / f"{name.replace('/', '_of_')}.json"
    options = ["--only", name, "--out", str(path), "--seconds", f"{max(2.0, report.left - 8):.0f}"]
    options += ["--dry"] if report.dry else []
    command = module("benchmarks.gpu.child", part, *options)
    return Job(name, command, path.with_suffix(".log"), report.left - 2, retries=3)
