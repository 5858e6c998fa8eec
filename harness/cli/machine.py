"""`backends` and `doctor`: what runs on this machine."""

from __future__ import annotations

import argparse
import contextlib
import json

from harness.cli.arguments import Parser, add_json


def add_backends(parser: Parser) -> None:
    """Add the options of `backends`."""
    parser.describe(
        "List every backend, the formats it opens, and whether it runs here; if not, why and what to do.",
        example="backends",
    )
    add_json(parser)
    parser.set_defaults(run=_backends)


def _backends(options: argparse.Namespace) -> int:
    from harness import registry
    from harness.errors import PluginError
    from harness.run import worker

    reasons = worker.probe_all()
    formats: dict[str, tuple[str, ...]] = dict.fromkeys(reasons, ())
    for name in reasons:
        with contextlib.suppress(PluginError):  # its reason says so
            formats[name] = registry.backend(name).formats
    if options.json:
        rows = [
            {"backend": name, "runs_here": reason is None, "reason": reason, "formats": formats[name]}
            for name, reason in reasons.items()
        ]
        print(json.dumps({"backends": rows}))
        return 0
    from tabulate import tabulate

    body = [
        [name, ", ".join(formats[name]), "yes" if reason is None else "no", reason or ""]
        for name, reason in reasons.items()
    ]
    header = ["backend", "formats", "runs here", "why not, and what to do"]
    print(tabulate(body, header, tablefmt="rounded_outline", maxcolwidths=[None, None, None, 70]))
    return 0


def add_doctor(parser: Parser) -> None:
    """Add the options of `doctor`."""
    parser.describe(
        "Check step by step what a backend needs, down to a smoke model that runs, and say what is missing.",
        example="doctor --backend onnxruntime-cpu",
    )
    parser.add_argument("--backend", required=True, metavar="NAME", help="list: python -m harness backends")
    add_json(parser)
    parser.set_defaults(run=_doctor)


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
