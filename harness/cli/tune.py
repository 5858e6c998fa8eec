"""`tune`: search the reduced precisions of an artifact."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

from harness.cli import arguments
from harness.cli.arguments import CONTINUES, Parser, path, positive
from harness.errors import UsageError

if TYPE_CHECKING:
    from harness.records.record import Record


def add_tune(parser: Parser) -> None:
    """Add the options of `tune`."""
    parser.describe(
        "Make every variant in a copy of the artifact, measure each in its own worker, and print what it costs and gives. "
        "The same command continues an interrupted run (docs/explanation/precision.md).",
        example="tune artifacts/padim-resnet18/bottle --data data --to tuning",
    )
    parser.add_argument("artifact", type=path, metavar="ARTIFACT", help="an artifact with an ONNX variant")
    arguments.add_data(parser)
    parser.add_argument(
        "--to",
        type=path,
        required=True,
        metavar="FOLDER",
        help="folder for the copy with all variants, and for the records",
    )
    arguments.add_backend(parser, default="onnxruntime-cpu")
    parser.add_argument(
        "--rounds", type=positive, default=2, metavar="N", help="how often every variant is measured"
    )
    parser.add_argument("--images", type=positive, metavar="N", help="calibration images (default: 32)")
    arguments.add_threads(parser)
    arguments.add_warmup(parser)
    arguments.add_timeout(parser)
    arguments.add_json(parser)
    om = parser.add_argument_group("precision modes of atc, tried if a chip is named")
    om.add_argument("--soc", metavar="NAME", help="the chip; also name a --backend that runs it")
    om.add_argument("--cann", metavar="VERSION", help="toolkit version (default: read from the toolkit)")
    om.add_argument(
        "--atc", metavar="COMMAND", help="compiler, or `simulated` for no hardware (default: atc)"
    )
    parser.set_defaults(run=_tune, continues=CONTINUES)


def _tune(options: argparse.Namespace) -> int:
    from harness import build
    from harness.cli.outcome import run_options, say_on_stderr
    from harness.progress import progress
    from harness.run import tuning
    from harness.tables import tuning as table

    compiler = {"soc": options.soc, "cann": options.cann, "atc": options.atc}
    compiler = {name: value for name, value in compiler.items() if value is not None}
    if compiler and options.soc is None:
        raise UsageError("tune --cann and --atc need --soc, the chip to compile for: --soc Ascend310")
    request = tuning.TuneRequest(
        artifact=options.artifact,
        data=options.data,
        to=options.to,
        backends=tuple(dict.fromkeys(options.backend or ("onnxruntime-cpu",))),
        rounds=options.rounds,
        images=options.images or build.IMAGES,
        om=build.OmRequest(**compiler) if compiler else None,
        options=run_options(options),
    )

    def report(record: Record) -> None:
        outcome = "measured" if record.status == "measured" else f"{record.status}: {record.reason}"
        if record.status != "measured" or not options.json:
            say_on_stderr(f"{record.case.runner} {record.case.variant}: {outcome}")

    tuned = tuning.tune(request, say=say_on_stderr, report=report, progress=progress)
    rows = table.rows(tuned)
    if options.json:
        print(json.dumps(table.document(tuned, rows), allow_nan=False))
    else:
        print("\n".join(table.lines(rows, rounds=options.rounds, records=tuned.records[0])))
    return 0 if table.complete(rows) else 3
