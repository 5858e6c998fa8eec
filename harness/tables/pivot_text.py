"""Pivoted tables as text: for a terminal, Markdown, CSV and JSON."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from typing import Any

import msgspec

from harness.tables import table
from harness.tables.pivot import MEASURES, Pivot
from harness.tables.summary import METRICS
from harness.tables.table import Grid
from harness.tables.text import ABSENT, Format


def render(found: Sequence[Pivot], kind: Format) -> str:
    """All tables as text."""
    if kind == "json":
        return json.dumps(document(found), indent=1, allow_nan=False)
    if kind == "csv":
        return _csv(found)
    return "\n\n".join(table.text(_grid(item, kind), kind, numbers_from=2) for item in found)


def document(found: Sequence[Pivot]) -> dict[str, Any]:
    """All tables as one JSON document."""
    return {
        "pivots": [
            {
                "title": item.title,
                "columns": [
                    {name: getattr(column, name) for name in ("name", "where", "simulated")}
                    | {"case": msgspec.to_builtins(column.case)}
                    | {
                        "places": dict(column.places),
                        "values": dict(column.values),
                        "detectors": dict(column.detectors),
                    }
                    for column in item.columns
                ],
                "mean": {
                    "over": list(item.means()[0]),
                    "values": {name: list(values) for name, values in item.means()[1].items()},
                },
                "flips_against": None if item.reference is None else item.columns[item.reference].name,
                "notes": list(item.notes),
            }
            for item in found
        ]
    }


def _grid(item: Pivot, kind: Format) -> Grid:
    against = f" against [{item.reference + 1}]" if item.reference is not None else ""
    labels = MEASURES | {"flips": MEASURES["flips"] + against}
    rows = [
        (category if measure == "image_auroc" else "", labels[measure], *cells)
        for category in item.categories
        for measure, cells in _lines([column.values.get(category, {}) for column in item.columns])
    ]
    shared, means = item.means()
    if len(item.categories) > 1 and shared:
        label = f"mean of {len(shared)}" + (
            "" if len(shared) == len(item.categories) else f" (of {len(item.categories)})"
        )
        columns = [
            {name: values[index] for name, values in means.items() if values[index] is not None}
            for index in range(len(item.columns))
        ]
        rows += [
            (label if measure == "image_auroc" else "", labels[measure], *cells)
            for measure, cells in _lines(columns)
        ]
    line = "\n" if kind == "terminal" else "<br>"
    marks = [f"[{index}]" for index in range(1, len(item.columns) + 1)]
    header = [
        f"{column.name.replace(', ', line)}{line}{mark}"
        for column, mark in zip(item.columns, marks, strict=True)
    ]
    where = [f"{mark} {column.where}" for mark, column in zip(marks, item.columns, strict=True)]
    return Grid(
        title=item.title, header=("category", "", *header), rows=tuple(rows), notes=(*where, *item.notes)
    )


def _lines(columns: Sequence[Any]) -> list[tuple[str, list[str]]]:
    """Measure and cells; the metrics always, the others where a column has them."""
    return [
        (measure, [_cell(measure, values.get(measure)) for values in columns])
        for measure in MEASURES
        if measure in METRICS or any(measure in values for values in columns)
    ]


def _cell(measure: str, value: float | None) -> str:
    if value is None:
        return ABSENT
    digits = 4 if measure in METRICS else 0 if measure == "flips" and value == int(value) else 1
    return f"{value:.{digits}f}"


def _csv(found: Sequence[Pivot]) -> str:
    """One line per column, category and measure, at full precision; an absent value is an empty field, its reason beside."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    cases = [field.name for field in msgspec.structs.fields(found[0].columns[0].case)]
    keys = [name for name in cases if name != "category"]
    writer.writerow(["title", "column", "where", "simulated", *keys, "category", "measure", "value", "note"])
    for item in found:
        for column in item.columns:
            settings = [getattr(column.case, name) for name in keys]
            for category, values in column.values.items():
                shared = [item.title, column.name, column.places[category], column.simulated]
                note = column.reasons.get(category, "")
                for measure in MEASURES:
                    value = values.get(measure, "")
                    writer.writerow([*shared, *settings, category, measure, value, note])
    return text.getvalue().rstrip("\n")
