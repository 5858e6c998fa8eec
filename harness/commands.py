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
    from harness.job import Job
    from harness.parity import ParityReport
    from harness.record import Record
    from harness.suite import Plan

REPLAY = "replay"
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

    say = _say_on_stderr if options.json else print
    if options.onnx is not None:
        from harness.foreign import running

        options.artifact = running.artifacts(options, _wanted(options, ()), say)
        options.backend = options.backend or running.backends(quickstart.runnable_backends(say))
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
        request = suite.BenchRequest(
            artifacts=tuple(options.artifact),
            data=options.data,
            categories=_wanted(options, ()),
            backends=backends,
            **settings,
        )
        return _measure(request, options)
    given = (options.data, options.category, options.variant, options.inputs)
    if any(value is not None for value in given):
        raise UsageError(
            "bench --data, --category, --variant and --inputs need --artifact: fit and export first (python -m harness fit --help), "
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


def _replay(options: argparse.Namespace) -> int:
    from harness import replaying

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
    jobs = replaying.jobs(
        replaying.ReplayRequest(
            artifacts=tuple(options.artifact),
            results=options.outputs,
            categories=_wanted(options, ()),
            out=options.out,
            variant=options.variant[0] if options.variant else None,
            threads=options.threads,
        )
    )
    return _run_jobs(jobs, options)


def _score(options: argparse.Namespace) -> int:
    from harness import host, scoring

    request = scoring.ScoreRequest(
        artifacts=options.artifact,
        data=options.data,
        categories=_wanted(options, ()),
        inputs=options.inputs,
        outputs=options.outputs,
        program=options.program,
        out=options.out,
        threads=options.threads or host.usable_cores(),
        label=options.label,
        output_dtype=options.output_dtype,
        mask_threshold=127 if options.mask_threshold is None else options.mask_threshold,
        mask_resize=options.mask_resize or "nearest",
    )
    return _run_jobs(scoring.jobs(request), options)


def _inputs(options: argparse.Namespace) -> int:
    from harness import artifact, batches, datasets, registry, storage

    found = artifact.find(options.artifact, _wanted(options, ()))
    alone = len(found) == 1 and found[0].path == options.artifact
    with storage.new_folder(options.to) as folder:
        for item in found:
            known = {variant.id: variant for variant in item.manifest.variants}
            wanted = options.variant or next(iter(known), "")
            if wanted not in known:
                raise UsageError(registry.unknown(f"variant of {item.path}", wanted, known))
            category = datasets.load_category(options.data, item.manifest.category)
            index = batches.write(
                item,
                known[wanted],
                category,
                folder if alone else folder / category.name,
                batch_size=options.batch_size,
                format_=options.format,
            )
            print(
                f"{category.name}: {len(index.images)} images in {len(index.batches)} batches for {wanted}, "
                f"input {index.input.name!r} {index.input.dtype} {index.layout}"
            )
    print(f"{options.to}: written whole; docs/files.md says how outputs must be named")
    return 0


def _pack(options: argparse.Namespace) -> int:
    from harness import packing

    names = packing.pack(options.results, options.to, only=options.only)
    print(f"{options.to}: {len(names)} files, {sum('/' not in name for name in names)} of them records")
    return 0


def _merge(options: argparse.Namespace) -> int:
    from harness import packing

    names = packing.merge(options.file, options.into, force=options.force)
    print(
        f"{options.into}: {len(names)} files added, {sum('/' not in name for name in names)} of them records"
    )
    return 0


def _settings(options: argparse.Namespace) -> dict[str, Any]:
    from harness import host

    names = ("out", "batch_size", "warmup", "timeout", "force", "save_outputs", "inputs")
    settings = {name: getattr(options, name) for name in names}
    return settings | {
        "variants": tuple(dict.fromkeys(options.variant or ())),
        "threads": options.threads or host.usable_cores(),
        "mask_threshold": 127 if options.mask_threshold is None else options.mask_threshold,
        "mask_resize": options.mask_resize or "nearest",
    }


def _say_on_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _measure(request: Any, options: argparse.Namespace) -> int:
    from harness import suite

    return _run(suite.plan(request), options, request.backends)


def _run_jobs(jobs: Sequence[Job], options: argparse.Namespace) -> int:
    from harness import suite

    suite.require_cores(max(job.case.threads for job in jobs))
    plan = suite.planned(jobs, options.out, force=options.force)
    return _run(plan, options, [job.case.backend for job in jobs])


def _run(plan: Plan, options: argparse.Namespace, backends: Sequence[str]) -> int:
    from harness import suite

    if plan.finished and not options.json:
        print(
            f"{len(plan.finished)} of {len(plan.finished) + len(plan.jobs)} cases were measured before (--force again)"
        )
    try:
        records = suite.run(plan, timeout=options.timeout, report=_say_case if not options.json else _quiet)
    except suite.Interrupted as stop:
        print(stop, file=sys.stderr)
        return 130
    in_order = sorted(records, key=lambda item: backends.index(item.case.backend))
    return _conclude(records, list(dict.fromkeys(item.case.runner for item in in_order)), options)


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

    variants = tuple(dict.fromkeys(getattr(options, "variant", None) or ()))  # of `bench` alone
    report = _parity_of(records, backends, variants, options.out)
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
    print(f"{case.runner} {case.category}: {outcome}", file=sys.stderr, flush=True)


def _quiet(record: Record) -> None:
    if record.status != "measured":
        _say_case(record)


def _parity_of(
    records: Sequence[Record], backends: Sequence[str], variants: Sequence[str], out: Path
) -> ParityReport | None:
    """Parity of the records just made, with the first of several variants; none without two sides."""
    from harness import parity

    if len(backends) * max(1, len(variants)) < 2 or not records:
        return None
    trained_with = [name for name in backends if name.startswith(("mindspore", "ascend910"))]
    simulated = {item.case.backend for item in records if item.device and item.device.simulated}
    reference = (trained_with or [name for name in backends if name not in simulated] or backends)[0]
    if len(variants) > 1:
        reference = f"{reference}:{variants[0]}"
    return parity.parity(out, reference=reference, records=tuple(records))


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
    from harness import exporting

    return exporting.export(options)


def _tune(options: argparse.Namespace) -> int:
    from harness import artifact, host, precision, suite, tuning, tuning_front

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
        images=options.images or precision.IMAGES,
        om=artifact.OmRequest(**given) if given else None,
        threads=options.threads or host.usable_cores(),
        warmup=options.warmup,
        timeout=options.timeout,
    )
    try:
        tuned = tuning.tune(request, say=_say_on_stderr, report=_quiet if options.json else _say_case)
    except suite.Interrupted as stop:
        print(stop, file=sys.stderr)
        return 130
    found = tuning_front.rows(tuned)
    told = tuning_front.lines(found, rounds=options.rounds, records=tuned.records[0])
    print(
        json.dumps(tuning_front.document(tuned, found), allow_nan=False) if options.json else "\n".join(told)
    )
    return 3 if any(row.difference is None and row.backend != "–" for row in found) else 0


