"""`tune`: search the reduced precisions of an artifact."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING, Any

from harness import build
from harness.cli.arguments import CONTINUES, add_json, path, positive, seconds
from harness.cli.outcome import say_on_stderr
from harness.errors import UsageError

if TYPE_CHECKING:
    from harness.records.record import Record


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


def _tune(options: argparse.Namespace) -> int:
    from harness import machine
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
        om=build.OmRequest(**given) if given else None,
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
    print(
        json.dumps(tuning_table.document(tuned, found), allow_nan=False) if options.json else "\n".join(told)
    )
    return 0 if tuning_table.complete(found) else 3
