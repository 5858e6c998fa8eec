"""`tables`: records side by side."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.cli.arguments import path
from harness.errors import UsageError

if TYPE_CHECKING:
    from harness.records.record import Record
    from harness.tables import Block, Format, Front, Pivot, Table


def add(commands: Any) -> None:
    """Add the parser of this command."""
    tables = commands.add_parser("tables", help="print tables from records")
    tables.add_argument("--results", type=path, default=Path("results"), metavar="DIR", help="(%(default)s)")
    tables.add_argument("--format", choices=("terminal", "md", "csv", "json"), help="(terminal)")
    tables.add_argument(
        "--stage",
        choices=("decode", "preprocess", "infer", "h2d", "compute", "d2h", "head", "infer_head", "total"),
        help="whose latency (total)",
    )
    tables.add_argument(
        "--against",
        choices=("published",),
        help="compare with the published tables: ours, theirs, the difference, and where the settings differ",
    )
    tables.add_argument(
        "--style",
        choices=("plain", "modelzoo"),
        default="plain",
        help="modelzoo: the blocks of a model-zoo README (training, evaluation, inference)",
    )
    tables.add_argument(
        "--pivot", choices=("backend", "precision", "detector"), help="side by side: a column of each"
    )
    tables.add_argument(
        "--front", choices=("image_auroc", "pixel_auroc", "aupro"), help="accuracy against median latency"
    )
    tables.add_argument(
        "--picture", type=path, metavar="FILE", help="with --front: draw it too, FILE.png or FILE.svg"
    )
    tables.add_argument("--json", action="store_true", help="the same as --format json")
    tables.set_defaults(run=_tables)


def _tables(options: argparse.Namespace) -> int:
    from harness.records import record

    _require_consistent(options)
    kind: Format = "json" if options.json else options.format or "terminal"
    text, notes = _made(record.latest(record.read_all(options.results)), options, kind)
    print(text)
    if kind == "csv":  # its lines are all numbers
        for line in notes:
            print(line, file=sys.stderr)
    return 0


def _require_consistent(options: argparse.Namespace) -> None:
    asked = ("--against", options.against), ("--pivot", options.pivot), ("--front", options.front)
    several = [name for name, value in asked if value is not None]
    several += ["--style modelzoo"] if options.style != "plain" else []
    if len(several) > 1:
        raise UsageError(f"{' and '.join(several)} are {len(several)} tables: ask for one at a time")
    if options.picture is not None and options.front is None:
        raise UsageError("tables --picture needs --front")
    if options.stage is not None and several and several[0] not in ("--pivot", "--front"):
        raise UsageError(f"tables {several[0]} takes no --stage: which stages its times are of is fixed")
    if options.json and options.format not in (None, "json"):
        raise UsageError(f"tables --json and --format {options.format}: ask for one of them")


def _made(
    records: tuple[Record, ...], options: argparse.Namespace, kind: Format
) -> tuple[str, Sequence[str]]:
    """What was asked for as text, and the lines below its tables, which CSV has no place for."""
    from harness import tables

    stage = options.stage or "total"
    if options.against is not None:
        found = tables.compare(records)
        left = [f"{item.title}: {why}" for item in found.made for why in item.left_out]
        return tables.render_comparisons(found, kind), [
            f"not compared: {why}" for why in (*left, *found.reasons)
        ]
    made: Sequence[Table | Pivot | Front | Block]
    if options.pivot is not None:
        made = pivots = tables.pivot(records, options.pivot, stage=stage)
        text = tables.render_pivots(pivots, kind)
    elif options.front is not None:
        made = fronts = tables.front(records, options.front, stage=stage)
        if options.picture is not None:
            from harness.tables import pareto_plot

            pareto_plot.write(fronts, options.picture)
        text = tables.render_fronts(fronts, kind)
    elif options.style == "modelzoo":
        made = blocks = tables.blocks(records)
        text = tables.render_blocks(blocks, kind)
    else:
        made = plain = tables.tables(records, stage=stage)
        text = tables.render(plain, kind)
    return text, [f"{item.title}: {note}" for item in made for note in item.notes]