def _parity(options: argparse.Namespace) -> int:
    from harness import parity

    given = [name for name in ("inputs", "artifact", "data", "to") if getattr(options, name) is not None]
    if given and not options.blame:
        raise UsageError(f"parity --{given[0]} needs --blame")
    outputs = dict(options.tolerance or ())
    if len(outputs) < len(options.tolerance or ()):
        raise UsageError("parity --tolerance names an output twice")
    if options.sign is not None:
        from harness.parity import page

        page.require_new(options.sign)
    asked = parity.Asked(profile=options.profile, outputs=outputs, margin=options.margin)
    report = parity.parity(options.results, reference=options.reference, asked=asked)
    document, lines = report.to_json(), parity.lines(report)
    if options.blame:
        from harness.blame import running

        blamed, told, _ = running.parity(options, report)
        document, lines = document | blamed, [*lines[:-1], *told, lines[-1]]
    print(json.dumps(document, allow_nan=False) if options.json else "\n".join(lines))
    if options.report is not None:  # after the verdict, which no full disk may swallow
        from harness import pictures

        sys.stdout.flush()
        written = pictures.write_report(options.results, report, options.report)
        print(f"{len(written)} pictures in {options.report}", file=sys.stderr)
    if options.sign is not None:
        sys.stdout.flush()
        page.write(options.results, report, options.sign)
        print(f"page to sign: {options.sign}", file=sys.stderr)
    return _EXIT[report.verdict]


