"""Select the records that a rule names, and check that each is as the harness wrote it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from harness import machine, metrics
from harness.errors import HarnessError, NotMeasured, RecordError
from harness.gates.rules import Find
from harness.machine import Host
from harness.metrics import Metrics
from harness.records import record as records
from harness.records.record import EvidenceArrays, Record

NAMED = (
    *("detector", "backbone", "dataset", "backend", "variant", "suite", "source"),
    *("mask_threshold", "mask_resize"),
)
"""Fields of a case that must equal the rule's; a field that the rule leaves out has the default of `Find`."""
_SAME = 1e-9
"""Metrics are deterministic; this allows for the summation of another machine, and nothing else."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """A results folder: the newest record of every case, and messages for files that could not be read."""

    folder: Path
    records: tuple[Record, ...]
    unreadable: tuple[str, ...]


def read_results(folder: Path) -> Results:
    """Read all records of a folder; a file that cannot be read is noted, because it may be newer than the others."""
    readable, unreadable = list[Record](), list[str]()
    for path in sorted(path for path in folder.glob("*.json") if not path.name.startswith(".")):
        try:
            readable.append(records.read(path))
        except RecordError as error:  # noqa: PERF203 - the others are read nevertheless
            unreadable.append(str(error))
    return Results(folder=folder, records=records.latest(tuple(readable)), unreadable=tuple(unreadable))


def select(results: Results, find: Find, category: str, *, allow_simulated: bool) -> Record:
    """Return the only record of a category that `find` names.

    Raises:
        NotMeasured: there is none or there are several; or it failed, was skipped, simulated or edited, or contradicts
            its own images.
    """
    record = _only(results, find, category)
    title = f"{record.case.runner} {category}"
    path = records.path_of(results.folder, record)
    if record.status != "measured":
        raise NotMeasured(f"{title}: {record.status}: {record.reason}")
    if record.device is None or record.data is None or not record.images:
        raise NotMeasured(f"{path}: a record without device or test images; bench again")
    if record.device.simulated and not allow_simulated:
        raise NotMeasured(f"{title}: its device is simulated, and the rule does not allow that")
    labels = np.array([image.label for image in record.images])
    scores = np.array([image.score for image in record.images], np.float64)
    _require_own(path, record, lambda: metrics.image_metrics(scores, labels))
    _evidence(results, record)
    return record


def _evidence(results: Results, record: Record) -> EvidenceArrays | None:
    """Return the record's arrays, `None` if they were not copied along."""
    try:
        return records.read_evidence(results.folder, record)
    except RecordError as error:
        raise NotMeasured(str(error)) from error


def pixels(results: Results, record: Record) -> EvidenceArrays:
    """Return the record's arrays after a check that its pixel metrics follow from them.

    Raises:
        NotMeasured: the arrays are missing, altered, or give other metrics than the record holds.
    """
    path = records.path_of(results.folder, record)
    arrays = _evidence(results, record)
    if arrays is None:
        raise NotMeasured(f"{path}: its evidence is missing, and pixel metrics rest on it; copy it along")
    labels = np.array([image.label for image in record.images])
    _require_own(path, record, lambda: metrics.pixel_metrics(arrays.maps, arrays.masks))
    rules, threshold = record.pixel_decisions, record.thresholds.pixel
    if rules is not None:
        _require_own(
            path,
            record,
            lambda: metrics.decision_metrics(arrays.maps, arrays.masks, labels, threshold, rules),
        )
    return arrays


def metric(record: Record, name: str) -> float:
    """Return a metric's value.

    Raises:
        NotMeasured: it is undefined or missing.
    """
    if name not in record.metrics:
        reason = record.undefined.get(name, "the record does not have it")
        raise NotMeasured(f"{record.case.runner} {record.case.category}: {name} undefined: {reason}")
    return record.metrics[name]


def require_one_machine(now: Host, then: Host, title: str) -> None:
    """Raise `NotMeasured` unless both were measured on the same machine."""
    differing = [
        f"{name} {getattr(now, name)!r}, the baseline's {getattr(then, name)!r}"
        for name in machine.apart(now, then)
    ]
    if differing:
        raise NotMeasured(f"{title}: measured on another machine than its baseline ({'; '.join(differing)})")


