"""`parity`: judge from records whether backends agree."""

from __future__ import annotations

import argparse
import json
import sys

from harness.cli import arguments
from harness.cli.arguments import Parser, path
from harness.cli.outcome import EXIT
from harness.errors import UsageError

PROFILES = ("float32", "float16", "bfloat16", "int8")


def add_parity(parser: Parser) -> None:
    """Add the options of `parity`."""
    parser.describe(
        "Judge from records whether backends agree with a reference: inputs, outputs, maps, scores, decisions, metrics.",
        example="parity --reference mindspore-cpu --results results --report pictures",
    )
    parser.add_argument(
        "--reference",
        required=True,
        metavar="BACKEND[:VARIANT]",
        help="a backend, or one of its variants, which is then compared with its other variants too",
    )
    arguments.add_results(parser)
    parser.add_argument(
        "--profile",
        choices=PROFILES,
        help="tolerances of this precision (default: the looser of each pair's)",
    )
    parser.add_argument(
        "--tolerance",
        type=arguments.tolerance,
        action="append",
        metavar="OUTPUT=SHARE",
        help="tolerance of one network output, as a share of its largest value; repeatable",
    )
    parser.add_argument(
        "--margin",
        type=arguments.margin,
        metavar="LOSS",
        help="show that AUROC and AUPRO lose less than this, for example 0.01",
    )
    arguments.add_json(parser)
    output = parser.add_argument_group("pages")
    output.add_argument(
        "--report",
        type=path,
        metavar="DIR",
        help="write pictures of flips and largest differences; replaces an earlier report",
    )
    output.add_argument(
        "--sign", type=path, metavar="FILE", help="write the page to sign, FILE.html or FILE.md"
    )
    blame = parser.add_argument_group("where a pair first differs (docs/explanation/blame.md)")
    blame.add_argument(
        "--blame", action="store_true", help="name the blamed stage of every pair that did not pass"
    )
    blame.add_argument("--inputs", type=path, metavar="DIR", help="input batches that a side read from files")
    blame.add_argument("--artifact", type=path, metavar="A", help="search the graphs of this artifact")
    arguments.add_data(blame, required=False)
    blame.add_argument("--to", type=path, metavar="DIR", help="write a reproducer for each blamed node")
    parser.set_defaults(run=_parity)


def _parity(options: argparse.Namespace) -> int:
    from harness import parity

    for name in ("inputs", "artifact", "data", "to"):
        if getattr(options, name) is not None and not options.blame:
            raise UsageError(f"parity --{name} needs --blame")
    tolerances = dict(options.tolerance or ())
    if len(tolerances) < len(options.tolerance or ()):
        raise UsageError("parity --tolerance names an output twice")
    if options.sign is not None:
        from harness.parity import page

        page.require_new(options.sign)
    limits = parity.Limits(profile=options.profile, outputs=tolerances, margin=options.margin)
    report = parity.parity(options.results, reference=options.reference, limits=limits)
    document, lines = report.to_json(), parity.lines(report)
    if options.blame:
        from harness.cli.blame import of_report

        blamed, blamed_lines = of_report(options, report)
        document, lines = document | blamed, [*lines[:-1], *blamed_lines, lines[-1]]
    print(json.dumps(document, allow_nan=False) if options.json else "\n".join(lines))
    if options.report is not None:  # after the verdict, so that a full disk does not hide it
        from harness.parity import pictures

        sys.stdout.flush()
        written = pictures.write_report(options.results, report, options.report)
        print(f"{len(written)} pictures in {options.report}", file=sys.stderr)
    if options.sign is not None:
        sys.stdout.flush()
        page.write(options.results, report, options.sign)
        print(f"page to sign: {options.sign}", file=sys.stderr)
    return EXIT[report.verdict]