def _gate(options: argparse.Namespace) -> int:
    from harness import gates

    report = gates.gate(gates.find(options.rules), options.results)
    print(json.dumps(report.to_json(), allow_nan=False) if options.json else "\n".join(gates.lines(report)))
    return _EXIT[report.verdict]


def _baseline_update(options: argparse.Namespace) -> int:
    from harness import gates

    changes = gates.update(gates.find(options.rules), options.results)
    print("\n".join(changes) or "the baseline is as it was")
    return 0


def _onnx_describe(options: argparse.Namespace) -> int:
    from harness.foreign import running

    document, lines = running.describe(options)
    print(json.dumps(document, allow_nan=False) if options.json else "\n".join(lines))
    return 0


def _tables(options: argparse.Namespace) -> int:
    from harness import record, tables

    kind: tables.Format = "json" if options.json else options.format
    records = record.latest(record.read_all(options.results))
    asked = ("--against", options.against), ("--pivot", options.pivot), ("--front", options.front)
    several = [name for name, value in asked if value is not None]
    several += ["--style modelzoo"] if options.style != "plain" else []
    if len(several) > 1:
        raise UsageError(f"{' and '.join(several)} are {len(several)} tables: ask for one at a time")
    if options.picture is not None and options.front is None:
        raise UsageError("tables --picture needs --front")
    if options.against is not None:
        found = tables.compare(records)
        print(tables.render_comparisons(found, kind))
        for reason in found.reasons if kind == "csv" else ():  # its lines are all numbers
            print(f"not compared: {reason}", file=sys.stderr)
    elif options.pivot is not None:
        print(tables.render_pivots(tables.pivot(records, options.pivot, stage=options.stage), kind))
    elif options.front is not None:
        fronts = tables.front(records, options.front, stage=options.stage)
        if options.picture is not None:
            from harness.tables import front_picture

            front_picture.write(fronts, options.picture)
        print(tables.render_fronts(fronts, kind))
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


def _doctor(options: argparse.Namespace) -> int:
    import msgspec

    from harness import worker

    checks = []
    for check in worker.examine(options.backend):
        checks.append(check)
        if not options.json:
            print(check.line(), flush=True)
    passed = bool(checks) and all(check.passed for check in checks)
    if options.json:
        print(json.dumps({"passed": passed, "checks": [msgspec.to_builtins(check) for check in checks]}))
    return 0 if passed else 3


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


def _blame(options: argparse.Namespace) -> int:
    from harness.blame import running

    document, lines, code = getattr(running, options.how)(options)
    print(json.dumps(document, allow_nan=False) if options.json else "\n".join(lines))
    return int(code)


COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "bench": _bench,
    "fit": _fit,
    "settings": _describe_settings,
    "export": _export,
    "tune": _tune,
    "onnx_describe": _onnx_describe,
    "inputs": _inputs,
    "score": _score,
    "pack": _pack,
    "merge": _merge,
    "parity": _parity,
    "blame": _blame,
    "gate": _gate,
    "baseline_update": _baseline_update,
    "tables": _tables,
    "backends": _backends,
    "doctor": _doctor,
    "synth": _synth,
    "check": _check,
    "convert": _convert,
}
