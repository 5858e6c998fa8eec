"""Baselines: the records that the rules of one file compare with; only `baseline update` changes them.

A baseline is a results folder with exactly the files that its rules need: records and benchmarks as they were written,
the evidence of pixel metrics, and `baseline.md`, which has one line for each of them, for a reviewer of a diff.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from harness import storage
from harness.errors import NotMeasured, UsageError
from harness.gates import interleaved, judges, ratios, rules, selection
from harness.gates.rules import Latency, NonInferior, Rule
from harness.gates.selection import Results
from harness.records import record as records

SUMMARY = "baseline.md"
_METRICS = ("image_auroc", "pixel_auroc", "aupro")


def update(path: Path, results: Path) -> tuple[str, ...]:
    """Replace the baseline of a file of rules by the records of a results folder, completely or not at all.

    Args:
        path: File of rules.
        results: Results folder.

    Returns:
        The removed lines of `baseline.md`, each after `- `, and the new ones, each after `+ `.

    Raises:
        NotMeasured: a record or benchmark cannot be trusted or is missing, as for the gate.
        UsageError: no rule compares with a baseline, or its folder holds something else.
    """
    file = rules.read(path)
    comparing = [rule for rule in file.rule if rules.needs_baseline(rule)]
    if file.baseline is None or not comparing:
        raise UsageError(f"{path}: no rule compares with a baseline")
    target = file.baseline
    summary = target / SUMMARY
    if target.exists() and not summary.is_file() and (not target.is_dir() or any(target.iterdir())):
        raise UsageError(f"{target}: not a baseline (no {SUMMARY} in it); name a new folder")
    before = summary.read_text(encoding="utf-8").splitlines() if summary.is_file() else []
    source = selection.read_results(results)
    files = _files(source, comparing)
    text = _summary(source, files)
    target.parent.mkdir(parents=True, exist_ok=True)
    with storage.scratch_folder(target.parent) as temporary:
        new = temporary / "new"
        for name in files:
            (new / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(results / name, new / name)
        storage.write_bytes(new / SUMMARY, text.encode())
        _swap(new, target, temporary / "old")
    after = text.splitlines()
    removed = (f"- {line}" for line in before if line not in after)
    return (*removed, *(f"+ {line}" for line in after if line not in before))


def _files(source: Results, comparing: list[Rule]) -> tuple[str, ...]:
    """Return the sorted names of the files below the results folder that the rules need."""
    files, missing = set[str](), list[str](source.unreadable)
    for rule in comparing:
        for category in ("",) if isinstance(rule, Latency) else rule.find.categories:
            try:
                files |= set(_needed(source, rule, category))
            except NotMeasured as reason:  # noqa: PERF203 - all missing records are named at once
                missing.append(f"rule {rule.name!r}: {reason}")
    if missing:
        raise NotMeasured(f"the baseline was not changed: {'; '.join(dict.fromkeys(missing))}")
    return tuple(sorted(files))


def _needed(source: Results, rule: Rule, category: str) -> Iterator[str]:
    if isinstance(rule, Latency):
        ratios.ratio(judges.benchmark(interleaved.read(source.folder), rule), level=rule.level)
        yield interleaved.FILE
        return
    record = selection.select(source, rule.find, category, allow_simulated=rule.allow_simulated)
    yield records.path_of(source.folder, record).name
    if isinstance(rule, NonInferior):
        selection.metric(record, rule.metric)
        if rule.metric in judges.ON_EVIDENCE:
            selection.pixels(source, record)
            assert record.evidence is not None  # noqa: S101 - its arrays were just read
            yield record.evidence.file


def _summary(source: Results, files: tuple[str, ...]) -> str:
    """Return one line for each record and benchmark, always in the same order."""
    rows = [
        "| record | image AUROC | pixel AUROC | AUPRO | peak memory, MB | model, MB | machine | record SHA-256 |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name in files:
        if "/" in name:
            continue
        record = records.read(source.folder / name)
        metrics = [f"{record.metrics[key]:.6f}" if key in record.metrics else "–" for key in _METRICS]
        sizes = [
            f"{value / 1e6:.1f}" if value else "–" for value in (record.peak_memory_bytes, record.model_bytes)
        ]
        digest = storage.sha256_of_file(source.folder / name)[:12]
        rows.append(f"| {' | '.join([name, *metrics, *sizes, record.host.name, digest])} |")
    if interleaved.FILE in files:
        rows += [
            "",
            "| benchmark | subject | control | ratio (0.95 interval over processes) | machine |",
            "|---|---|---|---|---|",
        ]
        run = interleaved.read(source.folder)
        rows += [
            f"| {timed.benchmark} | {timed.subject} | {timed.control} | {_ratio(timed)} | {run.host.name} |"
            for timed in sorted(run.benchmarks, key=lambda timed: timed.benchmark)
        ]
    head = ["# Baseline", "", "Written by `python -m harness baseline update`; do not edit.", ""]
    return "\n".join([*head, *rows, ""])


def _ratio(benchmark: interleaved.Interleaved) -> str:
    try:
        ratio = ratios.ratio(benchmark, level=0.95)
    except NotMeasured as reason:
        return f"not measured: {reason}"
    return f"{ratio.estimate:.4g} ({ratio.low:.4g} to {ratio.high:.4g})"


def _swap(new: Path, target: Path, old: Path) -> None:
    """Put the folder `new` in the place of `target`, which is put back if that fails."""
    if target.exists():
        target.replace(old)
    try:
        new.replace(target)
    except OSError:
        if old.exists():
            old.replace(target)
        raise
