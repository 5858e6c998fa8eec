"""`backends` and `doctor`: what runs on this machine."""

from __future__ import annotations

import argparse
import json
from typing import Any

from harness.cli.arguments import add_json


def add(commands: Any) -> None:
    """Add the parsers of these commands."""
    for command in (_add_backends, _add_doctor):
        command(commands)


def _add_backends(commands: Any) -> None:
    backends = commands.add_parser("backends", help="which backends can run here; which cannot, and why")
    add_json(backends)
    backends.set_defaults(run=_backends)


def _add_doctor(commands: Any) -> None:
    doctor = commands.add_parser(
        "doctor", help="walk what a backend needs, down to a model that runs; say what is missing"
    )
    doctor.add_argument("--backend", required=True, metavar="NAME", help="see: python -m harness backends")
    add_json(doctor)
    doctor.set_defaults(run=_doctor)


def _backends(options: argparse.Namespace) -> int:
    from harness import registry
    from harness.run import worker

    reasons = worker.probe_all()
    if options.json:
        rows = [
            {
                "backend": name,
                "runs_here": reason is None,
                "reason": reason,
                "formats": registry.backend(name).formats,
            }
            for name, reason in reasons.items()
        ]
        print(json.dumps({"backends": rows}))
        return 0
    from tabulate import tabulate

    body = [
        [name, ", ".join(registry.backend(name).formats), "yes" if reason is None else "no", reason or ""]
        for name, reason in reasons.items()
    ]
    header = ["backend", "runs", "here", "why not, and what would make it"]
    print(tabulate(body, header, tablefmt="rounded_outline", maxcolwidths=[None, None, None, 70]))
    return 0


def _doctor(options: argparse.Namespace) -> int:
    import msgspec

    from harness.run import worker

    checks = []
    for check in worker.examine(options.backend):
        checks.append(check)
        if not options.json:
            print(check.line(), flush=True)
    passed = bool(checks) and all(check.passed for check in checks)
    if options.json:
        print(json.dumps({"passed": passed, "checks": [msgspec.to_builtins(check) for check in checks]}))
    return 0 if passed else 3
