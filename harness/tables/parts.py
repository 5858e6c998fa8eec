"""What may stand side by side: records of the same test images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from harness.record import Record
from harness.tables.plain import newest

Group = tuple[Record, ...]
"""Records that differ in the category alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Groups whose numbers are of the same test images in every category."""

    groups: tuple[Group, ...]
    images: str | None
    """Which these are, where there are others too."""


def by_images(members: Sequence[Group], counts: Callable[[Record], bool]) -> tuple[Part, ...]:
    """Split groups by the test images of their newest records, in the order given.

    A group goes with the first that have no other images of any category; one without numbers goes with the first of all.

    Args:
        members: Of one data set.
        counts: Whether a record's numbers are shown.
    """
    found: list[tuple[dict[str, Record], list[Group]]] = []
    for group in members:
        mine = {category: of[0] for category, of in newest(group).items() if counts(of[0])}
        for theirs, fitting in found:
            if all(_fingerprint(theirs.get(name, item)) == _fingerprint(item) for name, item in mine.items()):
                theirs.update(mine)
                fitting.append(group)
                break
        else:
            found.append((mine, [group]))
    names = sorted({name for mine, _ in found for name in mine})
    several = [
        name for name in names if len({_fingerprint(mine[name]) for mine, _ in found if name in mine}) > 1
    ]
    return tuple(
        Part(
            groups=tuple(fitting),
            images=", ".join(_images(mine[name]) for name in several if name in mine) if several else None,
        )
        for mine, fitting in found
    )


def _fingerprint(item: Record) -> str:
    return item.data.fingerprint if item.data else "unknown"


def _images(item: Record) -> str:
    counts = f" ({item.data.good} good, {item.data.defective} defective)" if item.data else ""
    return f"test images {_fingerprint(item)[:8]} of {item.case.category}{counts}"
