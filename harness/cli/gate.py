"""`gate` and `baseline`: regression gates over records."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from harness.cli.arguments import add_json, path
from harness.cli.outcome import EXIT


def _add_gate(commands: Any) -> None:
    gate = commands.add_parser(
        "gate", help="judge records and benchmarks by rules: passed, failed or not measured (docs/gates.md)"
    )
    _add_rules(gate)
    add_json(gate)
    gate.set_defaults(run=_gate)


def _add_baseline(commands: Any) -> None:
    actions = commands.add_parser("baseline", help="what gates compare with").add_subparsers(
        required=True, metavar="ACTION"
    )
    update = actions.add_parser("update", help="take over the records that the rules compare with")
    _add_rules(update)
    update.set_defaults(run=_baseline_update)


def _add_rules(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("rules", metavar="RULES", help="a TOML file, or the name of rules that are shipped")
    parser.add_argument("--results", type=path, default=Path("results"), metavar="DIR", help="(%(default)s)")


def _gate(options: argparse.Namespace) -> int:
    from harness import gates

    report = gates.gate(gates.find(options.rules), options.results)
    print(json.dumps(report.to_json(), allow_nan=False) if options.json else "\n".join(gates.lines(report)))
    return EXIT[report.verdict]


def _baseline_update(options: argparse.Namespace) -> int:
    from harness import gates

    changes = gates.update(gates.find(options.rules), options.results)
    print("\n".join(changes) or "the baseline is as it was")
    return 0
