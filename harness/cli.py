"""The command line: parse, call, exit. Nothing heavy is imported before a command needs it.

Exit codes: 0 done and passed, 1 a verdict failed, 2 wrong use, 3 something could not be measured (1 beats 3 beats 0),
130 interrupted.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness import __version__
from harness.errors import HarnessError

DETECTORS = ("padim", "patchcore", "fastflow", "stpm", "ssim_ae")
BACKBONES = ("resnet18", "wide_resnet50_2", "wide_resnet101_2")
FORMATS = ("onnx", "mindir", "air", "om")
PRECISION_MODES = (
    *("force_fp16", "force_fp32", "cube_fp16in_fp32out", "allow_fp32_to_fp16", "must_keep_origin_dtype"),
    "allow_mix_precision",
)
CALIBRATIONS = ("minmax", "percentile", "entropy")
PROFILES = ("float32", "float16", "bfloat16", "int8")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and give its exit code."""
    asked = sys.argv[1:] if arguments is None else arguments
    options = argparse.Namespace(json="--json" in asked)  # until the parser knows better
    os.environ.setdefault("OPENCV_LOG_LEVEL", "FATAL")  # our own errors name the file
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without box characters shows ? and goes on
    try:
        options = _parser().parse_args(asked)
        options.arguments = tuple(asked)
        from harness import commands

        return commands.COMMANDS[options.run](options)
    except HarnessError as error:
        return _failed(str(error), error.exit_code, options)
    except BrokenPipeError:  # the reader of our output has gone, as in `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _failed(
            f"{where}{error.strerror or error}; check the path, its permissions and the disk", 3, options
        )
    except KeyboardInterrupt as stop:
        resume = " with --resume" if getattr(options, "run", None) == "fit" else ""
        kept = f"; what was finished is kept, the same command{resume} continues"
        lasting = getattr(options, "run", None) in ("bench", "fit", "export", "tune")
        print(str(stop) or f"interrupted{kept if lasting else ''}", file=sys.stderr)
        return 130
    except Exception:  # noqa: BLE001 - a defect of ours must not look like a verdict
        traceback.print_exc()
        return _failed("this is a defect of the harness: please report it with the lines above", 3, options)


def _failed(message: str, code: int, options: argparse.Namespace) -> int:
    """Say what is wrong; a program that asked for JSON gets a document too."""
    print(f"error: {message}", file=sys.stderr)
    if getattr(options, "json", False):
        print(json.dumps({"error": message}))
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m harness",
        description="Evaluate and benchmark industrial anomaly detectors over interchangeable backends: the same "
        "decoding, scoring and metrics everywhere, tables per category, and a verdict whether the backends agree.",
        epilog="Start with: python -m harness bench  (synthetic data, PaDiM, every backend of this machine). "
        "Exit codes: 0 done and passed, 1 a verdict failed, 2 wrong use, 3 something could not be measured.",
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for add in (
        _add_bench,
        _add_fit,
        _add_import,
        _add_settings,
        _add_export,
        _add_tune,
        _add_onnx,
        _add_inputs,
        _add_score,
        _add_pack,
        _add_merge,
        _add_parity,
        _add_blame,
        _add_gate,
        _add_baseline,
        _add_tables,
        _add_backends,
        _add_doctor,
        _add_data,
        _add_weights,
    ):
        add(commands)
    return parser