def require_comparable(now: Record, then: Record) -> None:
    """Raise `NotMeasured` unless `then` is an earlier measurement of the same detector, case and test data."""
    title = f"{now.case.runner} {now.case.category}"
    if now.detector_sha256 != then.detector_sha256:
        digests = f"detector_sha256 {now.detector_sha256[:12]}, the baseline's {then.detector_sha256[:12]}"
        raise NotMeasured(f"{title}: another detector than the baseline's ({digests})")
    differing = [
        f"{name} {value!r}, the baseline's {earlier!r}"
        for name, value in msgspec.structs.asdict(now.case).items()
        if value != (earlier := getattr(then.case, name))
    ]
    if differing:
        raise NotMeasured(f"{title}: another case than the baseline's ({'; '.join(differing)})")
    if now.data != then.data or _images(now) != _images(then):
        raise NotMeasured(f"{title}: other test images than the baseline's")
    if now == then:
        raise NotMeasured(
            f"{title}: this is the baseline's own record, nothing was measured since; bench with --force"
        )


def _images(record: Record) -> list[tuple[str, int]]:
    return [(image.name, image.label) for image in record.images]


def _only(results: Results, find: Find, category: str) -> Record:
    fitting = [
        record
        for record in results.records
        if record.case.category == category and not _differences(record, find)
    ]
    if len(fitting) == 1:
        return fitting[0]
    case = f"{find.detector} {find.backbone} on {find.dataset} {category}, {find.backend} {find.variant}"
    if fitting:
        raise NotMeasured(
            f"{results.folder}: {len(fitting)} records fit {case}: they differ in {_differing(fitting)}; name it in `find`"
        )
    nearest = min(
        results.records,
        key=lambda record: (record.case.category != category, len(_differences(record, find))),
        default=None,
    )
    if nearest is None:
        raise NotMeasured(f"{results.folder}: no record of {case}; there are no records at all")
    differences = _differences(nearest, find)
    if nearest.case.category != category:
        differences = [f"category {nearest.case.category!r}", *differences]
    raise NotMeasured(f"{results.folder}: no record of {case}; the nearest has {', '.join(differences)}")


def _differences(record: Record, find: Find) -> list[str]:
    """Return the record's values that are not as the rule says, except the category."""
    differences = [
        f"{name} {getattr(record.case, name)!r}"
        for name in NAMED
        if getattr(record.case, name) != getattr(find, name)
    ]
    differences += [
        f"{name} {getattr(record.case, name)}"
        for name in ("batch_size", "threads")
        if getattr(find, name) not in (None, getattr(record.case, name))
    ]
    if find.detector_sha256 is not None and not record.detector_sha256.startswith(find.detector_sha256):
        differences.append(f"detector_sha256 {record.detector_sha256[:12]}")
    return differences


def _differing(fitting: Sequence[Record]) -> str:
    facts = [
        {
            **msgspec.structs.asdict(record.case),
            "detector_sha256": record.detector_sha256[:12],
            "test data": record.data.fingerprint[:12] if record.data else None,
        }
        for record in fitting
    ]
    return ", ".join(name for name in facts[0] if len({str(fact[name]) for fact in facts}) > 1)


def _require_own(path: Path, record: Record, measure: Callable[[], Metrics]) -> None:
    """Raise `NotMeasured` unless the record's metrics follow from its own scores or maps."""
    try:
        right = measure()
    except (HarnessError, ValueError) as error:
        raise NotMeasured(f"{path}: {error}") from error
    for name in right.undefined:
        if name in record.metrics:
            raise NotMeasured(
                f"{path}: {name} {record.metrics[name]} is undefined by its own images; bench again"
            )
    for name, value in right.values.items():
        if abs(record.metrics.get(name, value) - value) > _SAME:
            raise NotMeasured(
                f"{path}: {name} {record.metrics[name]}, its own images give {value}; bench again"
            )
