"""`tables`: print tables from records."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from harness.cli.arguments import Parser, add_results, path
from harness.errors import UsageError

if TYPE_CHECKING:
    from harness.records.record import Record
    from harness.tables import Block, Format, Front, Pivot, Table

LATENCY_STAGES = ("decode", "preprocess", "infer", "h2d", "compute", "d2h", "head", "infer_head", "total")


def add_tables(parser: Parser) -> None:
    """Add the options of `tables`."""
    parser.describe(
        "Print tables from records: accuracy and latency per category. At most one of --against, --pivot, --front and "
        "--style modelzoo prints another kind of table.",
        example="tables --results results --pivot backend --format md",
    )
    add_results(parser)
    parser.add_argument(
        "--format", choices=("terminal", "md", "csv", "json"), help="output format (default: terminal)"
    )
    parser.add_argument("--json", action="store_true", help="the same as --format json")
    parser.add_argument(
        "--stage",
        choices=LATENCY_STAGES,
        metavar="STAGE",
        help=f"latency stage: {', '.join(LATENCY_STAGES)} (default: total)",
    )
    parser.add_argument(
        "--pivot", choices=("backend", "precision", "detector"), help="side by side, one column for each"
    )
    parser.add_argument(
        "--front",
        choices=("image_auroc", "pixel_auroc", "aupro"),
        help="Pareto front of this metric against median latency",
    )
    parser.add_argument(
        "--picture", type=path, metavar="FILE", help="with --front: draw it too, FILE.png or FILE.svg"
    )
    parser.add_argument(
        "--against",
        choices=("published",),
        help="compare with the published tables: ours, theirs, differences, and settings that differ",
    )
    parser.add_argument(
        "--style",
        choices=("plain", "modelzoo"),
        default="plain",
        help="modelzoo: the blocks of a model-zoo README: training, evaluation, inference",
    )
    parser.set_defaults(run=_tables)


def _tables(options: argparse.Namespace) -> int:
    from harness.records import record

    _require_consistent(options)
    format_: Format = "json" if options.json else options.format or "terminal"
    text, notes = _rendered(record.latest(record.read_all(options.results)), options, format_)
    print(text)
    if format_ == "csv":  # its lines hold only numbers
        for line in notes:
            print(line, file=sys.stderr)
    return 0


def _require_consistent(options: argparse.Namespace) -> None:
    kinds = ("--against", options.against), ("--pivot", options.pivot), ("--front", options.front)
    requested = [name for name, value in kinds if value is not None]
    requested += ["--style modelzoo"] if options.style != "plain" else []
    if len(requested) > 1:
        raise UsageError(f"{' and '.join(requested)} are {len(requested)} tables: ask for one at a time")
    if options.picture is not None and options.front is None:
        raise UsageError("tables --picture needs --front")
    if options.stage is not None and requested and requested[0] not in ("--pivot", "--front"):
        raise UsageError(f"tables {requested[0]} takes no --stage: its latency stages are fixed")
    if options.json and options.format not in (None, "json"):
        raise UsageError(f"tables --json and --format {options.format}: ask for one of them")


def _rendered(
    records: tuple[Record, ...], options: argparse.Namespace, format_: Format
) -> tuple[str, Sequence[str]]:
    """The requested tables as text, and the lines below them, which CSV has no place for."""
    from harness import tables

    stage = options.stage or "total"
    if options.against is not None:
        comparisons = tables.compare(records)
        left_out = [f"{table.title}: {why}" for table in comparisons.compared for why in table.left_out]
        reasons = (*left_out, *comparisons.reasons)
        return tables.render_comparisons(comparisons, format_), [f"not compared: {why}" for why in reasons]
    printed: Sequence[Table | Pivot | Front | Block]
    if options.pivot is not None:
        printed = pivots = tables.pivot(records, options.pivot, stage=stage)
        text = tables.render_pivots(pivots, format_)
    elif options.front is not None:
        printed = fronts = tables.front(records, options.front, stage=stage)
        if options.picture is not None:
            from harness.tables import pareto_plot

            pareto_plot.write(fronts, options.picture)
        text = tables.render_fronts(fronts, format_)
    elif options.style == "modelzoo":
        printed = blocks = tables.blocks(records)
        text = tables.render_blocks(blocks, format_)
    else:
        printed = plain = tables.tables(records, stage=stage)
        text = tables.render(plain, format_)
    return text, [f"{table.title}: {note}" for table in printed for note in table.notes]
