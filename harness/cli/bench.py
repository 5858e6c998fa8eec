"""`bench`: measure accuracy and latency."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from harness.cli import arguments
from harness.cli.arguments import CONTINUES, Parser, categories, path, positive
from harness.errors import UsageError

if TYPE_CHECKING:
    from harness.run.plan import BenchRequest


def add_bench(parser: Parser) -> None:
    """Add the options of `bench`."""
    parser.describe(
        "Measure accuracy and latency, category by category. Without MODEL: make synthetic data, fit PaDiM on it with "
        "an untrained backbone, export it, and run every backend of this machine. A published table's settings: "
        "python -m harness reproduce.",
        example="bench artifacts/padim-resnet18 --data data --backend onnxruntime-cpu",
    )
    parser.add_argument(
        "model",
        nargs="*",
        type=path,
        metavar="MODEL",
        help="an artifact, a folder of artifacts, or an .onnx file (docs/reference/onnx-models.md)",
    )
    parser.add_argument(
        "--variant",
        action="append",
        metavar="ID",
        help="variant of the artifact; repeatable, the others are compared with the first",
    )
    arguments.add_backend(parser)
    data = parser.add_argument_group("data")
    arguments.add_data(data, required=False)
    arguments.add_category(data)
    arguments.add_masks(data)
    data.add_argument(
        "--inputs", type=path, metavar="DIR", help="read input batches from files instead of preprocessing"
    )
    data.add_argument(
        "--seed", type=arguments.seed, default=0, metavar="N", help="seed of the built-in data and backbone"
    )
    onnx = parser.add_argument_group("an .onnx MODEL")
    onnx.add_argument("--manifest", type=path, metavar="FILE", help="description drafted by `onnx describe`")
    arguments.add_declarations(onnx)
    measurement = parser.add_argument_group("measurement and results")
    measurement.add_argument(
        "--batch-size",
        type=positive,
        metavar="N",
        help="images per run (default: 1, or the fixed batch of the .onnx file)",
    )
    arguments.add_threads(measurement)
    arguments.add_warmup(measurement)
    arguments.add_timeout(measurement)
    arguments.add_force(measurement)
    arguments.add_results(measurement, "--out", "results folder")
    measurement.add_argument(
        "--save-outputs", action="store_true", help="save the network's raw outputs, for `replay`"
    )
    arguments.add_json(measurement)
    parser.set_defaults(run=_bench, continues=CONTINUES)


def _bench(options: argparse.Namespace) -> int:
    from harness.cli.outcome import run, say_on_stderr
    from harness.run.plan import plan

    say = say_on_stderr if options.json else print
    if not options.model:
        request = _built_in(options, say)
    elif any(_is_onnx(model) for model in options.model):
        request = _onnx(options, say)
    else:
        request = _artifacts(options, say)
    return run(plan(request), options, request.backends, variants=request.variants)


def _is_onnx(model: Path) -> bool:
    return model.is_file() or (model.suffix == ".onnx" and not model.is_dir())


def _built_in(options: argparse.Namespace, say: Callable[[str], None]) -> BenchRequest:
    """Make data and detectors.

    Raises:
        UsageError: an option that needs a MODEL.
    """
    from harness.run import quickstart

    for name in ("data", "category", "variant", "inputs", "manifest", "set"):
        if getattr(options, name):
            raise UsageError(
                f"bench --{name} needs a MODEL: fit and export one first (python -m harness fit --help), or reproduce a "
                "published table, which does both; bench without a MODEL runs on built-in synthetic data"
            )
    say(quickstart.WELCOME)
    built = quickstart.prepare(options.out / "builtin", seed=options.seed, backends=options.backend, say=say)
    return _request(options, (built.artifacts,), built.data, built.backends)


def _onnx(options: argparse.Namespace, say: Callable[[str], None]) -> BenchRequest:
    """Adopt the ONNX model as one artifact per category."""
    from harness.cli import onnx
    from harness.run.quickstart import runnable_backends

    if len(options.model) > 1:
        raise UsageError(
            "bench takes one .onnx file, alone: run bench once for it and once for the others, into one --out folder"
        )
    artifacts, options.batch_size = onnx.artifacts(options, categories(options), say)
    backends = tuple(dict.fromkeys(options.backend or onnx.backends(runnable_backends(say))))
    return _request(options, artifacts, options.data, backends)


def _artifacts(options: argparse.Namespace, say: Callable[[str], None]) -> BenchRequest:
    from harness.run.quickstart import runnable_backends

    if options.manifest is not None or options.set:
        raise UsageError("bench --manifest and --set describe an .onnx MODEL: artifacts describe themselves")
    if options.data is None:
        raise UsageError("bench MODEL needs --data DIR, the folder that holds the categories")
    backends = tuple(dict.fromkeys(options.backend or runnable_backends(say)))
    return _request(options, tuple(options.model), options.data, backends)


def _request(
    options: argparse.Namespace, artifacts: tuple[Path, ...], data: Path, backends: tuple[str, ...]
) -> BenchRequest:
    from harness.cli.outcome import run_options
    from harness.run.plan import BenchRequest

    return BenchRequest(
        artifacts=artifacts,
        data=data,
        categories=categories(options),
        backends=backends,
        out=options.out,
        variants=tuple(dict.fromkeys(options.variant or ())),
        save_outputs=options.save_outputs,
        inputs=options.inputs,
        options=run_options(options),
    )
