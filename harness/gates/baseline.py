"""Baselines: the records that the rules of one file compare with, changed by one command and nothing else.

A baseline is a results folder that holds exactly what its rules need: the records and the run of benchmarks as they were
written, the evidence that pixel metrics rest on, and `baseline.md`, which says in one line each what a reviewer looks for
in a diff.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from harness import storage
from harness.errors import NotMeasured, UsageError
from harness.gates import interleaved, judges, ratios, rules, selection
from harness.gates.rules import Latency, NonInferior, Rule
from harness.gates.selection import Shelf
from harness.records import record

SUMMARY = "baseline.md"
_METRICS = ("image_auroc", "pixel_auroc", "aupro")


def update(path: Path, results: Path) -> tuple[str, ...]:
    """Make the baseline of a file of rules from a results folder: all of it, or nothing is changed.

    Returns:
        The lines of `baseline.md` that went, each after `- `, and those that came, each after `+ `.

    Raises:
        NotMeasured: a record or a benchmark is missing, failed, simulated, edited, undefined…; as for the gate.
        UsageError: no rule compares with a baseline, or its folder holds something else.
    """
    asked = rules.read(path)
    comparing = [rule for rule in asked.rule if rules.needs_baseline(rule)]
    if asked.baseline is None or not comparing:
        raise UsageError(f"{path}: no rule compares with a baseline")
    target = asked.baseline
    summary = target / SUMMARY
    if target.exists() and not summary.is_file() and (not target.is_dir() or any(target.iterdir())):
        raise UsageError(f"{target}: not a baseline (no {SUMMARY} in it); name a new folder")
    before = summary.read_text(encoding="utf-8").splitlines() if summary.is_file() else []
    place = selection.shelf(results)
    files = _files(place, comparing)
    text = _summary(place, files)
    target.parent.mkdir(parents=True, exist_ok=True)
    with storage.scratch_folder(target.parent) as temporary:
        made = temporary / "made"
        for name in files:
            (made / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(results / name, made / name)
        storage.write_bytes(made / SUMMARY, text.encode())
        _swap(made, target, temporary / "old")
    after = text.splitlines()
    gone, come = (
        [line for line in one if line not in two] for one, two in ((before, after), (after, before))
    )
    return (*(f"- {line}" for line in gone), *(f"+ {line}" for line in come))


def _files(place: Shelf, comparing: list[Rule]) -> tuple[str, ...]:
    """Names of the files below the results folder that the rules need, sorted."""
    files, missing = set[str](), list[str](place.unreadable)
    for rule in comparing:
        for category in ("",) if isinstance(rule, Latency) else rule.find.categories:
            try:
                files |= set(_needed(place, rule, category))
            except NotMeasured as reason:  # noqa: PERF203 - all that is missing is said at once
                missing.append(f"rule {rule.name!r}: {reason}")
    if missing:
        raise NotMeasured(f"the baseline was not changed: {'; '.join(dict.fromkeys(missing))}")
    return tuple(sorted(files))


def _needed(place: Shelf, rule: Rule, category: str) -> Iterator[str]:
    if isinstance(rule, Latency):
        ratios.ratio(judges.benchmark(interleaved.read(place.folder), rule), level=rule.level)
        yield interleaved.FILE
        return
    found = selection.admitted(place, rule.find, category, allow_simulated=rule.allow_simulated)
    yield record.path_of(place.folder, found).name
    if isinstance(rule, NonInferior):
        selection.metric(found, rule.metric)
        if rule.metric in judges.ON_EVIDENCE:
            selection.pixels(place, found)
            assert found.evidence is not None  # noqa: S101 - its arrays were just read
            yield found.evidence.file


def _summary(place: Shelf, files: tuple[str, ...]) -> str:
    """One line per record and benchmark, in an order that does not change."""
    rows = [
        "| record | image AUROC | pixel AUROC | AUPRO | peak memory, MB | model, MB | host | record SHA-256 |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name in files:
        if "/" in name:
            continue
        found = record.read(place.folder / name)
        metrics = [f"{found.metrics[key]:.6f}" if key in found.metrics else "–" for key in _METRICS]
        sizes = [
            f"{value / 1e6:.1f}" if value else "–" for value in (found.peak_memory_bytes, found.model_bytes)
        ]
        digest = storage.sha256_of_file(place.folder / name)[:12]
        rows.append(f"| {' | '.join([name, *metrics, *sizes, found.host.name, digest])} |")
    if interleaved.FILE in files:
        rows += [
            "",
            "| benchmark | subject | control | ratio (0.95 interval over processes) | host |",
            "|---|---|---|---|---|",
        ]
        run = interleaved.read(place.folder)
        for item in sorted(run.benchmarks, key=lambda item: item.benchmark):
            rows.append(
                f"| {item.benchmark} | {item.subject} | {item.control} | {_ratio(item)} | {run.host.name} |"
            )
    head = ["# Baseline", "", "Made by `python -m harness baseline update`; not to be edited.", ""]
    return "\n".join([*head, *rows, ""])


def _ratio(item: interleaved.Interleaved) -> str:
    try:
        found = ratios.ratio(item, level=0.95)
    except NotMeasured as reason:
        return f"not measured: {reason}"
    return f"{found.estimate:.4g} ({found.low:.4g} to {found.high:.4g})"


def _swap(made: Path, target: Path, old: Path) -> None:
    """Put a folder in the place of another, which comes back when that fails."""
    if target.exists():
        target.replace(old)
    try:
        made.replace(target)
    except OSError:
        if old.exists():
            old.replace(target)
        raise
