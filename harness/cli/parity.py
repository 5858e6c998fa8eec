"""`parity`, `blame`, `gate` and `baseline`: judgement of records."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from harness.cli.arguments import add_json, margin, path, tolerance
from harness.cli.blame import _add_blame
from harness.cli.gate import _add_baseline, _add_gate
from harness.cli.outcome import EXIT
from harness.errors import UsageError

PROFILES = ("float32", "float16", "bfloat16", "int8")


def add(commands: Any) -> None:
    """Add the parsers of these commands."""
    for command in (_add_parity, _add_blame, _add_gate, _add_baseline):
        command(commands)


def _add_parity(commands: Any) -> None:
    parity = commands.add_parser("parity", help="say whether backends agree, from their records")
    parity.add_argument(
        "--reference",
        required=True,
        metavar="BACKEND[:VARIANT]",
        help="to be agreed with: a backend, or one variant on it, which its others are compared with too",
    )
    parity.add_argument("--results", type=path, default=Path("results"), metavar="DIR", help="(%(default)s)")
    parity.add_argument(
        "--report",
        type=path,
        metavar="DIR",
        help="write pictures of flips and largest differences, in the place of an earlier report's",
    )
    parity.add_argument(
        "--sign", type=path, metavar="FILE", help="write the page to sign, FILE.html or FILE.md"
    )
    parity.add_argument(
        "--profile", choices=PROFILES, help="tolerances of this precision (the looser of the two sides')"
    )
    parity.add_argument(
        "--tolerance",
        type=tolerance,
        action="append",
        metavar="OUTPUT=SHARE",
        help="of one output of the network, a share of its largest value; repeats",
    )
    parity.add_argument(
        "--margin", type=margin, metavar="LOSS", help="rule out a larger loss of AUROC and AUPRO, 0.01 say"
    )
    blame = parity.add_argument_group("where they part (docs/blame.md)")
    blame.add_argument("--blame", action="store_true", help="name the stage of every pair that did not pass")
    blame.add_argument("--inputs", type=path, metavar="DIR", help="batches that a side took from files")
    blame.add_argument("--artifact", type=path, metavar="A", help="look into the graphs of this artifact")
    blame.add_argument("--data", type=path, metavar="DIR", help="folder that holds the categories")
    blame.add_argument("--to", type=path, metavar="DIR", help="write a reproducer for each blamed node")
    add_json(parity)
    parity.set_defaults(run=_parity)


def _parity(options: argparse.Namespace) -> int:
    from harness import parity

    given = [name for name in ("inputs", "artifact", "data", "to") if getattr(options, name) is not None]
    if given and not options.blame:
        raise UsageError(f"parity --{given[0]} needs --blame")
    outputs = dict(options.tolerance or ())
    if len(outputs) < len(options.tolerance or ()):
        raise UsageError("parity --tolerance names an output twice")
    if options.sign is not None:
        from harness.parity import page

        page.require_new(options.sign)
    asked = parity.Asked(profile=options.profile, outputs=outputs, margin=options.margin)
    report = parity.parity(options.results, reference=options.reference, asked=asked)
    document, lines = report.to_json(), parity.lines(report)
    if options.blame:
        from harness.cli import blame as blame_module

        blamed, told, _ = blame_module.parity(options, report)
        document, lines = document | blamed, [*lines[:-1], *told, lines[-1]]
    print(json.dumps(document, allow_nan=False) if options.json else "\n".join(lines))
    if options.report is not None:  # after the verdict, which no full disk may swallow
        from harness.parity import pictures

        sys.stdout.flush()
        written = pictures.write_report(options.results, report, options.report)
        print(f"{len(written)} pictures in {options.report}", file=sys.stderr)
    if options.sign is not None:
        sys.stdout.flush()
        page.write(options.results, report, options.sign)
        print(f"page to sign: {options.sign}", file=sys.stderr)
    return EXIT[report.verdict]