def _add_bench(commands: Any) -> None:
    bench = commands.add_parser(
        "bench",
        help="measure accuracy and latency, category by category, on one or more backends",
        description="Measure accuracy and latency. Without --artifact: make synthetic data, fit PaDiM on it with an "
        "untrained backbone, export, and run every backend of this machine.",
    )
    bench.add_argument(
        "--artifact", type=_path, action="append", metavar="DIR", help="artifact, or a folder of them"
    )
    bench.add_argument(
        "--suite",
        metavar="NAME",
        help="fit, export and measure with a published table's settings: padim, patchcore, fastflow, stpm, ssim_ae, "
        "ssim_ae_texture, or a file of your own",
    )
    bench.add_argument("--weights", type=_path, metavar="W", help="backbone weights for a suite's fit")
    bench.add_argument(
        "--device",
        choices=("cpu", "ascend", "gpu"),
        default="cpu",
        help="a suite's fit runs on (%(default)s)",
    )
    bench.add_argument(
        "--onnx", type=_path, metavar="FILE", help="an ONNX model that was not exported here (docs/onnx.md)"
    )
    bench.add_argument(
        "--manifest", type=_path, metavar="FILE", help="with --onnx: what `onnx describe` drafted"
    )
    _declarations(bench, "with --onnx: ")
    bench.add_argument("--data", type=_path, metavar="DIR", help="folder that holds the categories")
    _category(bench)
    bench.add_argument(
        "--backend", action="append", metavar="NAME", help="repeats; see: python -m harness backends"
    )
    bench.add_argument(
        "--variant",
        action="append",
        metavar="ID",
        help="variant of the artifact, `onnx-fp32`; repeats, and the others are compared with the first",
    )
    bench.add_argument(
        "--out", type=_path, default=Path("results"), metavar="DIR", help="results folder (%(default)s)"
    )
    bench.add_argument("--batch-size", type=_positive, default=1, metavar="N")
    bench.add_argument(
        "--threads", type=_positive, metavar="N", help="cores each worker is pinned to (all usable)"
    )
    bench.add_argument(
        "--warmup", type=_positive, default=3, metavar="N", help="untimed runs first (%(default)s)"
    )
    bench.add_argument("--mask-threshold", type=_grey, metavar="V", help="defective above V (127)")
    bench.add_argument(
        "--mask-resize",
        choices=("nearest", "bilinear_truncated", "area_truncated", "dilated"),
        help="how masks come to the size of the map (nearest); docs/protocols.md",
    )
    bench.add_argument(
        "--timeout", type=_seconds, default=600.0, metavar="S", help="kill a worker silent for S seconds"
    )
    bench.add_argument(
        "--seed", type=_seed, default=0, help="of the built-in data and backbone (%(default)s)"
    )
    bench.add_argument(
        "--save-outputs", action="store_true", help="keep the raw outputs, for --backend replay elsewhere"
    )
    bench.add_argument(
        "--inputs", type=_path, metavar="DIR", help="take batches written before, in place of preprocessing"
    )
    bench.add_argument(
        "--outputs",
        type=_path,
        metavar="RESULTS",
        help="of --backend replay: the records whose outputs it plays",
    )
    bench.add_argument("--force", action="store_true", help="measure finished cases again")
    bench.add_argument("--json", action="store_true", help="print one JSON document and nothing else")
    bench.set_defaults(run="bench")


def _add_fit(commands: Any) -> None:
    fit = commands.add_parser("fit", help="fit a detector on the good images of a category")
    fit.add_argument("--detector", choices=DETECTORS, default="padim")
    _add_fit_options(fit)


def _add_import(commands: Any) -> None:
    kinds = commands.add_parser("import", help="take over what another program learnt").add_subparsers(
        required=True, metavar="WHAT"
    )
    faiss = kinds.add_parser(
        "faiss",
        help="a faiss index (IndexFlatL2) as PatchCore's memory bank",
        description="Make a PatchCore artifact whose memory bank is the index; backbone, weights, size and layers must be those "
        "it was made with. The data set's good images set the thresholds.",
    )
    faiss.add_argument("index", type=_path, metavar="INDEX")
    _add_fit_options(faiss)
    faiss.set_defaults(detector="patchcore")


