"""Tables from records: plain, side by side, as a front, against published tables, and a model-zoo README's blocks."""

from harness.tables.against_published import Comparison, Comparisons, Line, compare
from harness.tables.comparison_text import render as render_comparisons
from harness.tables.modelzoo import Block, Cell, blocks
from harness.tables.modelzoo_text import render as render_blocks
from harness.tables.pareto import Front, Point, front
from harness.tables.pareto import render as render_fronts
from harness.tables.pivot import Column, Pivot, pivot
from harness.tables.pivot_text import render as render_pivots
from harness.tables.summary import DECISIONS, LATENCIES, METRICS, Row, Table, tables
from harness.tables.text import ABSENT, Format, document, render

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
    "document",
    "front",
    "pivot",
    "render",
    "render_blocks",
    "render_comparisons",
    "render_fronts",
    "render_pivots",
    "tables",
]
