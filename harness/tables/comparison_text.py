"""Comparisons as text: for a terminal, Markdown, CSV and JSON."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

from harness.tables import table
from harness.tables.against_published import Comparison, Comparisons, Line
from harness.tables.summary import Table
from harness.tables.table import Grid
from harness.tables.text import Format

_HEADER = ("device", "metric", "category", "ours", "theirs", "ours − theirs")
_OTHER_IMAGES = "≠"
_KEYS = tuple(name for name in Table.__slots__ if name not in ("rows", "stage"))


def render(found: Comparisons, kind: Format) -> str:
    """All comparisons as text."""
    if kind == "json":
        return json.dumps(document(found), indent=1, allow_nan=False)
    if kind == "csv":
        return _csv(found)
    blocks = [table.text(_grid(item), kind, numbers_from=3) for item in found.made]
    return "\n\n".join([*blocks, *(f"not compared: {reason}" for reason in found.reasons)])


def document(found: Comparisons) -> dict[str, Any]:
    """All comparisons as one JSON document."""
    return {"comparisons": [_document(item) for item in found.made], "not_compared": list(found.reasons)}


def _document(item: Comparison) -> dict[str, Any]:
    return {
        "ours": {name: getattr(item.table, name) for name in _KEYS},
        "theirs": {"source": item.source.name, "title": item.source.title, "backbone": item.backbone},
        "lines": [
            {name: getattr(line, name) for name in Line.__slots__} | {"difference": line.difference}
            for line in item.lines
        ],
        "differences": list(item.differences),
        "notes": list(item.notes),
        "left_out": list(item.left_out),
    }


def _grid(item: Comparison) -> Grid:
    rows = tuple(
        (
            line.device,
            line.metric,
            line.category if line.same_images else f"{line.category} {_OTHER_IMAGES}",
            *_numbers(line),
        )
        for line in item.lines
    )
    other = (
        [f"{_OTHER_IMAGES}: of other test images"] if any(not line.same_images for line in item.lines) else []
    )
    return Grid(
        title=item.title,
        header=_HEADER,
        rows=rows,
        notes=(
            *other,
            *(f"differs: {line}" for line in item.differences),
            *(f"note: {line}" for line in item.notes),
            *(f"not compared: {line}" for line in item.left_out),
        ),
    )


def _numbers(line: Line) -> tuple[str, str, str]:
    """Ours, theirs and the difference: four digits for shares, one for milliseconds."""
    digits = 4 if max(abs(line.ours), abs(line.theirs)) < 10 else 1
    return f"{line.ours:.{digits}f}", f"{line.theirs:.{digits}f}", f"{line.difference:+.{digits}f}"


def _csv(found: Comparisons) -> str:
    """One line per number at full precision; what differs stands in every line of its comparison."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    numbers = (*Line.__slots__, "difference")
    theirs = ("their_source", "their_backbone", "their_device")  # the first number is their device
    writer.writerow([*_KEYS, *theirs, *numbers[1:], "differences", "notes"])
    for item in found.made:
        for line in item.lines:
            writer.writerow(
                [
                    *(getattr(item.table, name) for name in _KEYS),
                    item.source.name,
                    item.backbone,
                    *(getattr(line, name) for name in numbers),
                    "; ".join(item.differences),
                    "; ".join(item.notes),
                ]
            )
    return text.getvalue().rstrip("\n")