def _add_fit_options(fit: argparse.ArgumentParser) -> None:
    fit.add_argument("--backbone", choices=BACKBONES, help="(resnet18; SSIM-AE has none)")
    fit.add_argument(
        "--weights",
        type=_path,
        metavar="W",
        help="backbone weights, or `random` for an untrained, seeded backbone (SSIM-AE has none)",
    )
    fit.add_argument(
        "--data", type=_path, required=True, metavar="DIR", help="folder that holds the categories"
    )
    _category(fit)
    fit.add_argument("--out", type=_path, default=Path("artifacts"), metavar="DIR", help="(%(default)s)")
    fit.add_argument(
        "--seed", type=_seed, default=0, help="of hold-out, channel draw, untrained backbone (%(default)s)"
    )
    for name, kind, what in (
        ("resize", _positive, "squash images to N x N pixels"),
        ("crop", _positive, "then keep the centre N x N"),
        ("epochs", _positive, "passes over the images"),
        ("batch-size", _positive, "images per optimiser step"),
        ("micro-batch", _positive, "images per gradient, accumulated up to the batch (less memory)"),
        ("workers", _positive, "processes that share each batch, one device each (msrun)"),
        ("early-stop", _positive, "stop after N epochs without a lower loss on held-out good images"),
    ):
        fit.add_argument(f"--{name}", type=kind, metavar="N", help=what)
    fit.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="any other setting of the detector, repeats; see: python -m harness settings DETECTOR",
    )
    fit.add_argument("--device", choices=("cpu", "ascend", "gpu"), default="cpu", help="(%(default)s)")
    fit.add_argument("--precision", choices=("fp32", "mixed"), default="fp32", help="(%(default)s)")
    fit.add_argument(
        "--init-from", type=_path, metavar="FILE", help="start from a checkpoint or a net.safetensors"
    )
    fit.add_argument(
        "--checkpoint-every", type=_positive, default=10, metavar="N", help="epochs (%(default)s)"
    )
    fit.add_argument("--resume", action="store_true", help="go on with a training that was cut short")
    fit.add_argument(
        "--jobs",
        type=_positive,
        default=1,
        metavar="N",
        help="categories side by side, one device each, or a share of the cores (%(default)s)",
    )
    fit.add_argument("--only", metavar="NAME", help=argparse.SUPPRESS)  # what a process of its own fits
    fit.add_argument("--force", action="store_true", help="replace an artifact fitted from another request")
    fit.set_defaults(run="fit")


def _add_settings(commands: Any) -> None:
    settings = commands.add_parser("settings", help="what can be set about a detector, with defaults")
    settings.add_argument("detector", choices=DETECTORS)
    settings.set_defaults(run="settings")


def _add_export(commands: Any) -> None:
    export = commands.add_parser("export", help="write runnable forms of an artifact's network")
    export.add_argument("artifact", type=_path, metavar="ARTIFACT", help="artifact, or a folder of them")
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
    lower.add_argument("--lower-head", action="store_true", help="of --head-in-graph: lower the head too")
    good = export.add_argument_group("good images, for --precision and --fp16-report")
    good.add_argument("--data", type=_path, metavar="DIR", help="folder that holds the categories")
    good.add_argument("--images", type=_positive, metavar="N", help="good images taken (32; the report 16)")
    _add_om(export.add_argument_group("--format om, compiled by atc from the ONNX variant (docs/ascend.md)"))
    report = export.add_argument_group("which tensors float16 cannot hold, in place of --format")
    report.add_argument("--fp16-report", action="store_true", help="run the ONNX variant on good images")
    report.add_argument("--json", action="store_true", help="print one JSON document and nothing else")
    export.set_defaults(run="export")


