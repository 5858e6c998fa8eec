"""The command line: parse, call, print, exit. Nothing heavy is imported before a command needs it.

Exit codes: 0 done and passed, 1 a verdict failed, 2 wrong use, 3 something could not be measured (1 beats 3 beats 0),
130 interrupted.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness import __version__
from harness.errors import HarnessError, UsageError

if TYPE_CHECKING:
    from harness.parity import ParityReport
    from harness.record import Record

DETECTORS = ("padim",)
BACKBONES = ("resnet18", "wide_resnet50_2", "wide_resnet101_2")
FORMATS = ("onnx", "mindir", "air")
_EXIT = {"passed": 0, "failed": 1, "not measured": 3}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and give its exit code."""
    options = _parser().parse_args(arguments)
    try:
        code: int = options.run(options)
    except HarnessError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted; what was finished is kept, the same command continues", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output has gone, as in `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
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
        "--artifact", type=Path, action="append", metavar="DIR", help="artifact, or a folder of them"
    )
    bench.add_argument("--data", type=Path, metavar="DIR", help="folder that holds the categories")
    _category(bench)
    bench.add_argument(
        "--backend", action="append", metavar="NAME", help="repeats; see: python -m harness backends"
    )
    bench.add_argument("--variant", metavar="ID", help="variant of the artifact, `onnx-fp32`")
    bench.add_argument(
        "--out", type=Path, default=Path("results"), metavar="DIR", help="results folder (%(default)s)"
    )
    bench.add_argument("--batch-size", type=_positive, default=1, metavar="N")
    bench.add_argument(
        "--threads", type=_positive, metavar="N", help="cores each worker is pinned to (all usable)"
    )
    bench.add_argument(
        "--warmup", type=_positive, default=3, metavar="N", help="untimed runs first (%(default)s)"
    )
    bench.add_argument(
        "--mask-threshold", type=int, default=127, metavar="V", help="defective above V (%(default)s)"
    )
    bench.add_argument(
        "--timeout", type=float, default=600.0, metavar="S", help="kill a worker silent for S seconds"
    )
    bench.add_argument("--seed", type=int, default=0, help="of the built-in data and backbone (%(default)s)")
    bench.add_argument("--force", action="store_true", help="measure finished cases again")
    bench.add_argument("--json", action="store_true", help="print one JSON document and nothing else")
    bench.set_defaults(run=_bench)


def _add_fit(commands: Any) -> None:
    fit = commands.add_parser("fit", help="fit a detector on the good images of a category")
    fit.add_argument("--detector", choices=DETECTORS, default="padim")
    fit.add_argument("--backbone", choices=BACKBONES, default="resnet18")
    fit.add_argument(
        "--weights",
        required=True,
        metavar="W",
        help="backbone weights, or `random` for an untrained, seeded backbone",
    )
    fit.add_argument(
        "--data", type=Path, required=True, metavar="DIR", help="folder that holds the categories"
    )
    _category(fit)
    fit.add_argument("--out", type=Path, default=Path("artifacts"), metavar="DIR", help="(%(default)s)")
    fit.add_argument(
        "--seed", type=int, default=0, help="of hold-out, channel draw, untrained backbone (%(default)s)"
    )
    fit.add_argument(
        "--resize", type=_positive, default=256, metavar="PX", help="squash to PX x PX (%(default)s)"
    )
    fit.add_argument(
        "--crop", type=_positive, default=224, metavar="PX", help="then the centre (%(default)s)"
    )
    fit.add_argument(
        "--channels", type=_positive, metavar="D", help="PaDiM: channels kept (100, wide networks 550)"
    )
    fit.add_argument(
        "--channel-draw",
        choices=("numpy", "modelzoo"),
        default="numpy",
        help="PaDiM: our seeded draw, or the model zoo's own (%(default)s)",
    )
    fit.add_argument("--force", action="store_true", help="replace an artifact fitted from another request")
    fit.set_defaults(run=_fit)


def _add_export(commands: Any) -> None:
    export = commands.add_parser("export", help="write runnable forms of an artifact's network")
    export.add_argument("artifact", type=Path, metavar="ARTIFACT", help="artifact, or a folder of them")
    export.add_argument("--format", choices=FORMATS, action="append", required=True, help="repeats")
    export.set_defaults(run=_export)


def _add_parity(commands: Any) -> None:
    parity = commands.add_parser("parity", help="say whether backends agree, from their records")
    parity.add_argument("--reference", required=True, metavar="BACKEND", help="the backend to be agreed with")
    parity.add_argument("--results", type=Path, default=Path("results"), metavar="DIR", help="(%(default)s)")
    parity.add_argument(
        "--report", type=Path, metavar="DIR", help="write pictures of flips and largest differences"
    )
    parity.add_argument("--json", action="store_true", help="print one JSON document and nothing else")
    parity.set_defaults(run=_parity)


