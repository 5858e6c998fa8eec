"""Run the cases of a command, show them, say whether their backends agree, and give the exit code."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness import tables
from harness.records.record import Record

if TYPE_CHECKING:
    from harness.parity import ParityReport

if TYPE_CHECKING:
    from harness.parity import ParityReport
    from harness.records.record import Record
    from harness.run.job import Job
    from harness.run.plan import Plan

EXIT = {"passed": 0, "failed": 1, "not measured": 3}


def say_on_stderr(line: str) -> None:
    """For what is not the result."""
    print(line, file=sys.stderr, flush=True)


def run_jobs(jobs: Sequence[Job], options: argparse.Namespace) -> int:
    """Run cases that are ready.

    Raises:
        UsageError: this machine has fewer cores than they ask for.
    """
    from harness.run import plan as plan_module

    plan_module.require_cores(max(job.case.threads for job in jobs))
    plan = plan_module.planned(jobs, options.out, force=options.force)
    return run(plan, options, [job.case.backend for job in jobs])


def run(plan: Plan, options: argparse.Namespace, backends: Sequence[str]) -> int:
    """Run what is left of a plan and conclude; the verdict of `backends`, in this order."""
    from harness.run import plan as plan_module

    if plan.finished and not options.json:
        print(
            f"{len(plan.finished)} of {len(plan.finished) + len(plan.jobs)} cases were measured before (--force again)"
        )
    for line in _elsewhere(plan.finished):
        say_on_stderr(line)
    try:
        records = plan_module.run(
            plan, timeout=options.timeout, report=say_case if not options.json else say_failure
        )
    except plan_module.Interrupted as stop:
        print(stop, file=sys.stderr)
        return 130
    in_order = sorted(records, key=lambda item: backends.index(item.case.backend))
    return conclude(records, list(dict.fromkeys(item.case.runner for item in in_order)), options)


def _elsewhere(finished: Sequence[Record]) -> list[str]:
    """Of cases that another machine measured: which, for their times are not of this one."""
    from harness import machine

    here = machine.describe()
    return [
        f"{item.case.runner} {item.case.category} was measured on {item.host.name} ({item.host.processor}), {item.finished[:16]}Z; "
        "measure it here into another --out folder, or with --force in its place"
        for item in finished
        if machine.apart(item.host, here)
    ]


def conclude(
    records: Sequence[Record],
    backends: Sequence[str],
    options: argparse.Namespace,
    *,
    failures: Mapping[str, str] = {},
) -> int:
    """Show what was measured and whether the backends agree, and give the exit code.

    `failures` say of a category why it has no records.
    """
    import msgspec

    variants = tuple(dict.fromkeys(getattr(options, "variant", None) or ()))  # of `bench` alone
    report = _parity_of(records, backends, variants, options.out)
    if options.json:
        document: dict[str, Any] = {"records": [msgspec.to_builtins(item) for item in records]}
        document |= {"parity": report.to_json()} if report is not None else {}
        document |= {"failures": failures} if failures else {}
        print(json.dumps(document, allow_nan=False))
    elif records:
        show(records, report, out=options.out)
    for category, reason in failures.items():
        print(f"failed: {category}: {reason}", file=sys.stderr)
    incomplete = any(item.status != "measured" or item.undefined for item in records)
    unmeasured = 3 if incomplete or failures else 0
    return _worst(unmeasured, 0 if report is None else EXIT[report.verdict])


def _worst(*codes: int) -> int:
    return 1 if 1 in codes else max(codes)


def say_case(record: Record) -> None:
    """How a case ended."""
    case = record.case
    outcome = "measured" if record.status == "measured" else f"{record.status}: {record.reason}"
    print(f"{case.runner} {case.category}: {outcome}", file=sys.stderr, flush=True)


def say_failure(record: Record) -> None:
    """Only of a case that was not measured."""
    if record.status != "measured":
        say_case(record)


def _parity_of(
    records: Sequence[Record], backends: Sequence[str], variants: Sequence[str], out: Path
) -> ParityReport | None:
    """Parity of the records just made, with the first of several variants; none without two sides."""
    from harness import parity, registry

    if len(backends) * max(1, len(variants)) < 2 or not records:
        return None
    ran = {item.case.runner: _backend_of(item) for item in records}
    trained_with = [name for name in backends if ran[name].startswith(("mindspore", "ascend910"))]
    simulated = {item.case.runner for item in records if item.device and item.device.simulated}
    real = [name for name in backends if name not in simulated]
    exact = [name for name in real if ran[name] not in registry.LOWER_PRECISION]
    reference = (trained_with or exact or real or backends)[0]
    if len(variants) > 1:
        reference = f"{reference}:{variants[0]}"
    return parity.parity(out, reference=reference, records=tuple(records))


def _backend_of(item: Record) -> str:
    """What ran the network; of a replay, what had run it."""
    played = item.source.made_by if item.source is not None and item.source.record_sha256 else None
    return played or item.case.backend


LEGEND = """
AUROC and AUPRO: 1 is perfect, an AUROC of 0.5 is chance; image: good or defective, pixel: where.
p50, p90, p99: percentiles of the time per image. Parity: whether the backends give the reference's
scores, maps and decisions."""


_COLOURS = {"passed": "bold green", "failed": "bold red", "not measured": "bold yellow"}


def show(records: Sequence[Record], report: ParityReport | None, *, out: Path) -> None:
    """Print tables, verdict and next steps on standard output."""
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False, soft_wrap=True)
    for table in tables.tables(records):
        console.print()
        title, *rest = tables.render([table], "terminal").splitlines()
        console.print(Text(title, style="bold"))
        console.print(Text("\n".join(rest)))
        if table.weights == "random":
            console.print(
                Text(
                    "backbone untrained: these figures show that the road works, not how good "
                    f"{table.detector} is"
                )
            )
    for line in _notes(records):
        console.print(Text(line, style="bold yellow"))
    console.print()
    if report is not None:
        from harness import parity

        *rest, last = parity.lines(report)
        console.print(Text("\n".join(rest)))
        console.print(Text(last, style=_COLOURS[report.verdict]))
    console.print(Text(LEGEND, style="dim"))
    console.print(
        Text(
            f"records and evidence: {out}   tables again: python -m harness tables --results {shlex.quote(str(out))}"
        )
    )


def _notes(records: Sequence[Record]) -> list[str]:
    """What a table cannot show of records whose numbers say less than they seem to."""
    return [
        f"{item.case.runner} {item.case.category}: all {len(item.images)} scores are {item.images[0].score:g}: nothing is "
        "told apart, and an AUROC of 0.5 means no more than that"
        for item in records
        if len(item.images) > 1 and len({image.score for image in item.images}) == 1
    ]
