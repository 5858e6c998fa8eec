"""`tables`: records side by side."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from harness.cli.arguments import path
from harness.errors import UsageError


def add(commands: Any) -> None:
    """Add the parser of this command."""
    tables = commands.add_parser("tables", help="print tables from records")
    tables.add_argument("--results", type=path, default=Path("results"), metavar="DIR", help="(%(default)s)")
    tables.add_argument("--format", choices=("terminal", "md", "csv", "json"), default="terminal")
    tables.add_argument(
        "--stage",
        choices=("decode", "preprocess", "infer", "h2d", "compute", "d2h", "head", "infer_head", "total"),
        default="total",
        help="whose latency (%(default)s)",
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
    from harness import record, tables

    kind: tables.Format = "json" if options.json else options.format
    records = record.latest(record.read_all(options.results))
    asked = ("--against", options.against), ("--pivot", options.pivot), ("--front", options.front)
    several = [name for name, value in asked if value is not None]
    several += ["--style modelzoo"] if options.style != "plain" else []
    if len(several) > 1:
        raise UsageError(f"{' and '.join(several)} are {len(several)} tables: ask for one at a time")
    if options.picture is not None and options.front is None:
        raise UsageError("tables --picture needs --front")
    if options.against is not None:
        found = tables.compare(records)
        print(tables.render_comparisons(found, kind))
        for reason in found.reasons if kind == "csv" else ():  # its lines are all numbers
            print(f"not compared: {reason}", file=sys.stderr)
    elif options.pivot is not None:
        print(tables.render_pivots(tables.pivot(records, options.pivot, stage=options.stage), kind))
    elif options.front is not None:
        fronts = tables.front(records, options.front, stage=options.stage)
        if options.picture is not None:
            from harness.tables import front_picture

            front_picture.write(fronts, options.picture)
        print(tables.render_fronts(fronts, kind))
    elif options.style == "modelzoo":
        print(tables.render_blocks(tables.blocks(records), kind))
    else:
        print(tables.render(tables.tables(records, stage=options.stage), kind))
    return 0
