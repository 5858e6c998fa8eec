"""What `bench` shows a person: one table per backend, the parity verdict, and where everything lies."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from harness import tables
from harness.records.record import Record

if TYPE_CHECKING:
    from harness.parity import ParityReport

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
