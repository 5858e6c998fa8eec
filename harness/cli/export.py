"""`export`, `tune` and `onnx`: runnable forms of a network."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING, Any

from harness.cli.arguments import CONTINUES, add_declarations, add_json, gears, path, positive, seconds
from harness.cli.outcome import say_on_stderr
from harness.errors import UsageError

if TYPE_CHECKING:
    from harness.records.record import Record

FORMATS = ("onnx", "mindir", "air", "om")
PRECISION_MODES = (
    *("force_fp16", "force_fp32", "cube_fp16in_fp32out", "allow_fp32_to_fp16", "must_keep_origin_dtype"),
    "allow_mix_precision",
)
CALIBRATIONS = ("minmax", "percentile")


def add(commands: Any) -> None:
    """Add the parsers of these commands."""
    for command in (_add_export, _add_tune, _add_onnx):
        command(commands)


def _add_export(commands: Any) -> None:
    export = commands.add_parser("export", help="write runnable forms of an artifact's network")
    export.add_argument("artifact", type=path, metavar="ARTIFACT", help="artifact, or a folder of them")
    export.add_argument("--format", choices=FORMATS, action="append", default=[], help="repeats")
    export.add_argument(
        "--head-in-graph",
        action="store_true",
        help="the graph also holds the head: image in, map and score out",
    )
    lower = export.add_argument_group("a lower precision of the float32 ONNX variant (docs/precision.md)")
    lower.add_argument("--precision", choices=("fp16", "int8"), action="append", default=[], help="repeats")
    lower.add_argument("--calibration", choices=CALIBRATIONS, help="how int8 finds ranges (minmax)")
    lower.add_argument(
        "--keep-float",
        action="append",
        default=[],
        metavar="NODE|OP_TYPE",
        help="stays in float32: a node by its name, or all of an operator type; repeats",
    )
    lower.add_argument(
        "--lower-head",
        action="store_true",
        help="of --head-in-graph: lower the head too, whose ranges good images alone set",
    )
    good = export.add_argument_group("good images, for --precision and --fp16-report")
    good.add_argument("--data", type=path, metavar="DIR", help="folder that holds the categories")
    good.add_argument("--images", type=positive, metavar="N", help="good images taken (32; the report 16)")
    _add_om(export.add_argument_group("--format om, compiled by atc from the ONNX variant (docs/ascend.md)"))
    report = export.add_argument_group("which tensors float16 cannot hold, in place of --format")
    report.add_argument("--fp16-report", action="store_true", help="run the ONNX variant on good images")
    add_json(report)
    export.set_defaults(run=_export, continues=CONTINUES)


def _add_om(om: Any) -> None:
    om.add_argument("--soc", metavar="NAME", help="the chip: Ascend310, Ascend310P3, …")
    om.add_argument("--cann", metavar="VERSION", help="of the toolkit (as the toolkit's version.info says)")
    sizes = om.add_mutually_exclusive_group()
    sizes.add_argument(
        "--batch", type=positive, metavar="N", help="rows per run: images, or windows of SSIM-AE (1)"
    )
    sizes.add_argument("--gears", type=gears, metavar="N,N,…", help="several batch sizes in one file: 1,4,8")
    om.add_argument("--aipp", action="store_true", default=None, help="the chip normalises; uint8 goes in")
    om.add_argument("--precision-mode", choices=PRECISION_MODES, help="(force_fp16)")
    om.add_argument("--output-type", choices=("FP32", "FP16"), help="(FP32)")
    om.add_argument(
        "--atc",
        metavar="COMMAND",
        help="the compiler (atc); `simulated`: the shipped simulator, for no hardware",
    )
    om.add_argument("--timeout", type=seconds, metavar="S", help="stop atc after S seconds (3600)")
    om.add_argument(
        "--dry-run", action="store_true", help="print the command and the AIPP file, and write nothing"
    )


def _add_tune(commands: Any) -> None:
    tune = commands.add_parser(
        "tune",
        help="try the settings of float16 and int8, measure each, and print the accuracy-latency front",
        description="Make every variant in a copy of the artifact, measure each in a worker of its own, and print what it costs "
        "and gives; a run that was cut short continues (docs/precision.md).",
    )
    tune.add_argument("artifact", type=path, metavar="ARTIFACT", help="an artifact with an ONNX variant")
    tune.add_argument("--data", type=path, required=True, metavar="DIR", help="folder of the categories")
    tune.add_argument(
        "--to",
        type=path,
        required=True,
        metavar="FOLDER",
        help="for the copy with all variants, and records",
    )
    tune.add_argument("--backend", action="append", metavar="NAME", help="repeats (onnxruntime-cpu)")
    tune.add_argument(
        "--rounds", type=positive, default=2, metavar="N", help="times all are measured (%(default)s)"
    )
    tune.add_argument("--images", type=positive, metavar="N", help="good images for calibration (32)")
    tune.add_argument("--threads", type=positive, metavar="N", help="cores of each worker (all usable)")
    tune.add_argument("--warmup", type=positive, default=3, metavar="N", help="untimed runs (%(default)s)")
    tune.add_argument("--timeout", type=seconds, default=600.0, metavar="S", help="kill a silent worker")
    om = tune.add_argument_group("the precision modes of atc, tried where a chip is named")
    om.add_argument("--soc", metavar="NAME", help="the chip; name a --backend that runs it")
    om.add_argument("--cann", metavar="VERSION", help="of the toolkit (as the toolkit says)")
    om.add_argument("--atc", metavar="COMMAND", help="the compiler (atc); `simulated`: the simulator")
    add_json(tune)
    tune.set_defaults(run=_tune, continues=CONTINUES)


def _add_onnx(commands: Any) -> None:
    onnx = commands.add_parser("onnx", help="models that were not exported here").add_subparsers(
        required=True, metavar="ACTION"
    )
    describe = onnx.add_parser(
        "describe", help="what a model takes and gives, and what must be declared for bench --onnx"
    )
    describe.add_argument("file", type=path, metavar="FILE")
    add_declarations(describe, "")
    describe.add_argument("--out", type=path, metavar="MANIFEST", help="write the description, as JSON")
    add_json(describe)
    describe.set_defaults(run=_onnx_describe)


def _export(options: argparse.Namespace) -> int:
    from harness import exporting

    return exporting.export(options)


def _tune(options: argparse.Namespace) -> int:
    from harness import build, machine
    from harness.detector import artifact
    from harness.run import plan, tuning
    from harness.tables import tuning as tuning_table

    compiler = {"soc": options.soc, "cann": options.cann, "atc": options.atc}
    given = {name: value for name, value in compiler.items() if value is not None}
    if given and options.soc is None:
        raise UsageError("tune --cann and --atc need --soc, the chip to compile for: --soc Ascend310")
    request = tuning.TuneRequest(
        artifact=options.artifact,
        data=options.data,
        to=options.to,
        backends=tuple(dict.fromkeys(options.backend or ("onnxruntime-cpu",))),
        rounds=options.rounds,
        images=options.images or build.IMAGES,
        om=artifact.OmRequest(**given) if given else None,
        threads=options.threads or machine.usable_cores(),
        warmup=options.warmup,
        timeout=options.timeout,
    )

    def report(record: Record) -> None:
        outcome = "measured" if record.status == "measured" else f"{record.status}: {record.reason}"
        if record.status != "measured" or not options.json:
            say_on_stderr(f"{record.case.runner} {record.case.variant}: {outcome}")

    try:
        tuned = tuning.tune(request, say=say_on_stderr, report=report)
    except plan.Interrupted as stop:
        print(stop, file=sys.stderr)
        return 130
    found = tuning_table.rows(tuned)
    told = tuning_table.lines(found, rounds=options.rounds, records=tuned.records[0])
    print(json.dumps(tuning_table.document(tuned, found), allow_nan=False) if options.json else "\n".join(told))
    return 0 if tuning_table.complete(found) else 3


def _onnx_describe(options: argparse.Namespace) -> int:
    from harness.cli import onnx as onnx_module

    document, lines = onnx_module.describe(options)
    print(json.dumps(document, allow_nan=False) if options.json else "\n".join(lines))
    return 0
