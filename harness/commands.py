"""What each command does: gather what it needs, call the engine, print, and give the exit code."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import UsageError

if TYPE_CHECKING:
    from harness.parity import ParityReport
    from harness.record import Record
    from harness.settings import Settings

FEW_HELD_OUT = 20
"""Fewer good images than this cannot place a 95 % quantile: the threshold is their largest score."""
_EXIT = {"passed": 0, "failed": 1, "not measured": 3}


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
        backends = tuple(dict.fromkeys(options.backend or quickstart.runnable_backends(say)))
        request = suite.BenchRequest(
            artifacts=tuple(options.artifact),
            data=options.data,
            categories=_wanted(options, ()),
            backends=backends,
            **settings,
        )
        return _measure(request, options)
    if options.data is not None or options.category is not None or options.variant is not None:
        raise UsageError(
            "bench --data, --category and --variant need --artifact: fit and export first (python -m harness fit --help); "
            "a bare bench runs on built-in synthetic data"
        )
    say(quickstart.WELCOME)
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
    unmeasured = 3 if any(item.status != "measured" or item.undefined for item in records) else 0
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

    wanted = _fit_settings(options)
    backbone = "none" if options.detector == "ssim_ae" else options.backbone or "resnet18"
    if options.weights is None and backbone != "none":
        raise UsageError("fit needs --weights W: a backbone's file, or `random` for an untrained one")
    weights = None if options.weights in ("random", None) else Path(options.weights)
    if options.weights == "random":
        print("backbone: untrained, drawn from the seed: for trying things out, never for a claim")
    categories = [
        datasets.load_category(options.data, name)
        for name in _wanted(options, datasets.list_categories(options.data))
    ]
    made_in = options.out / (options.detector if backbone == "none" else f"{options.detector}-{backbone}")
    fit = registry.resolve("stage", "fit", registry.STAGES)
    for category in categories:
        request = FitRequest(
            detector=options.detector,
            backbone=backbone,
            weights=weights,
            dataset=options.data.resolve().name,
            category=category,
            out=made_in / category.name,
            settings=wanted,
            seed=options.seed,
            device=options.device,
            precision=options.precision,
            init_from=options.init_from,
            checkpoint_every=options.checkpoint_every,
            resume=options.resume,
            force=options.force,
        )
        made, fresh = fit(request)
        manifest = made.manifest
        report = manifest.fit_report
        state = f"state {report.get('state_bytes', 0) / 1e6:.0f} MB"
        print(
            f"{made.path}: "
            + (
                f"fitted on {manifest.training.images} images in {report['seconds']} s, "
                if fresh
                else "fitted before, "
            )
            + f"{manifest.thresholds.held_out_images} held out, threshold {manifest.thresholds.image:.3f}, {state}"
        )
        if manifest.thresholds.held_out_images < FEW_HELD_OUT:
            print(
                f"  the thresholds rest on {manifest.thresholds.held_out_images} held-out images alone: take them as rough"
            )
    print(f"next: python -m harness export {shlex.quote(str(made_in))} --format onnx --format mindir")
    return 0


def _fit_settings(options: argparse.Namespace) -> Settings:
    from harness import settings

    flags = ("resize", "crop", "epochs", "batch_size", "micro_batch", "workers", "early_stop")
    given: dict[str, Any] = {
        name: getattr(options, name) for name in flags if getattr(options, name) is not None
    }
    for item in options.set:
        name, equals, value = item.partition("=")
        if not equals:
            raise UsageError(f"--set {item}: expected NAME=VALUE")
        given[name.strip().replace("-", "_")] = value.strip()
    return settings.settings(options.detector, given)


def _describe_settings(options: argparse.Namespace) -> int:
    from tabulate import tabulate

    from harness import settings

    print(
        tabulate(
            settings.described(options.detector),
            headers="keys",
            tablefmt="rounded_outline",
            disable_numparse=True,
        )
    )
    return 0


def _export(options: argparse.Namespace) -> int:
    from harness import artifact

    for found in artifact.find(options.artifact, ()):
        for name in dict.fromkeys(options.format):
            variant = artifact.export(found, name, head_in_graph=options.head_in_graph)
            worst = max(variant.agreement.values())
            print(
                f"{found.path / variant.model}: agrees with the MindSpore cell to {worst:.1e} (batch 1 and 3)"
            )
    return 0


def _parity(options: argparse.Namespace) -> int:
    from harness import parity

    report = parity.parity(options.results, reference=options.reference)
    if options.json:
        print(json.dumps(report.to_json(), allow_nan=False))
    else:
        print("\n".join(parity.lines(report)))
    if options.report is not None:  # after the verdict, which no full disk may swallow
        from harness import pictures

        sys.stdout.flush()
        written = pictures.write_report(options.results, report, options.report)
        print(f"{len(written)} pictures in {options.report}", file=sys.stderr)
    return _EXIT[report.verdict]


def _tables(options: argparse.Namespace) -> int:
    from harness import record, tables

    records = record.latest(record.read_all(options.results))
    print(
        tables.render(tables.tables(records, stage=options.stage), "json" if options.json else options.format)
    )
    return 0


def _backends(options: argparse.Namespace) -> int:
    from harness import registry, worker

    reasons = worker.probe_all()
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
    from tabulate import tabulate

    widths = [None, None, None, None, 36, None, 24, None]
    print(tabulate(report.rows(), headers="keys", tablefmt="rounded_outline", maxcolwidths=widths))
    print("\n".join(report.lines()))
    return 2 if report.problems else 0


def _convert(options: argparse.Namespace) -> int:
    from harness import registry

    convert = registry.resolve("stage", "convert", registry.STAGES)
    made = convert(options.source, options.target)
    dtypes = ", ".join(f"{count} {name}" for name, count in sorted(made.dtypes.items()))
    print(f"{options.target}: {made.backbone}, {made.parameters} parameters as float32 (stored as {dtypes})")
    print(
        f"left out: {len(made.dropped)} entries"
        + (f" ({', '.join(made.dropped[:6])}…)" if made.dropped else "")
    )
    for note in made.notes:
        print(f"note: {note}")
    return 0


COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "bench": _bench,
    "fit": _fit,
    "settings": _describe_settings,
    "export": _export,
    "parity": _parity,
    "tables": _tables,
    "backends": _backends,
    "synth": _synth,
    "check": _check,
    "convert": _convert,
}
