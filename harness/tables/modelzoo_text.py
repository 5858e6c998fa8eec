"""Model-zoo blocks as text: for a terminal, Markdown, CSV and JSON."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from typing import Any

from harness.tables import table
from harness.tables.modelzoo import Block, Cell
from harness.tables.table import Grid
from harness.tables.text import ABSENT, Format


def render(found: Sequence[Block], kind: Format) -> str:
    """All blocks as text."""
    if kind == "json":
        return json.dumps(document(found), indent=1, ensure_ascii=False, allow_nan=False)
    if kind == "csv":
        return _csv(found)
    return "\n\n".join(table.text(_grid(block), kind, numbers_from=len(block.columns) + 1) for block in found)


def document(found: Sequence[Block]) -> dict[str, Any]:
    """All blocks as one JSON document."""
    return {
        "blocks": [
            {
                "kind": block.kind,
                "subject": block.subject,
                "columns": list(block.columns),
                "rows": {
                    label: [{"value": cell.text, "why_absent": cell.why_absent} for cell in cells]
                    for label, cells in block.rows.items()
                },
                "notes": list(block.notes),
            }
            for block in found
        ]
    }


def _grid(block: Block) -> Grid:
    notes: dict[str, int] = {}
    for cell in (cell for cells in block.rows.values() for cell in cells):
        if cell.why_absent is not None:
            notes.setdefault(cell.why_absent, len(notes) + 1)
    return Grid(
        title=block.title,
        header=("Parameters", *block.columns),
        rows=tuple((label, *(_shown(cell, notes) for cell in cells)) for label, cells in block.rows.items()),
        notes=(*(f"[{number}] {why}" for why, number in notes.items()), *block.notes),
    )


def _shown(cell: Cell, notes: dict[str, int]) -> str:
    value = ABSENT if cell.text is None else cell.text
    return value if cell.why_absent is None else f"{value} [{notes[cell.why_absent]}]"


def _csv(found: Sequence[Block]) -> str:
    """One line per value; an absent one is an empty field with its reason beside it."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["block", "subject", "column", "parameter", "value", "why_absent"])
    for block in found:
        for label, cells in block.rows.items():
            for column, cell in zip(block.columns, cells, strict=True):
                writer.writerow(
                    [block.kind, block.subject, column, label, cell.text or "", cell.why_absent or ""]
                )
    return text.getvalue().rstrip("\n")