def _add_tune(commands: Any) -> None:
    tune = commands.add_parser(
        "tune",
        help="try the settings of float16 and int8, measure each, and print the accuracy-latency front",
        description="Make every variant in a copy of the artifact, measure each in a worker of its own, and print what it costs "
        "and gives; a run that was cut short continues (docs/precision.md).",
    )
    tune.add_argument("artifact", type=_path, metavar="ARTIFACT", help="an artifact with an ONNX variant")
    tune.add_argument("--data", type=_path, required=True, metavar="DIR", help="folder of the categories")
    tune.add_argument(
        "--to",
        type=_path,
        required=True,
        metavar="FOLDER",
        help="for the copy with all variants, and records",
    )
    tune.add_argument("--backend", action="append", metavar="NAME", help="repeats (onnxruntime-cpu)")
    tune.add_argument(
        "--rounds", type=_positive, default=2, metavar="N", help="times all are measured (%(default)s)"
    )
    tune.add_argument("--images", type=_positive, metavar="N", help="good images for calibration (32)")
    tune.add_argument("--threads", type=_positive, metavar="N", help="cores of each worker (all usable)")
    tune.add_argument("--warmup", type=_positive, default=3, metavar="N", help="untimed runs (%(default)s)")
    tune.add_argument("--timeout", type=_seconds, default=600.0, metavar="S", help="kill a silent worker")
    om = tune.add_argument_group("the precision modes of atc, tried where a chip is named")
    om.add_argument("--soc", metavar="NAME", help="the chip; name a --backend that runs it")
    om.add_argument("--cann", metavar="VERSION", help="of the toolkit (as the toolkit says)")
    om.add_argument("--atc", metavar="COMMAND", help="the compiler (atc); `simulated`: the simulator")
    tune.add_argument("--json", action="store_true", help="print one JSON document and nothing else")
    tune.set_defaults(run="tune")


def _add_om(om: Any) -> None:
    om.add_argument("--soc", metavar="NAME", help="the chip: Ascend310, Ascend310P3, …")
    om.add_argument("--cann", metavar="VERSION", help="of the toolkit (as the toolkit's version.info says)")
    sizes = om.add_mutually_exclusive_group()
    sizes.add_argument(
        "--batch", type=_positive, metavar="N", help="rows per run: images, or windows of SSIM-AE (1)"
    )
    sizes.add_argument("--gears", type=_gears, metavar="N,N,…", help="several batch sizes in one file: 1,4,8")
    om.add_argument("--aipp", action="store_true", default=None, help="the chip normalises; uint8 goes in")
    om.add_argument("--precision-mode", choices=PRECISION_MODES, help="(force_fp16)")
    om.add_argument("--output-type", choices=("FP32", "FP16"), help="(FP32)")
    om.add_argument(
        "--atc",
        metavar="COMMAND",
        help="the compiler (atc); `simulated`: the shipped simulator, for no hardware",
    )
    om.add_argument("--timeout", type=_seconds, metavar="S", help="stop atc after S seconds (3600)")
    om.add_argument(
        "--dry-run", action="store_true", help="print the command and the AIPP file, and write nothing"
    )


def _add_onnx(commands: Any) -> None:
    onnx = commands.add_parser("onnx", help="models that were not exported here").add_subparsers(
        required=True, metavar="ACTION"
    )
    describe = onnx.add_parser(
        "describe", help="what a model takes and gives, and what must be declared for bench --onnx"
    )
    describe.add_argument("file", type=_path, metavar="FILE")
    _declarations(describe, "")
    describe.add_argument("--out", type=_path, metavar="MANIFEST", help="write the description, as JSON")
    describe.add_argument("--json", action="store_true", help="print one JSON document and nothing else")
    describe.set_defaults(run="onnx_describe")


def _declarations(parser: argparse.ArgumentParser, when: str) -> None:
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help=f"{when}declare layout, size, resize, interpolation, colour, range, mean, std, map, score, "
        "image_threshold, pixel_threshold or name; repeats",
    )


def _add_inputs(commands: Any) -> None:
    inputs = commands.add_parser(
        "inputs", help="write the preprocessed test images for a runner outside the harness (docs/files.md)"
    )
    inputs.add_argument("artifact", type=_path, metavar="ARTIFACT", help="artifact, or a folder of them")
    inputs.add_argument("--data", type=_path, required=True, metavar="DIR", help="folder of the categories")
    _category(inputs)
    inputs.add_argument("--to", type=_path, required=True, metavar="OUT", help="a new or empty folder")
    inputs.add_argument("--variant", metavar="ID", help="(the first in the manifest)")
    inputs.add_argument(
        "--batch-size", type=_positive, metavar="N", help="images per batch (the variant's, or 1)"
    )
    inputs.add_argument("--format", choices=("npy", "bin"), default="npy", help="(%(default)s)")
    inputs.set_defaults(run="inputs")