def _add_tables(commands: Any) -> None:
    tables = commands.add_parser("tables", help="print tables from records")
    tables.add_argument("--results", type=Path, default=Path("results"), metavar="DIR", help="(%(default)s)")
    tables.add_argument("--format", choices=("terminal", "md", "csv", "json"), default="terminal")
    tables.add_argument(
        "--stage",
        choices=("decode", "preprocess", "infer", "head", "infer_head", "total"),
        default="total",
        help="whose latency (%(default)s)",
    )
    tables.add_argument("--json", action="store_true", help="the same as --format json")
    tables.set_defaults(run=_tables)


def _add_backends(commands: Any) -> None:
    backends = commands.add_parser("backends", help="which backends can run here; which cannot, and why")
    backends.add_argument("--json", action="store_true", help="print one JSON document and nothing else")
    backends.set_defaults(run=_backends)


def _add_data(commands: Any) -> None:
    data = commands.add_parser("data", help="make or check data sets").add_subparsers(
        required=True, metavar="ACTION"
    )
    synth = data.add_parser("synth", help="write the synthetic data set in MVTec layout")
    synth.add_argument("out", type=Path, metavar="OUT")
    _category(synth)
    synth.add_argument("--seed", type=int, default=0)
    synth.set_defaults(run=_synth)
    check = data.add_parser("check", help="read everything and say what is there and what is wrong")
    check.add_argument("dir", type=Path, metavar="DIR", help="folder of categories, or one category")
    check.add_argument("--mask-threshold", type=int, default=127, metavar="V")
    check.set_defaults(run=_check)


def _add_weights(commands: Any) -> None:
    weights = commands.add_parser("weights", help="convert backbone weights").add_subparsers(
        required=True, metavar="ACTION"
    )
    convert = weights.add_parser("convert", help="torchvision, timm or MindSpore file → our safetensors")
    convert.add_argument("source", type=Path, metavar="W")
    convert.add_argument("target", type=Path, metavar="OUT.safetensors")
    convert.set_defaults(run=_convert)


