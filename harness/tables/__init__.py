"""Tables from records: a summary, side by side, Pareto fronts, against published tables, a model-zoo README's blocks."""

from harness.tables.against_published import Comparison, Comparisons, Line, compare
from harness.tables.against_published import render as render_comparisons
from harness.tables.modelzoo import Block, Cell, blocks
from harness.tables.modelzoo import render as render_blocks
from harness.tables.pareto import Front, Point, front
from harness.tables.pareto import render as render_fronts
from harness.tables.pivot import Column, Pivot, pivot
from harness.tables.pivot import render as render_pivots
from harness.tables.summary import DECISIONS, LATENCIES, METRICS, Row, Table, render, tables
from harness.tables.table import ABSENT, Format

__all__ = [
    "ABSENT",
    "DECISIONS",
    "LATENCIES",
    "METRICS",
    "Block",
    "Cell",
    "Column",
    "Comparison",
    "Comparisons",
    "Format",
    "Front",
    "Line",
    "Pivot",
    "Point",
    "Row",
    "Table",
    "blocks",
    "compare",
    "front",
    "pivot",
    "render",
    "render_blocks",
    "render_comparisons",
    "render_fronts",
    "render_pivots",
    "tables",
]
