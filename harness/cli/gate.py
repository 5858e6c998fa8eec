"""`gate` and `baseline`: regression gates over records."""

from __future__ import annotations

import argparse
import json

from harness.cli.arguments import Parser, add_json, add_results
from harness.cli.outcome import EXIT


def add_gate(parser: Parser) -> None:
    """Add the options of `gate`."""
    parser.describe(
        "Judge records and benchmarks by rules: passed, failed or not measured (docs/reference/gate-rules.md).",
        example="gate rules.toml --results results",
    )
    _add_rules(parser)
    add_json(parser)
    parser.set_defaults(run=_gate)


def _gate(options: argparse.Namespace) -> int:
    from harness import gates

    report = gates.gate(gates.find(options.rules), options.results)
    print(json.dumps(report.to_json(), allow_nan=False) if options.json else "\n".join(gates.lines(report)))
    return EXIT[report.verdict]


def add_baseline(parser: Parser) -> None:
    """Add the actions of `baseline`."""
    example = "baseline update rules.toml --results results"
    parser.describe(
        "Manage the records that gates compare with (docs/reference/gate-rules.md).", example=example
    )
    update = parser.add_subparsers(required=True, metavar="ACTION").add_parser(
        "update", help="replace the baseline by the current records"
    )
    update.describe(
        "Replace the baseline by the current records, so that the rules compare with these from now on.",
        example=example,
    )
    _add_rules(update)
    update.set_defaults(run=_update)


def _update(options: argparse.Namespace) -> int:
    from harness import gates

    changes = gates.update(gates.find(options.rules), options.results)
    print("\n".join(changes) or "the baseline is unchanged")
    return 0


def _add_rules(parser: Parser) -> None:
    parser.add_argument("rules", metavar="RULES", help="a TOML file, or the name of shipped rules")
    add_results(parser)
