"""The same two sides through Polygraphy: its comparison of the networks' outputs, with its default tolerances."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any, Literal

from harness import registry
from harness.blame.outputs import spans
from harness.records import record
from harness.records.outputs import Reader
from harness.records.record import Record

INSTALL = "pip install polygraphy"
Finding = Literal["found", "missed", "outside", "no outputs", "not installed"]
"""`outside`: the bug lies behind the network, whose outputs are right; `no outputs`: there were none to compare."""


def compare(results: Path, reference: str) -> Finding:
    """Whether `Comparator.compare_accuracy` finds a difference between the stored outputs of the two records.

    That is more than its own road offers, which feeds both sides the same input: bugs before the network would be
    out of its sight.
    """
    if not registry.is_installed("polygraphy"):
        return "not installed"
    comparator = importlib.import_module("polygraphy.comparator")
    logger = importlib.import_module("polygraphy.logger").G_LOGGER
    both = sorted(record.read_all(results), key=lambda item: item.case.runner != reference)
    if any(item.outputs is None for item in both):
        return "no outputs"
    with logger.verbosity(logger.CRITICAL):
        runs = [(item.case.runner, _iterations(comparator, results, item)) for item in both]
        return "missed" if comparator.Comparator.compare_accuracy(comparator.RunResults(runs)) else "found"


def _iterations(comparator: Any, results: Path, item: Record) -> list[Any]:
    """One iteration per image."""
    assert item.outputs is not None
    reader = Reader(results / item.outputs.file, item.outputs.sha256)
    return [
        comparator.IterationResult(outputs=reader.outputs(*span), runner_name=item.case.runner)
        for span in spans(reader.rows)
    ]
