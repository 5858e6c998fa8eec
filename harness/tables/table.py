"""One table model and its one renderer: terminal, Markdown, CSV and JSON. Every kind of table is shown through it."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

Format = Literal["terminal", "md", "csv", "json"]
ABSENT = "–"


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """A table of finished cells, as people read it."""

    title: str
    subtitle: str | None = None
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()
    numbers_from: int
    """Index of the first column that is aligned to the right."""
    last_is_mean: bool = False
    """Whether a rule separates the last row from the others on a terminal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """The same tables for people (`grids`) and for programs (CSV lines at full precision, a JSON document)."""

    grids: tuple[Grid, ...]
    remarks: tuple[str, ...] = ()
    """Paragraphs below all grids."""
    csv_header: Sequence[str]
    csv_rows: Sequence[Sequence[object]]
    document: dict[str, Any]
    ascii_json: bool = True


def render(view: View, kind: Format) -> str:
    """Render all tables of a view in one format."""
    if kind == "json":
        return json.dumps(view.document, indent=1, ensure_ascii=view.ascii_json, allow_nan=False)
    if kind == "csv":
        return _csv(view)
    return "\n\n".join([*(text(grid, kind) for grid in view.grids), *view.remarks])


def text(grid: Grid, kind: Literal["terminal", "md"]) -> str:
    """Render one grid with its title, subtitle and notes."""
    from tabulate import tabulate

    markdown = kind == "md"
    escape = escape_markdown if markdown else escape_terminal
    header, *rows = ([escape(cell) for cell in row] for row in (grid.header, *grid.rows))
    align = ["left" if index < grid.numbers_from else "right" for index in range(len(header))]
    style = "pipe" if markdown else "rounded_outline"
    body = tabulate(rows, header, tablefmt=style, disable_numparse=True, colalign=align)
    if grid.last_is_mean and not markdown:
        body = _with_rule_before_last_row(body)
    title = f"**{grid.title}**" if markdown else grid.title
    subtitle = [] if grid.subtitle is None else [grid.subtitle]
    return ("\n\n" if markdown else "\n").join([title, *subtitle, body, *grid.notes])


def escape_terminal(cell: str) -> str:
    """Return a cell as a terminal shows it: unchanged."""
    return cell


def escape_markdown(cell: str) -> str:
    """Return a cell as a Markdown table needs it: no bare pipe, no bare line break."""
    return cell.replace("|", "\\|").replace("\n", "<br>")


def escape_csv(cell: object) -> object:
    """Return a cell as the CSV writer needs it: unchanged, since the writer quotes."""
    return cell


def _with_rule_before_last_row(body: str) -> str:
    lines = body.splitlines()
    rule = next((line for line in lines if line.startswith("├")), None)
    if rule is not None:
        lines.insert(-2, rule)
    return "\n".join(lines)


def _csv(view: View) -> str:
    content = io.StringIO()
    writer = csv.writer(content, lineterminator="\n")
    writer.writerow(view.csv_header)
    writer.writerows([escape_csv(cell) for cell in row] for row in view.csv_rows)
    return content.getvalue().rstrip("\n")
