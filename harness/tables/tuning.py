"""The table of `tune`: the accuracy and cost of each setting, and the Pareto front."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from harness.parity import flipped
from harness.records.record import Record
from harness.records.tuning import Tuned
from harness.tables.pareto import dominates
from harness.tables.table import ABSENT, Grid, text

_HEADER = (
    *("", "settings", "variant", "difference", "flips", "image AUROC", "pixel AUROC", "AUPRO"),
    *("infer ms", "× float32", "peak MB", "model MB"),
)
_LEGEND = (
    "★ on the Pareto front: no other setting of the backend is as near to float32 and as fast, and better in one of the two",
    "  (unrounded values decide)",
    "difference: the largest of an image score from float32's, as a share of the range of float32's scores; it alone chooses:",
    "  no label is read for it, but the images are the test images",
    "flips, AUROC and AUPRO are of the test images too and choose nothing: who picks a setting by them picks on the test set,",
    "  and has to state its accuracy on other images",
)
_METRICS = ("image_auroc", "pixel_auroc", "aupro")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One setting on one backend; `None` means not measured."""

    settings: str
    backend: str | None
    """`None` for a setting that was not exported or not measured by itself."""
    variant: str
    difference: float | None = None
    """Largest difference of an image score from float32's, as a share of the range of float32's scores; none without one."""
    flips: int | None = None
    """Test images on the other side of the frozen threshold than with float32."""
    metrics: dict[str, float] = dataclasses.field(default_factory=dict)
    milliseconds: float | None = None
    """Median time of inference per image, in the fastest round."""
    ratio: float | None = None
    """Of float32's on the same backend."""
    peak_memory_bytes: int | None = None
    """Of the worker, in the leanest round."""
    model_bytes: int | None = None
    on_front: bool = False
    note: str | None = None
    """Why it is not measured or cannot be on the Pareto front."""


def rows(tuned: Tuned) -> tuple[Row, ...]:
    """Return one row for each setting and backend that opened it; rows on the Pareto front are marked.

    A row is on the Pareto front if no other is as near to float32 and as fast, and better in one. Nearness reads no
    labels. Simulators are left out: their times are not the device's.
    """
    measured: dict[tuple[str, str], list[Record]] = {}
    for record in (record for records in tuned.rounds for record in records):
        measured.setdefault((record.case.variant, record.case.backend), []).append(record)
    float32 = tuned.trials[0].variant
    usual = {
        backend: records_of_backend
        for (variant, backend), records_of_backend in measured.items()
        if variant == float32
    }
    unmarked: list[Row] = []
    for trial in tuned.trials:
        cases = [
            (backend, records_of_backend)
            for (variant, backend), records_of_backend in measured.items()
            if variant == trial.variant
        ]
        if trial.refused is not None or not cases:
            same = trial.same_as and f"the same file as {trial.same_as}"
            note = trial.refused or same or "no backend opened it"
            variant = ABSENT if trial.refused is not None else trial.variant
            unmarked.append(Row(settings=trial.settings, backend=None, variant=variant, note=note))
        for backend, records_of_backend in cases:
            reference = usual.get(backend) or next(iter(usual.values()))
            row = _row(trial.settings, records_of_backend, reference)
            ratio = None if row.milliseconds is None else _ratio(records_of_backend, usual.get(backend))
            unmarked.append(dataclasses.replace(row, ratio=ratio))
    return tuple(
        dataclasses.replace(
            row,
            on_front=row.note is None
            and not any(_beats(other, row) for other in unmarked if other.backend == row.backend),
        )
        for row in unmarked
    )