def _add_score(commands: Any) -> None:
    score = commands.add_parser(
        "score", help="turn the outputs another program wrote for such inputs into records (docs/files.md)"
    )
    score.add_argument("artifact", type=_path, metavar="ARTIFACT", help="artifact, or a folder of them")
    score.add_argument("--inputs", type=_path, required=True, metavar="DIR", help="what `inputs` wrote")
    score.add_argument("--outputs", type=_path, required=True, metavar="DIR", help="what the program wrote")
    score.add_argument(
        "--from",
        dest="program",
        choices=("ais_bench", "cpp", "npy"),
        required=True,
        help="how its files are named",
    )
    score.add_argument(
        "--output-dtype", choices=("float32", "float16"), default="float32", help="of .bin files"
    )
    score.add_argument("--data", type=_path, required=True, metavar="DIR", help="folder of the categories")
    _category(score)
    score.add_argument(
        "--label", type=_label, metavar="NAME", help="tells outputs of several programs or boards apart"
    )
    score.add_argument(
        "--out", type=_path, default=Path("results"), metavar="DIR", help="results folder (%(default)s)"
    )
    score.add_argument(
        "--threads", type=_positive, metavar="N", help="cores of head and metrics (all usable)"
    )
    score.add_argument("--mask-threshold", type=_grey, metavar="V", help="defective above V (127)")
    score.add_argument(
        "--mask-resize",
        choices=("nearest", "bilinear_truncated", "area_truncated", "dilated"),
        help="how masks come to the size of the map (nearest); docs/protocols.md",
    )
    score.add_argument("--timeout", type=_seconds, default=600.0, metavar="S", help=argparse.SUPPRESS)
    score.add_argument("--force", action="store_true", help="score finished cases again")
    score.add_argument("--json", action="store_true", help="print one JSON document and nothing else")
    score.set_defaults(run="score")


def _add_pack(commands: Any) -> None:
    pack = commands.add_parser("pack", help="put records and evidence into one file, to carry elsewhere")
    pack.add_argument("results", type=_path, metavar="RESULTS")
    pack.add_argument("--to", type=_path, required=True, metavar="FILE")
    pack.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="PATTERN",
        help="of record files, `*_ascend310_*`; repeats",
    )
    pack.set_defaults(run="pack")


def _add_merge(commands: Any) -> None:
    merge = commands.add_parser("merge", help="add such a file to a results folder, all of it or nothing")
    merge.add_argument("file", type=_path, metavar="FILE")
    merge.add_argument("--into", type=_path, default=Path("results"), metavar="RESULTS", help="(%(default)s)")
    merge.add_argument("--force", action="store_true", help="replace other records of the same name")
    merge.set_defaults(run="merge")


