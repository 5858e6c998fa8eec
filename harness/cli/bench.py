"""`bench`: measure accuracy and latency."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from harness.cli.arguments import (
    CONTINUES,
    add_category,
    add_declarations,
    add_json,
    add_masks,
    path,
    positive,
    seconds,
    seed,
    wanted,
)
from harness.cli.outcome import conclude, run, run_jobs, say_case, say_failure, say_on_stderr
from harness.errors import UsageError

REPLAY = "replay"
SUITE_SETTINGS = ("out", "batch_size", "threads", "warmup", "timeout", "force")


def add(commands: Any) -> None:
    """Add the parser of this command."""
    bench = commands.add_parser(
        "bench",
        help="measure accuracy and latency, category by category, on one or more backends",
        description="Measure accuracy and latency. Without --artifact: make synthetic data, fit PaDiM on it with an "
        "untrained backbone, export, and run every backend of this machine.",
    )
    bench.add_argument(
        "--artifact", type=path, action="append", metavar="DIR", help="artifact, or a folder of them"
    )
    bench.add_argument(
        "--suite",
        metavar="NAME",
        help="fit, export and measure with a published table's settings: padim, patchcore, fastflow, stpm, ssim_ae, "
        "ssim_ae_texture, or a file of your own",
    )
    bench.add_argument("--weights", type=path, metavar="W", help="backbone weights for a suite's fit")
    bench.add_argument(
        "--device",
        choices=("cpu", "ascend", "gpu"),
        default="cpu",
        help="a suite's fit runs on (%(default)s)",
    )
    bench.add_argument(
        "--onnx",
        type=path,
        action="append",
        metavar="FILE",
        help="an ONNX model that was not exported here (docs/onnx.md)",
    )
    bench.add_argument(
        "--manifest", type=path, metavar="FILE", help="with --onnx: what `onnx describe` drafted"
    )
    add_declarations(bench, "with --onnx: ")
    bench.add_argument("--data", type=path, metavar="DIR", help="folder that holds the categories")
    add_category(bench)
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
        "--out", type=path, default=Path("results"), metavar="DIR", help="results folder (%(default)s)"
    )
    bench.add_argument("--batch-size", type=positive, metavar="N", help="(1; of --onnx what the file fixes)")
    bench.add_argument(
        "--threads", type=positive, metavar="N", help="cores each worker is pinned to (all usable)"
    )
    bench.add_argument(
        "--warmup", type=positive, default=3, metavar="N", help="untimed runs first (%(default)s)"
    )
    add_masks(bench)
    bench.add_argument(
        "--timeout", type=seconds, default=600.0, metavar="S", help="kill a worker silent for S seconds"
    )
    bench.add_argument("--seed", type=seed, default=0, help="of the built-in data and backbone (%(default)s)")
    bench.add_argument(
        "--save-outputs", action="store_true", help="keep the raw outputs, for --backend replay elsewhere"
    )
    bench.add_argument(
        "--inputs", type=path, metavar="DIR", help="take batches written before, in place of preprocessing"
    )
    bench.add_argument(
        "--outputs",
        type=path,
        metavar="RESULTS",
        help="of --backend replay: the records whose outputs it plays",
    )
    bench.add_argument("--force", action="store_true", help="measure finished cases again")
    add_json(bench)
    bench.set_defaults(run=_bench, continues=CONTINUES)


def _bench(options: argparse.Namespace) -> int:
    from harness.run import plan as plan_module
    from harness.run import quickstart

    say = say_on_stderr if options.json else print
    if options.onnx is not None:
        from harness.cli import onnx

        options.artifact, options.batch_size = onnx.artifacts(options, wanted(options, ()), say)
        options.backend = options.backend or onnx.backends(quickstart.runnable_backends(say))
    elif options.manifest is not None or options.set:
        raise UsageError("bench --manifest and --set describe the model of --onnx FILE")
    if options.suite is not None:
        return _bench_suite(options)
    if REPLAY in (options.backend or ()) or options.outputs is not None:
        return _replay(options)
    if options.weights is not None:
        raise UsageError("bench --weights needs --suite NAME, whose detectors it fits")
    settings = _settings(options)
    if options.artifact is not None:
        if options.data is None:
            raise UsageError("bench --artifact needs --data DIR, the folder that holds the categories")
        backends = tuple(dict.fromkeys(options.backend or quickstart.runnable_backends(say)))
        request = plan_module.BenchRequest(
            artifacts=tuple(options.artifact),
            data=options.data,
            categories=wanted(options, ()),
            backends=backends,
            **settings,
        )
        return run(plan_module.plan(request), options, request.backends)
    given = (options.data, options.category, options.variant, options.inputs)
    if any(value is not None for value in given):
        raise UsageError(
            "bench --data, --category, --variant and --inputs need --artifact: fit and export first (python -m harness fit --help), "
            "or name a --suite, which does both; a bare bench runs on built-in synthetic data"
        )
    say(quickstart.WELCOME)
    made = quickstart.prepare(options.out / "builtin", seed=options.seed, backends=options.backend, say=say)
    request = plan_module.BenchRequest(
        artifacts=(made.artifacts,), data=made.data, categories=(), backends=made.backends, **settings
    )
    return run(plan_module.plan(request), options, request.backends)


def _bench_suite(options: argparse.Namespace) -> int:
    from harness import suites
    from harness.run import suite as suite_run
    from harness.run import suite_ready

    for name in ("save_outputs", "inputs"):
        if getattr(options, name):
            raise UsageError(
                f"--{name.replace('_', '-')} needs --artifact: a suite measures as it was published"
            )
    for name in ("artifact", "variant", "mask_threshold", "mask_resize"):
        if getattr(options, name) is not None:
            raise UsageError(
                f"--{name.replace('_', '-')} is the suite's: leave it out, or write a suite of your own"
            )
    if options.data is None:
        raise UsageError("bench --suite needs --data DIR, the folder that holds the categories")
    suite = suites.read(suites.find(options.suite))
    settings = {name: value for name, value in _settings(options).items() if name in SUITE_SETTINGS}
    request = suite_ready.SuiteRequest(
        suite=suite,
        data=options.data,
        weights=options.weights,
        device=options.device,
        categories=wanted(options, ()),
        backends=tuple(dict.fromkeys(options.backend or ())),
        **settings,
    )
    plan = suite_ready.ready(request)
    say, report = (say_on_stderr, say_failure) if options.json else (print, say_case)
    try:
        outcome = suite_run.run(plan, say=say, report=report)
    except suite_run.Interrupted as stop:
        print(stop, file=sys.stderr)
        return 130
    return conclude(outcome.records, plan.backends, options, failures=outcome.failures)


def _replay(options: argparse.Namespace) -> int:
    from harness.run import replay

    if options.backend != [REPLAY] or options.outputs is None or options.artifact is None:
        raise UsageError(
            "replay stands alone: bench --backend replay --outputs RESULTS --artifact DIR; "
            "RESULTS comes from bench --save-outputs, or from score"
        )
    for name in ("data", "inputs", "save_outputs", "suite", "weights", "mask_threshold", "mask_resize"):
        if getattr(options, name) not in (None, False):
            raise UsageError(
                f"--{name.replace('_', '-')}: a replay takes everything from the record it plays"
            )
    if len(options.variant or ()) > 1:
        raise UsageError("bench --backend replay plays the outputs of one --variant at a time, or of all")
    jobs = replay.jobs(
        replay.ReplayRequest(
            artifacts=tuple(options.artifact),
            results=options.outputs,
            categories=wanted(options, ()),
            out=options.out,
            variant=options.variant[0] if options.variant else None,
            threads=options.threads,
        )
    )
    return run_jobs(jobs, options)


def _settings(options: argparse.Namespace) -> dict[str, Any]:
    from harness import machine

    names = ("out", "warmup", "timeout", "force", "save_outputs", "inputs")
    settings = {name: getattr(options, name) for name in names}
    return settings | {
        "batch_size": options.batch_size or 1,
        "variants": tuple(dict.fromkeys(options.variant or ())),
        "threads": options.threads or machine.usable_cores(),
        "mask_threshold": 127 if options.mask_threshold is None else options.mask_threshold,
        "mask_resize": options.mask_resize or "nearest",
    }
