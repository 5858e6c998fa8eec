"""`export`: write runnable variants of an artifact's network."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from harness.cli import arguments
from harness.cli.arguments import CONTINUES, Parser, positive
from harness.errors import UsageError

if TYPE_CHECKING:
    from harness.build import OmRequest, PrecisionRequest
    from harness.detector.artifact import Artifact, Variant

FORMATS = ("onnx", "mindir", "air", "om")
PRECISION_MODES = (
    *("force_fp16", "force_fp32", "cube_fp16in_fp32out", "allow_fp32_to_fp16", "must_keep_origin_dtype"),
    "allow_mix_precision",
)
CALIBRATIONS = ("minmax", "percentile")


def add_export(parser: Parser) -> None:
    """Add the options of `export`."""
    parser.describe(
        "Write runnable variants of an artifact's network into the artifact.",
        example="export artifacts/padim-resnet18 --format onnx --format mindir",
    )
    arguments.add_artifact(parser)
    parser.add_argument(
        "--format",
        choices=FORMATS,
        action="append",
        default=[],
        metavar="NAME",
        help="onnx, mindir, air or om; repeatable",
    )
    parser.add_argument(
        "--head-in-graph",
        action="store_true",
        help="the graph contains the head: image in, map and score out",
    )
    precision = parser.add_argument_group(
        "reduced precision of the float32 ONNX variant (docs/explanation/precision.md)"
    )
    precision.add_argument(
        "--precision",
        choices=("fp16", "int8"),
        action="append",
        default=[],
        help="convert to float16, or quantise to int8; repeatable",
    )
    precision.add_argument(
        "--calibration",
        choices=CALIBRATIONS,
        metavar="HOW",
        help="how int8 finds ranges: minmax or percentile (default: minmax)",
    )
    precision.add_argument(
        "--keep-float",
        action="append",
        default=[],
        metavar="NODE|OP_TYPE",
        help="node or operator type that stays in float32; repeatable",
    )
    precision.add_argument(
        "--reduce-head", action="store_true", help="with --head-in-graph: reduce the head's precision too"
    )
    precision.add_argument("--lower-head", dest="reduce_head", action="store_true", help=argparse.SUPPRESS)
    images = parser.add_argument_group("good images, for --precision and --fp16-report")
    arguments.add_data(images, required=False)
    images.add_argument(
        "--images", type=positive, metavar="N", help="good images used (default: 32; for the report 16)"
    )
    _add_om(
        parser.add_argument_group("--format om: atc compiles the ONNX variant (docs/how-to/ascend-card.md)")
    )
    report = parser.add_argument_group("instead of --format")
    report.add_argument("--fp16-report", action="store_true", help="list tensors that float16 cannot hold")
    arguments.add_json(report)
    parser.set_defaults(run=_export, continues=CONTINUES)


def _add_om(om: Any) -> None:
    om.add_argument("--soc", metavar="NAME", help="the chip: Ascend310, Ascend310P3, …")
    om.add_argument("--cann", metavar="VERSION", help="toolkit version (default: read from the toolkit)")
    sizes = om.add_mutually_exclusive_group()
    sizes.add_argument(
        "--batch", type=positive, metavar="N", help="rows per run: images, or SSIM-AE windows (default: 1)"
    )
    sizes.add_argument(
        "--gears", type=arguments.gears, metavar="N,N,…", help="several batch sizes in one file: 1,4,8"
    )
    om.add_argument("--aipp", action="store_true", default=None, help="the chip normalises, and takes uint8")
    om.add_argument(
        "--precision-mode",
        choices=PRECISION_MODES,
        metavar="MODE",
        help="of atc, for example force_fp32 (default: force_fp16)",
    )
    om.add_argument("--output-type", choices=("FP32", "FP16"), help="type of the outputs (default: FP32)")
    om.add_argument(
        "--atc", metavar="COMMAND", help="compiler, or `simulated` for no hardware (default: atc)"
    )
    om.add_argument(
        "--timeout", type=arguments.seconds, metavar="S", help="stop atc after S seconds (default: 3600)"
    )
    om.add_argument("--dry-run", action="store_true", help="print the command and AIPP file; write nothing")


def _export(options: argparse.Namespace) -> int:
    """Export formats and reduced precisions, or print what atc would get, or report on float16.

    Raises:
        UsageError: options that do not belong together.
    """
    from harness import build, datasets
    from harness.detector import artifact

    if options.fp16_report:
        return _report_fp16(options)
    if options.json:
        raise UsageError("export --json belongs to --fp16-report")
    if not options.format and not options.precision:
        raise UsageError("export needs --format (onnx, mindir, air, om), --precision or --fp16-report")
    om = _om_request(options)
    precisions = _precision_requests(options)
    for detector in artifact.find(options.artifact, ()):
        for name in dict.fromkeys(options.format):
            if options.dry_run and om is not None:  # only OM has a dry run
                print(build.om_dry_run(detector, om, head_in_graph=options.head_in_graph))
                continue
            variant = build.export(
                detector, name, head_in_graph=options.head_in_graph, om=om if name == "om" else None
            )
            print(f"{detector.path / variant.model}: {_checked(variant)}")
        for request in precisions:
            category = datasets.load_category(options.data, detector.manifest.category)
            variant = build.quantize(
                artifact.read(detector.path), category, request, head_in_graph=options.head_in_graph
            )
            print(f"{detector.path / variant.model}: {_reduced(detector, variant)}")
    return 0


def _om_request(options: argparse.Namespace) -> OmRequest | None:
    """The request to atc; `None` without `--format om`.

    Raises:
        UsageError: options of `--format om` without it, or `--format om` without a chip.
    """
    from harness.build import OmRequest

    batches = options.gears if options.gears is not None else options.batch and (options.batch,)
    values = {"soc": options.soc, "batches": batches, "timeout_s": options.timeout}
    values |= {
        name: getattr(options, name) for name in ("cann", "aipp", "precision_mode", "output_type", "atc")
    }
    values = {name: value for name, value in values.items() if value is not None}
    if "om" not in options.format:
        if values or options.dry_run:
            raise UsageError(
                "export --soc, --cann, --batch, --gears, --aipp, --precision-mode, --output-type, --atc, --timeout and "
                "--dry-run belong to --format om"
            )
        return None
    if options.dry_run and set(options.format) != {"om"}:
        raise UsageError("export --dry-run shows what --format om would do: leave out the other formats")
    if options.soc is None:
        raise UsageError("export --format om needs --soc, the chip to compile for: --soc Ascend310")
    return OmRequest(**values)


def _precision_requests(options: argparse.Namespace) -> tuple[PrecisionRequest, ...]:
    """One request per `--precision`.

    Raises:
        UsageError: options of `--precision` without it, or `--precision` without images.
    """
    from harness.build import IMAGES, PrecisionRequest

    int8 = "int8" in options.precision
    if options.calibration is not None and not int8:
        raise UsageError("export --calibration belongs to --precision int8: float16 needs none")
    if not options.precision:
        if options.data is not None or options.images is not None:
            raise UsageError("export --data and --images belong to --fp16-report and --precision")
        if options.keep_float or options.reduce_head:
            raise UsageError("export --keep-float and --reduce-head belong to --precision")
        return ()
    if options.data is None:
        purpose = "int8 is calibrated on" if int8 else "float16 is checked for overflow on"
        raise UsageError(
            f"export --precision needs --data DIR, the folder that holds the categories: {purpose} good images"
        )
    if options.dry_run:
        raise UsageError("export --dry-run shows what --format om would do: leave out --precision")
    if options.reduce_head and not options.head_in_graph:
        raise UsageError("export --reduce-head needs --head-in-graph: other variants contain no head")
    return tuple(
        PrecisionRequest(
            precision=name,
            calibration=options.calibration or "minmax",
            keep_float=tuple(dict.fromkeys(options.keep_float)),
            reduce_head=options.reduce_head,
            images=options.images or IMAGES,
        )
        for name in dict.fromkeys(options.precision)
    )


def _checked(variant: Variant) -> str:
    """How an exported file was checked."""
    if variant.agreement:
        return f"agrees with the MindSpore cell to {max(variant.agreement.values()):.1e} (batch 1 and 3)"
    if variant.target is None:
        return "not run here, so not compared with the MindSpore cell"
    compiler = "the SIMULATED atc, which no hardware runs," if variant.target.simulated else "atc"
    return (
        f"compiled by {compiler} for {variant.target.soc}, CANN {variant.target.cann}; not run here: "
        "bench and parity say whether it agrees"
    )


def _reduced(detector: Artifact, variant: Variant) -> str:
    """Size of a variant in reduced precision, and how far its outputs differ."""
    assert variant.lowered is not None  # noqa: S101 - true of every such variant
    lowered = variant.lowered
    sizes = [
        (detector.path / name).stat().st_size / 1e6 for name in (variant.model, f"{lowered.source}.onnx")
    ]
    differences = ", ".join(f"{name} {value:.1e}" for name, value in variant.agreement.items())
    float_nodes = f", {len(lowered.float_nodes)} nodes kept in float32" if lowered.float_nodes else ""
    how = f"calibrated ({lowered.calibration}) and compared" if lowered.calibration else "compared"
    return (
        f"{sizes[0]:.1f} MB of {sizes[1]:.1f}{float_nodes}; {how} on {len(lowered.images)} good images: differs from "
        f"{lowered.source} by at most, of the largest value: {differences}; bench and parity say what that costs"
    )


def _report_fp16(options: argparse.Namespace) -> int:
    import msgspec

    from harness import build, datasets
    from harness.detector import artifact

    if options.data is None:
        raise UsageError("export --fp16-report needs --data DIR, the folder that holds the categories")
    if options.format or options.precision:
        raise UsageError("export --fp16-report exports nothing: leave out --format and --precision")
    _om_request(options)  # refuses options of --format om
    reports = [
        build.fp16_report(
            detector,
            datasets.load_category(options.data, detector.manifest.category),
            images=options.images or 16,
            head_in_graph=options.head_in_graph,
        )
        for detector in artifact.find(options.artifact, ())
    ]
    if options.json:
        print(json.dumps({"reports": msgspec.to_builtins(reports)}, allow_nan=False))
    else:
        print("\n\n".join(report.text() for report in reports))
    return 0