def _add_parity(commands: Any) -> None:
    parity = commands.add_parser("parity", help="say whether backends agree, from their records")
    parity.add_argument(
        "--reference",
        required=True,
        metavar="BACKEND[:VARIANT]",
        help="to be agreed with: a backend, or one variant on it, which its others are compared with too",
    )
    parity.add_argument("--results", type=_path, default=Path("results"), metavar="DIR", help="(%(default)s)")
    parity.add_argument(
        "--report", type=_path, metavar="DIR", help="write pictures of flips and largest differences"
    )
    parity.add_argument(
        "--sign", type=_path, metavar="FILE", help="write the page to sign, FILE.html or FILE.md"
    )
    parity.add_argument(
        "--profile", choices=PROFILES, help="tolerances of this precision (the looser of the two sides')"
    )
    parity.add_argument(
        "--tolerance",
        type=_tolerance,
        action="append",
        metavar="OUTPUT=SHARE",
        help="of one output of the network, a share of its largest value; repeats",
    )
    parity.add_argument(
        "--margin", type=_margin, metavar="LOSS", help="rule out a larger loss of AUROC and AUPRO, 0.01 say"
    )
    blame = parity.add_argument_group("where they part (docs/blame.md)")
    blame.add_argument("--blame", action="store_true", help="name the stage of every pair that did not pass")
    blame.add_argument("--inputs", type=_path, metavar="DIR", help="batches that a side took from files")
    blame.add_argument("--artifact", type=_path, metavar="A", help="look into the graphs of this artifact")
    blame.add_argument("--data", type=_path, metavar="DIR", help="folder that holds the categories")
    blame.add_argument("--to", type=_path, metavar="DIR", help="write a reproducer for each blamed node")
    parity.add_argument("--json", action="store_true", help="print one JSON document and nothing else")
    parity.set_defaults(run="parity")


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
        parser.add_argument("artifact", type=_path, metavar="ARTIFACT")
        parser.add_argument(
            "--data", type=_path, required=True, metavar="DIR", help="folder of the categories"
        )
        parser.add_argument("--variant", metavar="ID", help="an ONNX variant (the first in the manifest)")
        parser.add_argument("--reference", default="onnxruntime-cpu", metavar="BACKEND", help="(%(default)s)")
    nodes.add_argument("--other", metavar="BACKEND", help="what is suspected (the reference)")
    nodes.add_argument("--other-variant", metavar="ID", help="the variant suspected (--variant)")
    nodes.add_argument(
        "--other-model", type=_path, metavar="FILE", help="an ONNX file of the same detector, suspected"
    )
    nodes.add_argument("--image", action="append", metavar="NAME", help="test/broken/000.png; repeats (all)")
    nodes.add_argument(
        "--images", type=_positive, metavar="N", help="so many test images, evenly spread (all)"
    )
    nodes.add_argument(
        "--to", type=_path, metavar="DIR", help="write the smallest model that fails, in a new folder"
    )
    prepare.add_argument("--to", type=_path, required=True, metavar="DIR", help="a new folder")
    prepare.add_argument(
        "--cuts", type=_positive, default=8, metavar="N", help="besides the outputs (%(default)s)"
    )
    prepare.add_argument(
        "--images", type=_positive, default=2, metavar="N", help="test images, evenly spread (%(default)s)"
    )
    prepare.add_argument("--between", nargs=2, metavar="TENSOR", help="cut after the first, up to the second")
    compare.add_argument("folder", type=_path, metavar="DIR", help="what `prepare` wrote")
    compare.add_argument(
        "--outputs",
        type=_path,
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
        parser.add_argument("--json", action="store_true", help="print one JSON document and nothing else")
        parser.set_defaults(run="blame", how=name)


def _add_gate(commands: Any) -> None:
    gate = commands.add_parser(
        "gate", help="judge records and benchmarks by rules: passed, failed or not measured (docs/gates.md)"
    )
    _add_rules(gate)
    gate.add_argument("--json", action="store_true", help="print one JSON document and nothing else")
    gate.set_defaults(run="gate")


def _add_baseline(commands: Any) -> None:
    actions = commands.add_parser("baseline", help="what gates compare with").add_subparsers(
        required=True, metavar="ACTION"
    )
    update = actions.add_parser("update", help="take over the records that the rules compare with")
    _add_rules(update)
    update.set_defaults(run="baseline_update")


def _add_rules(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("rules", metavar="RULES", help="a TOML file, or the name of rules that are shipped")
    parser.add_argument("--results", type=_path, default=Path("results"), metavar="DIR", help="(%(default)s)")


def _add_tables(commands: Any) -> None:
    tables = commands.add_parser("tables", help="print tables from records")
    tables.add_argument("--results", type=_path, default=Path("results"), metavar="DIR", help="(%(default)s)")
    tables.add_argument("--format", choices=("terminal", "md", "csv", "json"), default="terminal")
    tables.add_argument(
        "--stage",
        choices=("decode", "preprocess", "infer", "h2d", "compute", "d2h", "head", "infer_head", "total"),
        default="total",
        help="whose latency (%(default)s)",
    )
    tables.add_argument(
        "--against",
        choices=("published",),
        help="compare with the published tables: ours, theirs, the difference, and where the settings differ",
    )
    tables.add_argument(
        "--style",
        choices=("plain", "modelzoo"),
        default="plain",
        help="modelzoo: the blocks of a model-zoo README (training, evaluation, inference)",
    )
    tables.add_argument(
        "--pivot", choices=("backend", "precision", "detector"), help="side by side: a column of each"
    )
    tables.add_argument(
        "--front", choices=("image_auroc", "pixel_auroc", "aupro"), help="accuracy against median latency"
    )
    tables.add_argument(
        "--picture", type=_path, metavar="FILE", help="with --front: draw it too, FILE.png or FILE.svg"
    )
    tables.add_argument("--json", action="store_true", help="the same as --format json")
    tables.set_defaults(run="tables")


def _add_backends(commands: Any) -> None:
    backends = commands.add_parser("backends", help="which backends can run here; which cannot, and why")
    backends.add_argument("--json", action="store_true", help="print one JSON document and nothing else")
    backends.set_defaults(run="backends")


def _add_doctor(commands: Any) -> None:
    doctor = commands.add_parser(
        "doctor", help="walk what a backend needs, down to a model that runs; say what is missing"
    )
    doctor.add_argument("--backend", required=True, metavar="NAME", help="see: python -m harness backends")
    doctor.add_argument("--json", action="store_true", help="print one JSON document and nothing else")
    doctor.set_defaults(run="doctor")


def _add_data(commands: Any) -> None:
    data = commands.add_parser("data", help="make or check data sets").add_subparsers(
        required=True, metavar="ACTION"
    )
    synth = data.add_parser("synth", help="write the synthetic data set in MVTec layout")
    synth.add_argument("out", type=_path, metavar="OUT")
    _category(synth)
    synth.add_argument("--seed", type=_seed, default=0)
    synth.set_defaults(run="synth")
    check = data.add_parser("check", help="read everything and say what is there and what is wrong")
    check.add_argument("dir", type=_path, metavar="DIR", help="folder of categories, or one category")
    check.add_argument("--mask-threshold", type=_grey, default=127, metavar="V")
    check.set_defaults(run="check")


def _add_weights(commands: Any) -> None:
    weights = commands.add_parser("weights", help="convert backbone weights").add_subparsers(
        required=True, metavar="ACTION"
    )
    convert = weights.add_parser("convert", help="torchvision, timm or MindSpore file → our safetensors")
    convert.add_argument("source", type=_path, metavar="W")
    convert.add_argument("target", type=_path, metavar="OUT.safetensors")
    convert.set_defaults(run="convert")


def _category(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--category", action="append", metavar="NAME", help="repeats; `all` for every one")


def _path(text: str) -> Path:
    from harness import storage  # not before there is a path to read: `--help` imports nothing heavy

    return storage.local_path(text)


def _label(text: str) -> str:
    if not text.strip() or not text.isprintable():
        raise argparse.ArgumentTypeError(f"{text!r} is not a name: one line of printable characters")
    return text


def _seed(text: str) -> int:
    if not text.isdecimal() or int(text) >= 2**32:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 to 4294967295")
    return int(text)


def _margin(text: str) -> float:
    return _share(text, text)


def _tolerance(text: str) -> tuple[str, float]:
    name, _, share = text.rpartition("=")
    if not name:
        raise argparse.ArgumentTypeError(f"{text!r} is not OUTPUT=SHARE, embedding=1e-3 say")
    return name, _share(share, text)


def _share(text: str, whole: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < 1:  # anything is within 1
        raise argparse.ArgumentTypeError(f"{whole!r}: {text!r} is not a number from 0 to below 1")
    return value


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive whole number")
    return int(text)


def _gears(text: str) -> tuple[int, ...]:
    gears = sorted({_positive(item) for item in text.split(",")})
    if len(gears) < 2 or len(gears) != len(text.split(",")):
        raise argparse.ArgumentTypeError(f"{text!r} is not two or more different batch sizes, 1,4,8")
    return tuple(gears)


def _grey(text: str) -> int:
    if not text.isdecimal() or int(text) > 254:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a grey value from 0 to 254 (defective is what is greater)"
        )
    return int(text)


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 1 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time of at least one second")
    return value
