"""Plain tables as text: for a terminal, Markdown, CSV and JSON."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from typing import Any, Literal

from harness.tables.summary import DECISIONS, METRICS, TITLES, Row, Table

Format = Literal["terminal", "md", "csv", "json"]
ABSENT = "–"


def render(found: Sequence[Table], kind: Format) -> str:
    """All tables as text."""
    if kind == "json":
        return json.dumps(document(found), indent=1, allow_nan=False)
    if kind == "csv":
        return _csv(found)
    return "\n\n".join(_text(table, "rounded_outline" if kind == "terminal" else "pipe") for table in found)


def document(found: Sequence[Table]) -> dict[str, Any]:
    """All tables as one JSON document."""
    return {
        "tables": [
            {name: getattr(table, name) for name in Table.__slots__ if name != "rows"}
            | {
                "notes": list(table.notes),
                "rows": [{name: getattr(row, name) for name in Row.__slots__} for row in table.rows],
                "mean": {
                    name: {"value": value, "over": count, "of": len(table.rows)}
                    for name, (value, count) in table.means().items()
                },
            }
            for table in found
        ]
    }


def _text(table: Table, style: str) -> str:
    from tabulate import tabulate

    marks = {
        row.category: index for index, row in enumerate((row for row in table.rows if row.note), start=1)
    }
    markdown = style == "pipe"
    body = [
        [_marked(row, marks, markdown=markdown), row.place, *_cells(row.values, table.columns)]
        for row in table.rows
    ]
    label, *means = _mean(table)
    body.append([label, "", *means])
    header = ["category", "measured on", *(TITLES[name] for name in table.columns)]
    sides = ["left", "left", *["right"] * len(table.columns)]
    if len(table.places) < 2:
        for line in (*body, header, sides):
            del line[1]
    bold = "**" if markdown else ""
    text = tabulate(body, header, tablefmt=style, disable_numparse=True, colalign=sides)
    if not markdown:
        text = _ruled(text)
    notes = [f"[{marks[row.category]}] {row.category}: {row.note}" for row in table.rows if row.note]
    gap = "\n\n" if markdown else "\n"
    return gap.join([f"{bold}{table.title}{bold}", table.setting, text, *table.notes, *notes])


def _mean(table: Table) -> list[str]:
    """The mean row; a value over fewer categories than the others says over how many."""
    means = table.means()
    most = max((count for _, count in means.values()), default=0)
    label = f"mean of {most}" if most == len(table.rows) else f"mean of {most} (of {len(table.rows)})"
    cells = _cells({name: value for name, (value, _) in means.items()}, table.columns)
    counts = [means.get(name, (0, most))[1] for name in table.columns]
    fewer = [f" (of {count})" if count < most else "" for count in counts]
    return [label, *(cell + mark for cell, mark in zip(cells, fewer, strict=True))]


def _ruled(text: str) -> str:
    """Set the mean off with a line of its own."""
    lines = text.splitlines()
    rule = next((line for line in lines if line.startswith("├")), None)
    if rule is not None:
        lines.insert(-2, rule)
    return "\n".join(lines)


def _marked(row: Row, marks: dict[str, int], *, markdown: bool) -> str:
    category = row.category.replace("|", "\\|") if markdown else row.category
    return f"{category} [{marks[row.category]}]" if row.note else category


def _cells(values: dict[str, float], columns: Sequence[str]) -> list[str]:
    digits = {name: 4 if name in METRICS or name in DECISIONS else 1 for name in columns}
    return [f"{values[name]:.{digits[name]}f}" if name in values else ABSENT for name in columns]


def _csv(found: Sequence[Table]) -> str:
    """One line per category at full precision; an absent value is an empty field with its reason in `note`."""
    keys = [name for name in Table.__slots__ if name != "rows"]
    shown = {name for table in found for name in table.columns}
    columns = [name for name in TITLES if name in shown]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*keys, "category", "status", *columns, "note"])
    for table in found:
        for row in table.rows:
            shared = [getattr(row if key in ("device", "host") else table, key) for key in keys]
            writer.writerow(
                [
                    *shared,
                    row.category,
                    row.status,
                    *(row.values.get(name, "") for name in columns),
                    row.note or "",
                ]
            )
    return text.getvalue().rstrip("\n")
