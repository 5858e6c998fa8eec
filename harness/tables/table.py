"""A titled grid of text with notes below: what comparisons and model-zoo blocks are shown as."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """A table of finished cells."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()


def text(grid: Grid, kind: Literal["terminal", "md"], *, numbers_from: int) -> str:
    """The grid with its title and notes; columns from `numbers_from` on are set to the right."""
    from tabulate import tabulate

    markdown = kind == "md"
    rows = [[cell.replace("|", "\\|") for cell in row] for row in grid.rows] if markdown else grid.rows
    sides = ["left" if index < numbers_from else "right" for index in range(len(grid.header))]
    style = "pipe" if markdown else "rounded_outline"
    body = tabulate(rows, grid.header, tablefmt=style, disable_numparse=True, colalign=sides)
    title = f"**{grid.title}**" if markdown else grid.title
    return ("\n\n" if markdown else "\n").join([title, body, *grid.notes])
