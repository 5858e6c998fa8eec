"""What may stand side by side: records of the same test images, and of the same fit of each detector."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import msgspec

from harness.records.record import Record
from harness.types import Case

Group = tuple[Record, ...]
"""Records that differ in the category alone."""
Key = tuple[str, ...]
Value = tuple[str, str]
"""Digest, and in words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Groups whose numbers are of the same test images in every category, and of one fit of every detector."""

    groups: tuple[Group, ...]
    name: str | None
    """Which these are, where there are others too."""


def comparable(members: Sequence[Group], counts: Callable[[Record], bool]) -> tuple[Part, ...]:
    """Split groups by the test images and the detectors of their newest records, in the order given.

    A group goes with the first that have no other images of any category, and no other detector of the same name; one
    without numbers goes with the first of all.

    Args:
        members: Of one data set.
        counts: Whether a record's numbers are shown.
    """
    found: list[tuple[dict[Key, Value], list[Group]]] = []
    for group in members:
        shown = [of[0] for of in newest(group).values() if counts(of[0])]
        mine = {key: value for item in shown for key, value in _identity(item).items()}
        for theirs, fitting in found:
            if all(theirs.get(key, value) == value for key, value in mine.items()):
                theirs.update(mine)
                fitting.append(group)
                break
        else:
            found.append((mine, [group]))
    keys = sorted({key for mine, _ in found for key in mine})
    several = [key for key in keys if len({mine[key] for mine, _ in found if key in mine}) > 1]
    return tuple(
        Part(
            groups=tuple(fitting),
            name=", ".join(mine[key][1] for key in several if key in mine) if several else None,
        )
        for mine, fitting in found
    )


def _identity(item: Record) -> dict[Key, Value]:
    """What has to be the same in all records of a part."""
    category, detector = item.case.category, f"{item.case.detector} {item.case.backbone}"
    images = item.data.fingerprint if item.data else "unknown"
    counts = f" ({item.data.good} good, {item.data.defective} defective)" if item.data else ""
    return {
        (category,): (images, f"test images {images[:8]} of {category}{counts}"),
        (category, detector): (
            item.detector_sha256,
            f"detector {item.detector_sha256[:12]} of {category} ({detector})",
        ),
    }


def mean(name: str, values: Sequence[float]) -> float:
    """Over categories: arithmetic, and of images per second harmonic, which is that of a mean time per image."""
    return statistics.harmonic_mean(values) if name == "images_per_second" else sum(values) / len(values)


def groups(records: Iterable[Record]) -> tuple[tuple[Record, ...], ...]:
    """Records that differ in the category alone."""
    found: dict[Case, list[Record]] = {}
    for item in records:
        found.setdefault(msgspec.structs.replace(item.case, category=""), []).append(item)
    return tuple(tuple(group) for group in found.values())


def newest(group: Sequence[Record]) -> dict[str, tuple[Record, ...]]:
    """Category → its records in a group, the newest first; categories by name."""
    latest_first = sorted(group, key=lambda item: item.finished, reverse=True)
    return {
        category: tuple(item for item in latest_first if item.case.category == category)
        for category in sorted({item.case.category for item in group})
    }


def hidden(found: Sequence[Record]) -> tuple[str, ...]:
    """One line for each record of a category but the first, which alone is shown: what it is of, and the first is not."""
    shown, *others = found
    lines = []
    for item in others:
        older, newer = _identity_in_words(item), _identity_in_words(shown)
        differing = [index for index in range(len(older)) if older[index] != newer[index]]
        of, this = (" and ".join(each[index] for index in differing) for each in (older, newer))
        said = f" of {of} is not shown, this one is of {this}" if differing else " is not shown"
        lines.append(f"an older record ({item.finished[:16]}Z){said}")
    return tuple(lines)


def _identity_in_words(item: Record) -> tuple[str, str]:
    data = f"test images {item.data.fingerprint[:12]}" if item.data else "unknown test images"
    return f"detector {item.detector_sha256[:12]}", data


def host_of(item: Record) -> str:
    """Name and processor."""
    return f"{item.host.name} ({item.host.processor})"


def place_of(item: Record) -> str:
    """Device and host: times of two places have no mean."""
    return f"device {item.device.device if item.device else 'unknown'} on {host_of(item)}"
