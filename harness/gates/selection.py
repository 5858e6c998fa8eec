"""Which records a rule may rest on: exactly those it names, and only as the harness wrote them."""

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
from harness.records import record
from harness.records.record import EvidenceArrays, Record

NAMED = (
    *("detector", "backbone", "dataset", "backend", "variant", "suite", "source"),
    *("mask_threshold", "mask_resize"),
)
"""Fields of a case that must be what the rule says; where it says nothing, what `Find` has."""
_SAME = 1e-9
"""Metrics are deterministic; this allows for another machine's summation and nothing else."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shelf:
    """A results folder: the newest record of every case, and what could not be read."""

    folder: Path
    records: tuple[Record, ...]
    unreadable: tuple[str, ...]


def shelf(folder: Path) -> Shelf:
    """Read all records of a folder; one that cannot be read is noted, for it may be newer than those that can."""
    found, unreadable = list[Record](), list[str]()
    for path in sorted(path for path in folder.glob("*.json") if not path.name.startswith(".")):
        try:
            found.append(record.read(path))
        except RecordError as error:  # noqa: PERF203 - the others are read all the same
            unreadable.append(str(error))
    return Shelf(folder=folder, records=record.latest(tuple(found)), unreadable=tuple(unreadable))


def admitted(place: Shelf, find: Find, category: str, *, allow_simulated: bool) -> Record:
    """The one record of a category that `find` names, after all that could speak against it was looked for.

    Raises:
        NotMeasured: none or several, failed or skipped, simulated, edited, or contradicting its own images.
    """
    found = _only(place, find, category)
    title = f"{found.case.runner} {category}"
    path = record.path_of(place.folder, found)
    if found.status != "measured":
        raise NotMeasured(f"{title}: {found.status}: {found.reason}")
    if found.device is None or found.data is None or not found.images:
        raise NotMeasured(f"{path}: a record without device or test images; bench again")
    if found.device.simulated and not allow_simulated:
        raise NotMeasured(f"{title}: its device is simulated, and the rule does not allow that")
    labels = np.array([image.label for image in found.images])
    scores = np.array([image.score for image in found.images], np.float64)
    _require_own(path, found, lambda: metrics.image_metrics(scores, labels))
    evidence(place, found)
    return found


def evidence(place: Shelf, found: Record) -> EvidenceArrays | None:
    """The record's arrays, or none where they were not copied along.

    Raises:
        NotMeasured: they were altered.
    """
    try:
        return record.read_evidence(place.folder, found)
    except RecordError as error:
        raise NotMeasured(str(error)) from error


def pixels(place: Shelf, found: Record) -> EvidenceArrays:
    """The record's arrays, which its pixel metrics must follow from.

    Raises:
        NotMeasured: they are missing, altered, or give other metrics than the record says.
    """
    path = record.path_of(place.folder, found)
    arrays = evidence(place, found)
    if arrays is None:
        raise NotMeasured(
            f"{path}: its evidence is missing, without which no pixel metric counts; copy it along"
        )
    labels = np.array([image.label for image in found.images])
    _require_own(path, found, lambda: metrics.pixel_metrics(arrays.maps, arrays.masks))
    rules, threshold = found.pixel_decisions, found.thresholds.pixel
    if rules is not None:
        _require_own(
            path, found, lambda: metrics.decision_metrics(arrays.maps, arrays.masks, labels, threshold, rules)
        )
    return arrays


def metric(found: Record, name: str) -> float:
    """A metric's value.

    Raises:
        NotMeasured: it is undefined, or the record does not have it.
    """
    if name not in found.metrics:
        reason = found.undefined.get(name, "the record does not have it")
        raise NotMeasured(f"{found.case.runner} {found.case.category}: {name} undefined: {reason}")
    return found.metrics[name]


def require_one_host(now: Host, then: Host, what: str) -> None:
    """Raise `NotMeasured` unless both are the same machine, without which `what` does not compare."""
    apart = [
        f"{name} {getattr(now, name)!r}, the baseline's {getattr(then, name)!r}"
        for name in machine.apart(now, then)
    ]
    if apart:
        raise NotMeasured(f"{what}: measured on another host than its baseline ({'; '.join(apart)})")


def require_counterparts(now: Record, then: Record) -> None:
    """Raise `NotMeasured` unless `then` is an earlier measurement of the same detector, case and test data."""
    title = f"{now.case.runner} {now.case.category}"
    if now.detector_sha256 != then.detector_sha256:
        digests = f"detector_sha256 {now.detector_sha256[:12]}, the baseline's {then.detector_sha256[:12]}"
        raise NotMeasured(f"{title}: another detector than the baseline's ({digests})")
    apart = [
        f"{name} {mine!r}, the baseline's {theirs!r}"
        for name, mine in msgspec.structs.asdict(now.case).items()
        if mine != (theirs := getattr(then.case, name))
    ]
    if apart:
        raise NotMeasured(f"{title}: another case than the baseline's ({'; '.join(apart)})")
    if now.data != then.data or _images(now) != _images(then):
        raise NotMeasured(f"{title}: other test images than the baseline's")
    if now == then:
        raise NotMeasured(
            f"{title}: this is the baseline's own record, nothing was measured since; bench with --force"
        )


def _images(item: Record) -> list[tuple[str, int]]:
    return [(image.name, image.label) for image in item.images]


def _only(place: Shelf, find: Find, category: str) -> Record:
    fitting = [item for item in place.records if item.case.category == category and not _apart(item, find)]
    if len(fitting) == 1:
        return fitting[0]
    wanted = f"{find.detector} {find.backbone} on {find.dataset} {category}, {find.backend} {find.variant}"
    if fitting:
        raise NotMeasured(
            f"{place.folder}: {len(fitting)} records fit {wanted}: they differ in {_differing(fitting)}; name it in `find`"
        )
    nearest = min(
        place.records,
        key=lambda item: (item.case.category != category, len(_apart(item, find))),
        default=None,
    )
    if nearest is None:
        raise NotMeasured(f"{place.folder}: no record of {wanted}; there are no records at all")
    differences = _apart(nearest, find)
    if nearest.case.category != category:
        differences = [f"category {nearest.case.category!r}", *differences]
    raise NotMeasured(f"{place.folder}: no record of {wanted}; the nearest has {', '.join(differences)}")


def _apart(item: Record, find: Find) -> list[str]:
    """What of a record is not as the rule says, the category aside."""
    apart = [
        f"{name} {getattr(item.case, name)!r}"
        for name in NAMED
        if getattr(item.case, name) != getattr(find, name)
    ]
    apart += [
        f"{name} {getattr(item.case, name)}"
        for name in ("batch_size", "threads")
        if getattr(find, name) not in (None, getattr(item.case, name))
    ]
    if find.detector_sha256 is not None and not item.detector_sha256.startswith(find.detector_sha256):
        apart.append(f"detector_sha256 {item.detector_sha256[:12]}")
    return apart


def _differing(fitting: Sequence[Record]) -> str:
    facts = [
        {
            **msgspec.structs.asdict(item.case),
            "detector_sha256": item.detector_sha256[:12],
            "test data": item.data.fingerprint[:12] if item.data else None,
        }
        for item in fitting
    ]
    return ", ".join(name for name in facts[0] if len({str(fact[name]) for fact in facts}) > 1)


def _require_own(path: Path, found: Record, measure: Callable[[], Metrics]) -> None:
    """Raise `NotMeasured` unless the record's metrics are those that its own scores or maps give."""
    try:
        right = measure()
    except (HarnessError, ValueError) as error:
        raise NotMeasured(f"{path}: {error}") from error
    for name in right.undefined:
        if name in found.metrics:
            raise NotMeasured(
                f"{path}: {name} {found.metrics[name]} is undefined by its own images; bench again"
            )
    for name, value in right.values.items():
        if abs(found.metrics.get(name, value) - value) > _SAME:
            raise NotMeasured(
                f"{path}: {name} {found.metrics[name]}, its own images give {value}; bench again"
            )