def _row(settings: str, records: Sequence[Record], reference: Sequence[Record]) -> Row:
    case = records[0].case
    failed = [record for record in (*records, *reference) if record.status != "measured"]
    if failed:
        why = f"{failed[0].case.variant} {failed[0].status}: {failed[0].reason}"
        return Row(settings=settings, backend=case.runner, variant=case.variant, note=why)
    hosts = sorted({f"{record.host.name} ({record.host.processor})" for record in (*records, *reference)})
    if len(hosts) > 1:  # the folder was carried from one to the other
        why = (
            f"it and float32 were measured on several machines, {', '.join(hosts)}: tune into another folder"
        )
        return Row(settings=settings, backend=case.runner, variant=case.variant, note=why)
    here, usual = records[0], reference[0]
    for compared, first in ((records, here), (reference, usual)):
        if any(_scores(record) != _scores(first) for record in compared):
            why = f"the scores of {first.case.variant} differ from round to round: there is no one difference"
            return Row(settings=settings, backend=case.runner, variant=case.variant, note=why)
    scores, before = (np.array([image.score for image in record.images]) for record in (here, usual))
    simulated = here.device is not None and here.device.simulated
    scale = float(np.ptp(before))
    notes = ["SIMULATED, not hardware"] if simulated else []
    notes += [] if scale else ["float32's scores are all equal, so there is no scale"]
    decided = flipped(usual, here)
    peaks = [record.peak_memory_bytes for record in records if record.peak_memory_bytes is not None]
    return Row(
        settings=settings,
        backend=case.runner,
        variant=case.variant,
        difference=float(np.abs(scores - before).max()) / scale if scale else None,
        flips=None if decided is None else int(decided.sum()),
        metrics={name: here.metrics[name] for name in _METRICS if name in here.metrics},
        milliseconds=_milliseconds(records),
        peak_memory_bytes=min(peaks, default=None),
        model_bytes=here.model_bytes,
        note="; ".join(notes) or None,
    )


def _scores(record: Record) -> list[tuple[str, float]]:
    return [(image.name, image.score) for image in record.images]


def _milliseconds(records: Sequence[Record]) -> float | None:
    medians = [record.latency_ms["infer"].p50 for record in records if "infer" in record.latency_ms]
    return min(medians, default=None)


def _ratio(records: Sequence[Record], reference: Sequence[Record] | None) -> float | None:
    mine, usual = _milliseconds(records), _milliseconds(reference or ())
    return None if mine is None or usual is None else mine / usual


def _beats(other: Row, row: Row) -> bool:
    if other.note is not None or other.difference is None or other.milliseconds is None:
        return False
    if row.difference is None or row.milliseconds is None:
        return False
    return dominates((other.difference, other.milliseconds), (row.difference, row.milliseconds))


def complete(table_rows: Sequence[Row]) -> bool:
    """Whether every row that a backend opened has its numbers, and a variant other than float32 was opened."""
    opened = [row for row in table_rows if row.backend is not None]
    return all(row.difference is not None for row in opened) and any(
        row.variant != table_rows[0].variant for row in opened
    )


def document(tuned: Tuned, table_rows: Sequence[Row]) -> dict[str, Any]:
    """Return all rows as one JSON document."""
    return {"rows": msgspec.to_builtins(table_rows), "records": [str(path) for path in tuned.records]}


def lines(table_rows: Sequence[Row], *, rounds: int, records: Path) -> list[str]:
    """Return a table for each backend, then notes and the legend."""
    tables: dict[str | None, list[tuple[str, ...]]] = {}
    for row in table_rows:
        tables.setdefault(row.backend, []).append(_cells(row))
    shown: list[str] = []
    for backend, body in tables.items():
        title = "not made, or not measured" if backend is None else backend
        grid = Grid(title=title, header=_HEADER, rows=tuple(body), numbers_from=3)
        shown += text(grid, "terminal").splitlines()
    notes = dict.fromkeys(f"{row.settings}: {row.note}" for row in table_rows if row.note)
    return [
        *shown,
        *notes,
        *_LEGEND,
        f"infer ms: the median per image in the fastest of {rounds} rounds, each a process of its own; near ratios need a quiet machine",
        f"accuracy against latency: python -m harness tables --results {records} --front aupro --stage infer",
    ]


def _cells(row: Row) -> tuple[str, ...]:
    return (
        "★" if row.on_front else "",
        row.settings,
        row.variant,
        _shown(row.difference, ".2%"),
        _shown(row.flips, "d"),
        *(_shown(row.metrics.get(name), ".4f") for name in _METRICS),
        _shown(row.milliseconds, ".1f"),
        _shown(row.ratio, ".2f"),
        _shown(row.peak_memory_bytes, ".0f", 1e6),
        _shown(row.model_bytes, ".1f", 1e6),
    )


def _shown(value: float | None, form: str, unit: float | None = None) -> str:
    if value is None:
        return ABSENT
    return format(value if unit is None else value / unit, form)
