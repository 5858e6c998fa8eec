"""What each command does: gather what it needs, call the engine, print, and give the exit code."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import UsageError

if TYPE_CHECKING:
    from harness.parity import ParityReport
    from harness.record import Record

SUITE_SETTINGS = ("out", "batch_size", "threads", "warmup", "timeout", "force")
_EXIT = {"passed": 0, "failed": 1, "not measured": 3}


def _wanted(options: argparse.Namespace, known: Sequence[str]) -> tuple[str, ...]:
    """Category names asked for; all of `known` for `all` or when none is named."""
    asked = options.category or ["all"]
    if "all" in asked:
        return tuple(known)
    return tuple(dict.fromkeys(asked))


def _bench(options: argparse.Namespace) -> int:
    from harness import quickstart, suite

    if options.suite is not None:
        return _bench_suite(options)
    if options.weights is not None:
        raise UsageError("bench --weights needs --suite NAME, whose detectors it fits")
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
            "bench --data, --category and --variant need --artifact: fit and export first (python -m harness fit --help), "
            "or name a --suite, which does both; a bare bench runs on built-in synthetic data"
        )
    say(quickstart.WELCOME)
    made = quickstart.prepare(options.out / "builtin", seed=options.seed, backends=options.backend, say=say)
    request = suite.BenchRequest(
        artifacts=(made.artifacts,), data=made.data, categories=(), backends=made.backends, **settings
    )
    return _measure(request, options)


def _bench_suite(options: argparse.Namespace) -> int:
    from harness import suites

    for name in ("artifact", "variant", "mask_threshold", "mask_resize"):
        if getattr(options, name) is not None:
            raise UsageError(
                f"--{name.replace('_', '-')} is the suite's: leave it out, or write a suite of your own"
            )
    if options.data is None:
        raise UsageError("bench --suite needs --data DIR, the folder that holds the categories")
    suite = suites.read(suites.find(options.suite))
    settings = {name: value for name, value in _settings(options).items() if name in SUITE_SETTINGS}
    request = suites.SuiteRequest(
        suite=suite,
        data=options.data,
        weights=options.weights,
        device=options.device,
        categories=_wanted(options, ()),
        backends=tuple(dict.fromkeys(options.backend or ())),
        **settings,
    )
    plan = suites.ready(request)
    say, report = (_say_on_stderr, _quiet) if options.json else (print, _say_case)
    try:
        outcome = suites.run(plan, say=say, report=report)
    except suites.Interrupted as stop:
        print(stop, file=sys.stderr)
        return 130
    return _conclude(outcome.records, plan.backends, options, failures=outcome.failures)


def _settings(options: argparse.Namespace) -> dict[str, Any]:
    from harness import host

    names = ("out", "variant", "batch_size", "warmup", "timeout", "force")
    settings = {name: getattr(options, name) for name in names}
    return settings | {
        "threads": options.threads or host.usable_cores(),
        "mask_threshold": 127 if options.mask_threshold is None else options.mask_threshold,
        "mask_resize": options.mask_resize or "nearest",
    }


def _say_on_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _measure(request: Any, options: argparse.Namespace) -> int:
    from harness import suite

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
    return _conclude(records, request.backends, options)


def _conclude(
    records: Sequence[Record],
    backends: Sequence[str],
    options: argparse.Namespace,
    *,
    failures: Mapping[str, str] = {},
) -> int:
    """Show what was measured and whether the backends agree, and give the exit code.

    `failures` say of a category why it has no records.
    """
    import msgspec

    from harness import presentation

    report = _parity_of(records, backends, options.out)
    if options.json:
        document = {"records": [msgspec.to_builtins(item) for item in records]}
        print(json.dumps(document | ({"failures": failures} if failures else {}), allow_nan=False))
    elif records:
        presentation.show(records, report, out=options.out)
    for category, reason in failures.items():
        print(f"failed: {category}: {reason}", file=sys.stderr)
    incomplete = any(item.status != "measured" or item.undefined for item in records)
    unmeasured = 3 if incomplete or failures else 0
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


def _parity_of(records: Sequence[Record], backends: Sequence[str], out: Path) -> ParityReport | None:
    """Parity of the records just made; none without records of at least two backends."""
    from harness import parity

    if len(backends) < 2 or not records:
        return None
    trained_with = [name for name in backends if name.startswith(("mindspore", "ascend910"))]
    return parity.parity(out, reference=(trained_with or backends)[0], records=tuple(records))


def _fit(options: argparse.Namespace) -> int:
    from harness import datasets, fitting

    return fitting.fit(options, _wanted(options, datasets.list_categories(options.data)))


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

    kind: tables.Format = "json" if options.json else options.format
    records = record.latest(record.read_all(options.results))
    if options.against is not None and options.style != "plain":
        raise UsageError("--against published and --style modelzoo are two tables: ask for one at a time")
    if options.against is not None:
        found = tables.compare(records)
        print(tables.render_comparisons(found, kind))
        for reason in found.reasons if kind == "csv" else ():  # its lines are all numbers
            print(f"not compared: {reason}", file=sys.stderr)
    elif options.style == "modelzoo":
        print(tables.render_blocks(tables.blocks(records), kind))
    else:
        print(tables.render(tables.tables(records, stage=options.stage), kind))
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
