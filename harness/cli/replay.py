"""`replay`: score saved outputs again."""

from __future__ import annotations

import argparse

from harness.cli import arguments
from harness.cli.arguments import CONTINUES, Parser, categories, path
from harness.errors import UsageError


def add_replay(parser: Parser) -> None:
    """Add the options of `replay`."""
    parser.describe(
        "Run head and metrics again on outputs that `bench --save-outputs` or `score` saved. Batch size, masks and data "
        "are those of each record; no data set, model or device is needed.",
        example="replay board-results --artifact artifacts/padim-resnet18",
    )
    parser.add_argument(
        "results", type=path, metavar="RESULTS", help="folder of the records and their outputs"
    )
    parser.add_argument(
        "--artifact",
        type=path,
        action="append",
        required=True,
        metavar="DIR",
        help="artifact that was measured, or a folder of artifacts; repeatable",
    )
    arguments.add_category(parser)
    parser.add_argument(
        "--variant", action="append", metavar="ID", help="only outputs of this variant (default: all)"
    )
    arguments.add_results(parser, "--out", "results folder of the new records")
    parser.add_argument(
        "--threads",
        type=arguments.positive,
        metavar="N",
        help="cores per worker (default: as recorded, if usable)",
    )
    arguments.add_timeout(parser)
    arguments.add_force(parser, "score finished cases again")
    arguments.add_json(parser)
    parser.set_defaults(run=_replay, continues=CONTINUES)


def _replay(options: argparse.Namespace) -> int:
    from harness.cli.outcome import run_jobs
    from harness.run.replay import ReplayRequest, jobs

    if len(options.variant or ()) > 1:
        raise UsageError("replay takes one --variant, or none to replay all")
    request = ReplayRequest(
        artifacts=tuple(options.artifact),
        results=options.results,
        categories=categories(options),
        out=options.out,
        variant=options.variant[0] if options.variant else None,
        threads=options.threads,
    )
    return run_jobs(jobs(request), options)