def _category(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--category", action="append", metavar="NAME", help="repeats; `all` for every one")


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not a positive number")
    return value


def _wanted(options: argparse.Namespace, known: Sequence[str]) -> tuple[str, ...]:
    """Category names asked for; all of `known` for `all` or when none is named."""
    asked = options.category or ["all"]
    if "all" in asked:
        return tuple(known)
    return tuple(dict.fromkeys(asked))


def _bench(options: argparse.Namespace) -> int:
    from harness import quickstart, suite

    say = _say_on_stderr if options.json else print
    settings = _settings(options)
    if options.artifact is not None:
        if options.data is None:
            raise UsageError("bench --artifact needs --data DIR, the folder that holds the categories")
        categories = () if "all" in (options.category or ["all"]) else tuple(dict.fromkeys(options.category))
        backends = tuple(dict.fromkeys(options.backend or quickstart.runnable_backends(say)))
        request = suite.BenchRequest(
            artifacts=tuple(options.artifact),
            data=options.data,
            categories=categories,
            backends=backends,
            **settings,
        )
        return _measure(request, options)
    if options.data is not None or options.category is not None:
        raise UsageError(
            "bench --data and --category need --artifact: fit and export first (python -m harness fit --help); "
            "a bare bench runs on built-in synthetic data"
        )
    made = quickstart.prepare(options.out / "builtin", seed=options.seed, backends=options.backend, say=say)
    request = suite.BenchRequest(
        artifacts=(made.artifacts,), data=made.data, categories=(), backends=made.backends, **settings
    )
    return _measure(request, options)


def _settings(options: argparse.Namespace) -> dict[str, Any]:
    from harness import host

    names = ("out", "variant", "batch_size", "warmup", "mask_threshold", "timeout", "force")
    settings = {name: getattr(options, name) for name in names}
    return settings | {"threads": options.threads or host.usable_cores()}


def _say_on_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _measure(request: Any, options: argparse.Namespace) -> int:
    import msgspec

    from harness import presentation, suite

    plan = suite.plan(request)
    if plan.finished and not options.json:
        print(
            f"{len(plan.finished)} of {len(plan.finished) + len(plan.jobs)} cases were measured before (--force again)"
        )
    try:
        records = suite.run(plan, timeout=request.timeout, report=_say_case if not options.json else _quiet)
    except suite.Interrupted as stop:
        print(stop, file=sys.stderr)
        return 130
    report = _parity_of(request, records)
    if options.json:
        print(json.dumps({"records": [msgspec.to_builtins(item) for item in records]}, allow_nan=False))
    else:
        presentation.show(records, report, out=request.out)
    unmeasured = 3 if any(item.status != "measured" for item in records) else 0
    return _worst(unmeasured, 0 if report is None else _EXIT[report.verdict])


def _worst(*codes: int) -> int:
    return 1 if 1 in codes else max(codes)


def _say_case(record: Record) -> None:
    case = record.case
    outcome = "measured" if record.status == "measured" else f"{record.status}: {record.reason}"
    print(f"{case.backend} {case.category}: {outcome}", file=sys.stderr, flush=True)


def _quiet(record: Record) -> None:
    if record.status != "measured":
        _say_case(record)


def _parity_of(request: Any, records: Sequence[Record]) -> ParityReport | None:
    """Parity of the records just made; none when fewer than two backends were asked for."""
    from harness import parity

    if len(request.backends) < 2:
        return None
    trained_with = [name for name in request.backends if name.startswith(("mindspore", "ascend910"))]
    return parity.parity(request.out, reference=(trained_with or request.backends)[0], records=tuple(records))


def _fit(options: argparse.Namespace) -> int:
    from harness import datasets, registry
    from harness.types import FitRequest

    weights = None if options.weights == "random" else Path(options.weights)
    if weights is None:
        print("backbone: untrained, drawn from the seed: for trying things out, never for a claim")
    fit = registry.resolve("stage", "fit", registry.STAGES)
    for name in _wanted(options, datasets.list_categories(options.data)):
        request = FitRequest(
            detector=options.detector,
            backbone=options.backbone,
            weights=weights,
            dataset=options.data.resolve().name,
            category=datasets.load_category(options.data, name),
            out=options.out / f"{options.detector}-{options.backbone}" / name,
            seed=options.seed,
            resize=options.resize,
            crop=options.crop,
            options={"channels": options.channels, "draw": options.channel_draw},
            force=options.force,
        )
        made, fresh = fit(request)
        manifest = made.manifest
        report = manifest.fit_report
        state = f"state {report['state_bytes'] / 1e6:.0f} MB ({report['covariance_form']})"
        print(
            f"{made.path}: "
            + (
                f"fitted on {manifest.training.images} images in {report['seconds']} s, "
                if fresh
                else "fitted before, "
            )
            + f"{manifest.thresholds.held_out_images} held out, threshold {manifest.thresholds.image:.3f}, {state}"
        )
    print(
        f"next: python -m harness export {options.out / f'{options.detector}-{options.backbone}'} --format onnx"
    )
    return 0


def _export(options: argparse.Namespace) -> int:
    from harness import artifact, registry

    for found in artifact.find(options.artifact, ()):
        for name in dict.fromkeys(options.format):
            with artifact.locked(found.path):
                variant = registry.resolve("format", name, registry.EXPORTERS)(found)
                artifact.add_variant(found.path, variant)
            worst = max(variant.agreement.values())
            print(
                f"{found.path / variant.model}: agrees with the MindSpore cell to {worst:.1e} (batch 1 and 3)"
            )
    return 0


def _parity(options: argparse.Namespace) -> int:
    from harness import parity

    report = parity.parity(options.results, reference=options.reference)
    if options.report is not None:
        from harness import pictures

        written = pictures.write_report(options.results, report, options.report)
        print(f"{len(written)} pictures in {options.report}", file=sys.stderr)
    if options.json:
        print(json.dumps(report.to_json(), allow_nan=False))
    else:
        print("\n".join(parity.lines(report)))
    return _EXIT[report.verdict]


def _tables(options: argparse.Namespace) -> int:
    from harness import record, tables

    records = record.latest(record.read_all(options.results))
    print(
        tables.render(tables.tables(records, stage=options.stage), "json" if options.json else options.format)
    )
    return 0


def _backends(options: argparse.Namespace) -> int:
    from concurrent.futures import ThreadPoolExecutor

    from harness import registry, worker

    names = registry.backend_names()
    with ThreadPoolExecutor(2) as pool:
        reasons = dict(zip(names, pool.map(worker.probe, names), strict=True))
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


def _synth(options: argparse.Namespace) -> int:
    from harness.datasets import synthetic

    categories = _wanted(options, synthetic.CATEGORIES)
    synthetic.synthesise(options.out, categories, options.seed)
    print(f"{options.out}: {', '.join(categories)} (seed {options.seed})")
    return 0


def _check(options: argparse.Namespace) -> int:
    from harness.datasets import check

    report = check.check(options.dir, mask_threshold=options.mask_threshold)
    print("\n".join(report.lines()))
    return 2 if report.problems else 0


def _convert(options: argparse.Namespace) -> int:
    from harness import registry

    convert = registry.resolve("stage", "convert", registry.STAGES)
    made = convert(options.source, options.target)
    dtypes = ", ".join(f"{count} {name}" for name, count in sorted(made.dtypes.items()))
    print(f"{options.target}: {made.backbone}, {made.parameters} parameters as float32 (stored as {dtypes})")
    print(f"left out: {len(made.dropped)} entries" + (f" ({', '.join(made.dropped[:6])}…)" if made.dropped else ""))
    for note in made.notes:
        print(f"note: {note}")
    return 0
