"""Run a command's cases, print the tables and whether the backends agree, and return the exit code."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from harness.parity import ParityReport
    from harness.records.record import Record
    from harness.run.job import Job
    from harness.run.options import RunOptions
    from harness.run.plan import Plan

EXIT = {"passed": 0, "failed": 1, "not measured": 3}
"""Verdict → exit code."""
LEGEND = """
AUROC and AUPRO: 1 is perfect, an AUROC of 0.5 is chance; image: good or defective, pixel: where.
p50, p90, p99: percentiles of the time per image. Parity: whether the backends give the reference's
scores, maps and decisions."""
_COLOURS = {"passed": "bold green", "failed": "bold red", "not measured": "bold yellow"}


def run_options(options: argparse.Namespace) -> RunOptions:
    """The options that a command has for its cases; defaults for the others."""
    from harness import machine
    from harness.run.options import RunOptions

    names = ("batch_size", "warmup", "timeout", "mask_threshold", "mask_resize", "force")
    values = {name: getattr(options, name, None) for name in names}
    return RunOptions(
        threads=options.threads or machine.usable_cores(),
        **{name: value for name, value in values.items() if value is not None},
    )


def run_jobs(jobs: Sequence[Job], options: argparse.Namespace) -> int:
    """Run prepared cases.

    Raises:
        UsageError: they need more cores than are usable.
    """
    from harness.run.plan import planned, require_cores

    require_cores(max(job.case.threads for job in jobs))
    plan = planned(jobs, options.out, force=options.force)
    return run(plan, options, [job.case.backend for job in jobs])


def run(
    plan: Plan, options: argparse.Namespace, backends: Sequence[str], *, variants: Sequence[str] = ()
) -> int:
    """Run the unfinished cases of a plan and conclude; the verdict compares `backends` in this order."""
    from harness.progress import progress
    from harness.run import plan as planning

    if plan.finished and not options.json:
        total = len(plan.finished) + len(plan.jobs)
        print(f"{len(plan.finished)} of {total} cases were measured before (--force again)")
    for line in _elsewhere(plan.finished):
        say_on_stderr(line)
    report = say_failure if options.json else say_case
    records = planning.run(plan, timeout=options.timeout, report=report, progress=progress)
    in_order = sorted(records, key=lambda record: backends.index(record.case.backend))
    runners = list(dict.fromkeys(record.case.runner for record in in_order))
    return conclude(records, runners, options, variants=variants)


def conclude(
    records: Sequence[Record],
    backends: Sequence[str],
    options: argparse.Namespace,
    *,
    variants: Sequence[str] = (),
    failures: Mapping[str, str] = {},
) -> int:
    """Print the records and whether the backends agree, and return the exit code.

    Args:
        records: Of all cases, measured before or now.
        backends: Their runners, in the order in which a reference is looked for.
        options: Of the command; `json` and `out` are read.
        variants: The requested variants; the others are compared with the first.
        failures: Category → why it has no records.
    """
    report = _parity_of(records, backends, variants, options.out)
    if options.json:
        import msgspec

        document: dict[str, Any] = {"records": [msgspec.to_builtins(record) for record in records]}
        document |= {"parity": report.to_json()} if report is not None else {}
        document |= {"failures": failures} if failures else {}
        print(json.dumps(document, allow_nan=False))
    elif records:
        _show(records, report, out=options.out)
    for category, reason in failures.items():
        print(f"failed: {category}: {reason}", file=sys.stderr)
    incomplete = any(record.status != "measured" or record.undefined for record in records)
    unmeasured = 3 if incomplete or failures else 0
    return _worst(unmeasured, 0 if report is None else EXIT[report.verdict])


def say_on_stderr(line: str) -> None:
    """Print what is not the result."""
    print(line, file=sys.stderr, flush=True)


def say_case(record: Record) -> None:
    """Print how a case ended."""
    outcome = "measured" if record.status == "measured" else f"{record.status}: {record.reason}"
    say_on_stderr(f"{record.case.runner} {record.case.category}: {outcome}")


def say_failure(record: Record) -> None:
    """Print how a case ended, only if it was not measured."""
    if record.status != "measured":
        say_case(record)


def _elsewhere(finished: Sequence[Record]) -> list[str]:
    """A line for each case that another machine measured: its times are not of this machine."""
    from harness import machine

    here = machine.describe()
    return [
        f"{record.case.runner} {record.case.category} was measured on {record.host.name} ({record.host.processor}), "
        f"{record.finished[:16]}Z; measure it here into another --out folder, or replace it with --force"
        for record in finished
        if machine.apart(record.host, here)
    ]


def _worst(*codes: int) -> int:
    return 1 if 1 in codes else max(codes)


def _parity_of(
    records: Sequence[Record], backends: Sequence[str], variants: Sequence[str], out: Path
) -> ParityReport | None:
    """Parity of these records, compared with the first of several variants; `None` if there is only one side.

    The reference is a backend of the framework that trained the detector, else an exact one, else a real one.
    """
    if len(backends) * max(1, len(variants)) < 2 or not records:
        return None
    from harness import parity, registry

    ran = {record.case.runner: _network_runner(record) for record in records}
    trained_with = [name for name in backends if ran[name].startswith(("mindspore", "ascend910"))]
    simulated = {record.case.runner for record in records if record.device and record.device.simulated}
    real = [name for name in backends if name not in simulated]
    exact = [name for name in real if ran[name] not in registry.REDUCED_PRECISION]
    reference = (trained_with or exact or real or backends)[0]
    if len(variants) > 1:
        reference = f"{reference}:{variants[0]}"
    return parity.parity(out, reference=reference, records=tuple(records))


def _network_runner(record: Record) -> str:
    """The backend that ran the network; for a replay, the one that saved the outputs."""
    replayed = record.source.made_by if record.source is not None and record.source.record_sha256 else None
    return replayed or record.case.backend


def _show(records: Sequence[Record], report: ParityReport | None, *, out: Path) -> None:
    """Print tables, verdict and next steps on standard output."""
    from rich.console import Console
    from rich.text import Text

    from harness import parity, tables

    console = Console(highlight=False, soft_wrap=True)
    for table in tables.tables(records):
        console.print()
        title, *rest = tables.render([table], "terminal").splitlines()
        console.print(Text(title, style="bold"))
        console.print(Text("\n".join(rest)))
        if table.weights == "random":
            console.print(
                Text(
                    "backbone untrained: these numbers show that the pipeline works, not how good "
                    f"{table.detector} is"
                )
            )
    for line in _constant_scores(records):
        console.print(Text(line, style="bold yellow"))
    console.print()
    if report is not None:
        *rest, last = parity.lines(report)
        console.print(Text("\n".join(rest)))
        console.print(Text(last, style=_COLOURS[report.verdict]))
    console.print(Text(LEGEND, style="dim"))
    again = f"python -m harness tables --results {shlex.quote(str(out))}"
    console.print(Text(f"records and evidence: {out}   tables again: {again}"))


def _constant_scores(records: Sequence[Record]) -> list[str]:
    """A line for each record whose scores are all equal, which its table does not show."""
    return [
        f"{record.case.runner} {record.case.category}: all {len(record.images)} scores are {record.images[0].score:g}: the "
        "detector distinguishes nothing, and its AUROC of 0.5 means only that"
        for record in records
        if len(record.images) > 1 and len({image.score for image in record.images}) == 1
    ]
