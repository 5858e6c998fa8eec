"""What may stand side by side: records of the same test images, and of the same fit of each detector."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from harness.records.record import Record
from harness.tables.summary import newest

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
