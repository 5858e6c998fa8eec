"""Groups of records that may be compared: the same test images, and one fit of each detector."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import msgspec

from harness.records.record import Record
from harness.types import Case

Group = tuple[Record, ...]
"""Records that differ only in their category."""
Key = tuple[str, ...]
Value = tuple[str, str]
"""A digest, and its description in words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparableGroups:
    """Groups with the same test images in every category and one fit of every detector."""

    groups: tuple[Group, ...]
    name: str | None
    """Their test images and detectors; `None` if all groups are comparable."""


def comparable_groups(
    members: Sequence[Group], counts: Callable[[Record], bool]
) -> tuple[ComparableGroups, ...]:
    """Split groups by the test images and the detectors of their newest records; the order stays.

    A group joins the first set that has the same images of each shared category and the same fit of each shared detector.
    A group without numbers joins the first set.

    Args:
        members: Groups of one data set.
        counts: Whether a record's numbers are shown.
    """
    split: list[tuple[dict[Key, Value], list[Group]]] = []
    for group in members:
        shown = [
            category_records[0] for category_records in newest(group).values() if counts(category_records[0])
        ]
        mine = {key: value for record in shown for key, value in _identity(record).items()}
        for theirs, fitting in split:
            if all(theirs.get(key, value) == value for key, value in mine.items()):
                theirs.update(mine)
                fitting.append(group)
                break
        else:
            split.append((mine, [group]))
    keys = sorted({key for mine, _ in split for key in mine})
    several = [key for key in keys if len({mine[key] for mine, _ in split if key in mine}) > 1]
    return tuple(
        ComparableGroups(
            groups=tuple(fitting),
            name=", ".join(mine[key][1] for key in several if key in mine) if several else None,
        )
        for mine, fitting in split
    )


def _identity(record: Record) -> dict[Key, Value]:
    """Return what must be equal in all comparable records."""
    category, detector = record.case.category, f"{record.case.detector} {record.case.backbone}"
    images = record.data.fingerprint if record.data else "unknown"
    counts = f" ({record.data.good} good, {record.data.defective} defective)" if record.data else ""
    return {
        (category,): (images, f"test images {images[:8]} of {category}{counts}"),
        (category, detector): (
            record.detector_sha256,
            f"detector {record.detector_sha256[:12]} of {category} ({detector})",
        ),
    }


def mean(name: str, values: Sequence[float]) -> float:
    """Return the mean over categories: harmonic for images per second (the mean time per image), else arithmetic."""
    return statistics.harmonic_mean(values) if name == "images_per_second" else sum(values) / len(values)


def groups(records: Iterable[Record]) -> tuple[tuple[Record, ...], ...]:
    """Group records that differ only in their category."""
    by_case: dict[Case, list[Record]] = {}
    for record in records:
        by_case.setdefault(msgspec.structs.replace(record.case, category=""), []).append(record)
    return tuple(tuple(group) for group in by_case.values())


def newest(group: Sequence[Record]) -> dict[str, tuple[Record, ...]]:
    """Map each category to its records, the newest first; categories are sorted by name."""
    latest_first = sorted(group, key=lambda record: record.finished, reverse=True)
    return {
        category: tuple(record for record in latest_first if record.case.category == category)
        for category in sorted({record.case.category for record in group})
    }


def hidden(category_records: Sequence[Record]) -> tuple[str, ...]:
    """Say for each older record of a category, which is not shown, how its detector and images differ from the newest."""
    shown, *others = category_records
    lines = []
    for record in others:
        older, newer = _identity_in_words(record), _identity_in_words(shown)
        differing = [index for index in range(len(older)) if older[index] != newer[index]]
        older_identity, this = (" and ".join(each[index] for index in differing) for each in (older, newer))
        difference = (
            f" of {older_identity} is not shown, this one is of {this}" if differing else " is not shown"
        )
        lines.append(f"an older record ({record.finished[:16]}Z){difference}")
    return tuple(lines)


def _identity_in_words(record: Record) -> tuple[str, str]:
    data = f"test images {record.data.fingerprint[:12]}" if record.data else "unknown test images"
    return f"detector {record.detector_sha256[:12]}", data


def host_of(record: Record) -> str:
    """Return the machine's name and processor."""
    return f"{record.host.name} ({record.host.processor})"


def place_of(record: Record) -> str:
    """Return device and machine; times from two places have no mean."""
    return f"device {record.device.device if record.device else 'unknown'} on {host_of(record)}"
