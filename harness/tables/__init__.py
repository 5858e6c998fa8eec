"""Tables from records: plain ones, comparisons with published tables, and the blocks of a model-zoo README."""

from harness.tables.comparison import Comparison, Comparisons, Line, compare
from harness.tables.comparison_text import render as render_comparisons
from harness.tables.modelzoo import Block, Cell, blocks
from harness.tables.modelzoo_text import render as render_blocks
from harness.tables.plain import DECISIONS, LATENCIES, METRICS, Row, Table, tables
from harness.tables.text import ABSENT, Format, document, render

__all__ = [
    "ABSENT",
    "DECISIONS",
    "LATENCIES",
    "METRICS",
    "Block",
    "Cell",
    "Comparison",
    "Comparisons",
    "Format",
    "Line",
    "Row",
    "Table",
    "blocks",
    "compare",
    "document",
    "render",
    "render_blocks",
    "render_comparisons",
    "tables",
]
