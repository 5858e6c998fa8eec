"""`parity`, `blame`, `gate` and `baseline`: judgement of records."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from harness.cli.arguments import add_json, margin, path, positive, tolerance
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


def _add_blame(commands: Any) -> None:
    kinds = commands.add_parser(
        "blame", help="find the node at which two backends part (docs/blame.md)"
    ).add_subparsers(required=True, metavar="HOW")
    nodes = kinds.add_parser("nodes", help="in an ONNX graph, whose every tensor is compared")
    prepare = kinds.add_parser(
        "prepare", help="write truncated models, for a graph that cannot be opened (OM)"
    )
    compare = kinds.add_parser("compare", help="read what a board made of them")
    for parser in (nodes, prepare):
        parser.add_argument("artifact", type=path, metavar="ARTIFACT")
        parser.add_argument(
            "--data", type=path, required=True, metavar="DIR", help="folder of the categories"
        )
        parser.add_argument("--variant", metavar="ID", help="an ONNX variant (the first in the manifest)")
        parser.add_argument("--reference", default="onnxruntime-cpu", metavar="BACKEND", help="(%(default)s)")
    nodes.add_argument("--other", metavar="BACKEND", help="what is suspected (the reference)")
    nodes.add_argument("--other-variant", metavar="ID", help="the variant suspected (--variant)")
    nodes.add_argument(
        "--other-model", type=path, metavar="FILE", help="an ONNX file of the same detector, suspected"
    )
    nodes.add_argument("--image", action="append", metavar="NAME", help="test/broken/000.png; repeats (all)")
    nodes.add_argument(
        "--images", type=positive, metavar="N", help="so many test images, evenly spread (all)"
    )
    nodes.add_argument(
        "--to", type=path, metavar="DIR", help="write the smallest model that fails, in a new folder"
    )
    prepare.add_argument("--to", type=path, required=True, metavar="DIR", help="a new folder")
    prepare.add_argument(
        "--cuts", type=positive, default=8, metavar="N", help="besides the outputs (%(default)s)"
    )
    prepare.add_argument(
        "--images", type=positive, default=2, metavar="N", help="test images, evenly spread (%(default)s)"
    )
    prepare.add_argument("--between", nargs=2, metavar="TENSOR", help="cut after the first, up to the second")
    compare.add_argument("folder", type=path, metavar="DIR", help="what `prepare` wrote")
    compare.add_argument(
        "--outputs",
        type=path,
        required=True,
        metavar="RESULTS",
        help="records of bench --save-outputs, or of score",
    )
    for parser in (nodes, compare):
        parser.add_argument(
            "--tolerance",
            type=float,
            metavar="T",
            help="of a tensor's largest value (fp32: 1e-4, others: 1e-2)",
        )
    for name, parser in (("nodes", nodes), ("prepare", prepare), ("compare", compare)):
        add_json(parser)
        parser.set_defaults(run=_blame, how=name)


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


def _blame(options: argparse.Namespace) -> int:
    from harness.cli import blame as blame_module

    document, lines, code = getattr(blame_module, options.how)(options)
    print(json.dumps(document, allow_nan=False) if options.json else "\n".join(lines))
    return int(code)


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
