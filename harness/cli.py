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
FORMATS = ("onnx", "mindir", "air")


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
        kept = "; what was finished is kept, the same command continues"
        lasting = getattr(options, "run", None) in ("bench", "fit", "export")
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
        _add_parity,
        _add_tables,
        _add_backends,
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
    bench.add_argument("--data", type=_path, metavar="DIR", help="folder that holds the categories")
    _category(bench)
    bench.add_argument(
        "--backend", action="append", metavar="NAME", help="repeats; see: python -m harness backends"
    )
    bench.add_argument("--variant", metavar="ID", help="variant of the artifact, `onnx-fp32`")
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
    bench.add_argument("--seed", type=int, default=0, help="of the built-in data and backbone (%(default)s)")
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
        "--seed", type=int, default=0, help="of hold-out, channel draw, untrained backbone (%(default)s)"
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
    export.add_argument("--format", choices=FORMATS, action="append", required=True, help="repeats")
    export.add_argument(
        "--head-in-graph",
        action="store_true",
        help="the graph also holds the head: image in, map and score out",
    )
    export.set_defaults(run="export")


def _add_parity(commands: Any) -> None:
    parity = commands.add_parser("parity", help="say whether backends agree, from their records")
    parity.add_argument("--reference", required=True, metavar="BACKEND", help="the backend to be agreed with")
    parity.add_argument("--results", type=_path, default=Path("results"), metavar="DIR", help="(%(default)s)")
    parity.add_argument(
        "--report", type=_path, metavar="DIR", help="write pictures of flips and largest differences"
    )
    parity.add_argument("--json", action="store_true", help="print one JSON document and nothing else")
    parity.set_defaults(run="parity")


def _add_tables(commands: Any) -> None:
    tables = commands.add_parser("tables", help="print tables from records")
    tables.add_argument("--results", type=_path, default=Path("results"), metavar="DIR", help="(%(default)s)")
    tables.add_argument("--format", choices=("terminal", "md", "csv", "json"), default="terminal")
    tables.add_argument(
        "--stage",
        choices=("decode", "preprocess", "infer", "head", "infer_head", "total"),
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
    tables.add_argument("--json", action="store_true", help="the same as --format json")
    tables.set_defaults(run="tables")


def _add_backends(commands: Any) -> None:
    backends = commands.add_parser("backends", help="which backends can run here; which cannot, and why")
    backends.add_argument("--json", action="store_true", help="print one JSON document and nothing else")
    backends.set_defaults(run="backends")


def _add_data(commands: Any) -> None:
    data = commands.add_parser("data", help="make or check data sets").add_subparsers(
        required=True, metavar="ACTION"
    )
    synth = data.add_parser("synth", help="write the synthetic data set in MVTec layout")
    synth.add_argument("out", type=_path, metavar="OUT")
    _category(synth)
    synth.add_argument("--seed", type=int, default=0)
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


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive whole number")
    return int(text)


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
