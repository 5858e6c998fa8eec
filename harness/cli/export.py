"""`export`, `tune` and `onnx`: runnable forms of a network."""

from __future__ import annotations

import argparse
import json
from typing import Any

import msgspec

from harness import build, datasets, registry
from harness.build import OmRequest, PrecisionRequest
from harness.cli.arguments import CONTINUES, add_json, gears, path, positive, seconds
from harness.cli.onnx import _add_onnx
from harness.cli.tune import _add_tune
from harness.detector import artifact
from harness.detector.artifact import Artifact, Variant
from harness.errors import UsageError

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


def _export(options: argparse.Namespace) -> int:

    return export(options)


def export(options: argparse.Namespace) -> int:
    """Export what `options` ask for, lower a precision, show what `atc` would be told, or report on float16; gives the exit code.

    Raises:
        UsageError: options that do not belong together.
    """
    if options.fp16_report:
        return _report_fp16(options)
    if options.json:
        raise UsageError("export --json belongs to --fp16-report")
    if not options.format and not options.precision:
        raise UsageError("export needs --format (onnx, mindir, air, om), --precision or --fp16-report")
    om = _om_request(options)
    lowerings = _precision_requests(options)
    for found in artifact.find(options.artifact, ()):
        for name in dict.fromkeys(options.format):
            if options.dry_run:
                dry_run = registry.resolve("stage", "om_dry_run", registry.STAGES)
                print(dry_run(found, om, head_in_graph=options.head_in_graph))
                continue
            asked = om if name == "om" else None
            variant = build.export(found, name, head_in_graph=options.head_in_graph, om=asked)
            print(f"{found.path / variant.model}: {_checked(variant)}")
        for request in lowerings:
            category = datasets.load_category(options.data, found.manifest.category)
            variant = build.lower(
                artifact.read(found.path), category, request, head_in_graph=options.head_in_graph
            )
            print(f"{found.path / variant.model}: {_lowered(found, variant)}")
    return 0


def _precision_requests(options: argparse.Namespace) -> tuple[PrecisionRequest, ...]:
    """What is asked of `--precision`; none where it is not given."""
    int8 = "int8" in options.precision
    if options.calibration is not None and not int8:
        raise UsageError("export --calibration belongs to --precision int8: float16 needs none")
    if not options.precision:
        if options.data is not None or options.images is not None:
            raise UsageError("export --data and --images belong to --fp16-report and --precision")
        if options.keep_float or options.lower_head:
            raise UsageError("export --keep-float and --lower-head belong to --precision")
        return ()
    if options.data is None:
        what = "int8 is calibrated on" if int8 else "float16 is checked for overflow on"
        raise UsageError(
            f"export --precision needs --data DIR, the folder that holds the categories: {what} good images"
        )
    if options.dry_run:
        raise UsageError("export --dry-run shows what --format om would do: leave out --precision")
    if options.lower_head and not options.head_in_graph:
        raise UsageError("export --lower-head needs --head-in-graph: other variants hold no head")
    return tuple(
        PrecisionRequest(
            precision=name,
            calibration=options.calibration or "minmax",
            keep_float=tuple(dict.fromkeys(options.keep_float)),
            lower_head=options.lower_head,
            images=options.images or build.IMAGES,
        )
        for name in dict.fromkeys(options.precision)
    )


def _lowered(found: Artifact, variant: Variant) -> str:
    """What is known of a variant in a lower precision."""
    assert variant.lowered is not None  # noqa: S101 - what such a variant is
    lowered = variant.lowered
    sizes = [(found.path / name).stat().st_size / 1e6 for name in (variant.model, f"{lowered.source}.onnx")]
    apart = ", ".join(f"{name} {value:.1e}" for name, value in variant.agreement.items())
    kept = f", {len(lowered.float_nodes)} nodes kept in float32" if lowered.float_nodes else ""
    how = f"calibrated ({lowered.calibration}) and compared" if lowered.calibration else "compared"
    return (
        f"{sizes[0]:.1f} MB of {sizes[1]:.1f}{kept}; {how} on {len(lowered.images)} good images: differs from {lowered.source} by "
        f"at most, of the largest value: {apart}; bench and parity say what that costs"
    )


def _checked(variant: Variant) -> str:
    """What is known of an exported file."""
    if variant.agreement:
        return f"agrees with the MindSpore cell to {max(variant.agreement.values()):.1e} (batch 1 and 3)"
    if variant.target is None:
        return "not run here, so not compared with the MindSpore cell"
    compiler = "the SIMULATED atc, which no hardware runs," if variant.target.simulated else "atc"
    return (
        f"compiled by {compiler} for {variant.target.soc}, CANN {variant.target.cann}; not run here: "
        "bench and parity say whether it agrees"
    )


def _om_request(options: argparse.Namespace) -> OmRequest | None:
    """What the options ask of `atc`; `None` where format `om` is not asked for."""
    batches = options.gears if options.gears is not None else options.batch and (options.batch,)
    given = {"soc": options.soc, "batches": batches, "timeout_s": options.timeout}
    given |= {
        name: getattr(options, name) for name in ("cann", "aipp", "precision_mode", "output_type", "atc")
    }
    given = {name: value for name, value in given.items() if value is not None}
    if "om" not in options.format:
        if given or options.dry_run:
            raise UsageError(
                "export --soc, --cann, --batch, --gears, --aipp, --precision-mode, --output-type, --atc, --timeout and "
                "--dry-run belong to --format om"
            )
        return None
    if options.dry_run and set(options.format) != {"om"}:
        raise UsageError("export --dry-run shows what --format om would do: leave out the other formats")
    if options.soc is None:
        raise UsageError("export --format om needs --soc, the chip it is compiled for: --soc Ascend310")
    return build.OmRequest(**given)


def _report_fp16(options: argparse.Namespace) -> int:
    if options.data is None:
        raise UsageError("export --fp16-report needs --data DIR, the folder that holds the categories")
    if options.format or options.precision:
        raise UsageError("export --fp16-report exports nothing: leave out --format and --precision")
    _om_request(options)
    report = registry.resolve("stage", "fp16_report", registry.STAGES)
    found = artifact.find(options.artifact, ())
    reports = [
        report(
            item,
            datasets.load_category(options.data, item.manifest.category),
            images=options.images or 16,
            head_in_graph=options.head_in_graph,
        )
        for item in found
    ]
    if options.json:
        print(json.dumps({"reports": msgspec.to_builtins(reports)}, allow_nan=False))
    else:
        print("\n\n".join(item.text() for item in reports))
    return 0
