"""Where the settings of our records differ from a source's, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harness.records.record import Record
from harness.suites.published import Counts, Row, Source

Pairs = dict[str, dict[tuple[str, str], list[str]]]
"""What → ours and theirs → the categories in which it is so."""


def differences(
    ours: Mapping[str, Record], source: Source, row: Row, counts: Mapping[str, Counts]
) -> tuple[str, ...]:
    """One line for each thing that differs, ours first; categories are named where it is not so in all of them.

    Args:
        ours: Category → our record.
        source: Theirs.
        row: Any row of the source on the backbone and data set compared with.
        counts: Category → images of the published data set.
    """
    pairs: Pairs = {}
    for category, item in ours.items():
        found = _of_record(item, source, row)
        found |= _of_images(item, counts[category])
        found |= _of_settings(item, source, category)
        for what, (mine, theirs) in found.items():
            if mine != theirs:
                pairs.setdefault(what, {}).setdefault((mine, theirs), []).append(category)
    return (*(_line(what, found, len(ours)) for what, found in pairs.items()), *_unknown(ours, source))


def same_images(item: Record, counts: Counts) -> bool:
    """Whether the record is of as many good and defective test images as the published data set has."""
    return item.data is not None and (item.data.good, item.data.defective) == (counts.good, counts.defective)


def _line(what: str, pairs: Mapping[tuple[str, str], list[str]], of: int) -> str:
    parts = [
        f"ours {mine}, theirs {theirs}" + (f" ({', '.join(categories)})" if len(categories) < of else "")
        for (mine, theirs), categories in pairs.items()
    ]
    return f"{what}: {'; '.join(parts)}"


def _of_record(item: Record, source: Source, row: Row) -> dict[str, tuple[str, str]]:
    mine = "untrained" if item.weights.source == "random" else item.weights.source
    return {
        "backbone": (item.case.backbone, row.network),
        "weights": (mine, source.weights or "not stated"),
    }


def _of_images(item: Record, counts: Counts) -> dict[str, tuple[str, str]]:
    if item.data is None:
        return {}
    mine = f"{item.data.good} good and {item.data.defective} defective of {item.case.dataset}"
    theirs = f"{counts.good} good and {counts.defective} defective"
    found = {} if same_images(item, counts) else {"test images": (mine, theirs)}
    if item.fit is not None:
        found["training images"] = (str(item.fit.images), str(counts.train))
    return found


def _of_settings(item: Record, source: Source, category: str) -> dict[str, tuple[str, str]]:
    if item.fit is None or not item.fit.settings:
        return {}
    masks = {name: getattr(item.case, name) for name in ("mask_threshold", "mask_resize")}
    mine = {**item.fit.settings, **masks}
    theirs = source.settings_for(category)
    return {name: (_text(mine[name]), _text(theirs[name])) for name in theirs if name in mine}


def _unknown(ours: Mapping[str, Record], source: Source) -> list[str]:
    """What cannot be compared."""
    silent = [name for name, item in ours.items() if item.fit is None or not item.fit.settings]
    lines = [f"settings: ours are not in the records ({', '.join(silent)}); fit again"] if silent else []
    if source.suite is None:
        stated = "no other than these are stated" if source.settings else "the source states none"
        lines.append(f"settings: {stated}")
    return lines


def _text(value: Any) -> str:
    if value is None:
        return "not set"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
