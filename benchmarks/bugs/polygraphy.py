"""Polygraphy's comparison of the two sides' network outputs, with its default tolerances."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any, Literal

from harness import registry
from harness.blame.outputs import spans
from harness.records.outputs import Reader
from harness.records.record import Record, read_all

INSTALL = "pip install polygraphy"
Finding = Literal["found", "missed", "outside", "no outputs", "not installed"]
"""`outside`: the bug lies after the network, whose outputs are right; `no outputs`: there are none to compare."""


def compare(results: Path, reference: str) -> Finding:
    """Whether `Comparator.compare_accuracy` finds a difference between the saved outputs of the two records.

    Polygraphy by itself gives both sides the same input, and so cannot see bugs before the network.
    """
    if not registry.is_installed("polygraphy"):
        return "not installed"
    comparator = importlib.import_module("polygraphy.comparator")
    logger = importlib.import_module("polygraphy.logger").G_LOGGER
    records = sorted(read_all(results), key=lambda record: record.case.runner != reference)
    if any(record.outputs is None for record in records):
        return "no outputs"
    with logger.verbosity(logger.CRITICAL):
        runs = [(record.case.runner, _iterations(comparator, results, record)) for record in records]
        return "missed" if comparator.Comparator.compare_accuracy(comparator.RunResults(runs)) else "found"


def _iterations(comparator: Any, results: Path, record: Record) -> list[Any]:
    """One iteration per image."""
    assert record.outputs is not None
    reader = Reader(results / record.outputs.file, record.outputs.sha256)
    return [
        comparator.IterationResult(outputs=reader.outputs(*span), runner_name=record.case.runner)
        for span in spans(reader.rows)
    ]
