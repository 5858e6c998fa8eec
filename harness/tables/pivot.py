"""Records side by side: one column per backend, precision or detector, one row per category and measure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import msgspec

from harness.errors import RecordError
from harness.parity import flipped
from harness.parity.profiles import PROFILES, precision_of
from harness.record import Record
from harness.tables.plain import METRICS, groups, newest
from harness.types import Case

By = Literal["backend", "precision", "detector"]
MEASURES = {
    **METRICS,
    "flips": "flips",
    "p50": "p50 ms",
    "images_per_second": "images/s",
    "peak_memory": "peak MiB",
    "model": "model MiB",
}
"""Rows: the metrics; images that the frozen threshold decides otherwise than in the first column; the median time per
image; peak memory of the worker; size of the model's files."""
_SETTINGS = ("variant", "batch_size", "threads", "warmup")
_MIB = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """Records that differ in the category alone."""

    name: str
    """What the table is spread by, and what else tells this column from the others."""
    case: Case
    """With an empty category."""
    where: str
    """Device and host."""
    simulated: bool
    values: Mapping[str, Mapping[str, float]]
    """Category → measure → value."""
    detectors: Mapping[str, str]
    """Category → `detector_sha256`."""
    reasons: Mapping[str, str]
    """Category → why it has no metrics, no times or no flips."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pivot:
    """One table of columns to be compared."""

    title: str
    columns: tuple[Column, ...]
    notes: tuple[str, ...]

    @property
    def categories(self) -> tuple[str, ...]:
        """All that any column has, by name."""
        return tuple(sorted({name for column in self.columns for name in column.detectors}))

    def means(self) -> tuple[tuple[str, ...], dict[str, tuple[float | None, ...]]]:
        """The categories that every column has metrics of, and measure → mean over them in every column."""
        shared = tuple(
            name
            for name in self.categories
            if all(METRICS.keys() & column.values.get(name, {}).keys() for column in self.columns)
        )
        found = {}
        for measure in MEASURES:
            columns = [[column.values[name].get(measure) for name in shared] for column in self.columns]
            found[measure] = tuple(_mean(values) for values in columns)
        return shared, found


def pivot(records: Iterable[Record], by: By, *, stage: str = "total") -> tuple[Pivot, ...]:
    """Spread records over columns; one table per data set and, but for what is spread, detector and backend.

    Args:
        records: The newest of every case.
        by: What the columns are.
        stage: Whose times.

    Raises:
        RecordError: no table has two columns.
    """
    tables: dict[tuple[object, ...], list[tuple[Record, ...]]] = {}
    for group in groups(records):
        tables.setdefault(_shared(group[0].case, by), []).append(group)
    found = tuple(_pivot(members, by, stage) for members in tables.values() if len(members) > 1)
    if not found:
        raise RecordError(
            f"--pivot {by}: no two columns to compare: bench the same data with another {by}, into the same folder"
        )
    return found


def _shared(case: Case, by: By) -> tuple[object, ...]:
    detector, backend = (case.detector, case.backbone), (case.runner,)
    more = {"backend": detector, "precision": detector + backend, "detector": backend}[by]
    return (case.dataset, case.suite, case.mask_threshold, case.mask_resize, *more)


def _pivot(members: Sequence[tuple[Record, ...]], by: By, stage: str) -> Pivot:
    members = sorted(members, key=lambda group: _order(group[0], by))
    cases = [msgspec.structs.replace(group[0].case, category="") for group in members]
    differing = [name for name in _SETTINGS if len({getattr(case, name) for case in cases}) > 1]
    by_category = [newest(group) for group in members]
    shown = [{category: found[0] for category, found in of.items()} for of in by_category]
    reference = {} if by == "detector" else shown[0]
    columns: list[Column] = []
    notes: list[str] = []
    for group, case, of, chosen in zip(members, cases, by_category, shown, strict=True):
        name = ", ".join([_value(group[0], by), *(_setting(case, name) for name in differing)])
        columns.append(_column(name, case, chosen, reference, stage))
        hidden = sum(len(found) - 1 for found in of.values())
        if hidden:
            notes.append(f"{name}: {hidden} older records of other detectors or data are not shown")
        notes += [f"{name}: {category}: {why}" for category, why in columns[-1].reasons.items()]
    same = [_setting(cases[0], name) for name in _SETTINGS if name not in differing]
    title = [f"{cases[0].dataset} by {by}", *_titles(cases[0], by), *same]
    return Pivot(title=" · ".join(title), columns=tuple(columns), notes=tuple(notes))


def _titles(case: Case, by: By) -> list[str]:
    detector = [] if by == "detector" else [f"{case.detector} {case.backbone}"]
    backend = [] if by == "backend" else [case.runner]
    return [*([f"suite {case.suite}"] if case.suite else []), *detector, *backend]


def _order(record: Record, by: By) -> tuple[object, ...]:
    case = record.case
    first = list(PROFILES).index(precision_of(record)[0]) if by == "precision" else _value(record, by)
    simulated = record.device is not None and record.device.simulated
    return (simulated, first, case.variant, case.batch_size, case.threads, case.warmup)


def _value(record: Record, by: By) -> str:
    if by == "precision":
        return precision_of(record)[0]
    return record.case.runner if by == "backend" else f"{record.case.detector} {record.case.backbone}"


def _setting(case: Case, name: str) -> str:
    value = getattr(case, name)
    if name == "variant":
        return str(value)
    return f"{value} threads" if name == "threads" else f"{name.removesuffix('_size')} {value}"


def _column(
    name: str, case: Case, shown: Mapping[str, Record], reference: Mapping[str, Record], stage: str
) -> Column:
    devices = {item.device.device for item in shown.values() if item.device}
    hosts = {f"{item.host.name} ({item.host.processor})" for item in shown.values()}
    simulated = any(item.device.simulated for item in shown.values() if item.device)
    values, reasons = {}, {}
    for category, item in shown.items():
        values[category] = values_of(item, stage)
        why = [] if item.status == "measured" else [f"{item.status}: {item.reason}"]
        if item.status == "measured" and "p50" not in values[category]:
            why.append(f"no times of {stage}")
        first = reference.get(category)
        if first is not None and first.status == item.status == "measured":
            incomparable = _why_incomparable(first, item)
            if incomparable is not None:
                why.append(f"no flips: {incomparable} than in the first column")
            elif (decided := flipped(first, item)) is None:
                why.append("no flips: no threshold is known")
            else:
                values[category]["flips"] = int(decided.sum())
        if why:
            reasons[category] = "; ".join(why)
    return Column(
        name=f"{name}, SIMULATED" if simulated else name,
        case=case,
        where=f"device {', '.join(sorted(devices)) or 'unknown'} on {', '.join(sorted(hosts))}",
        simulated=simulated,
        values=values,
        detectors={category: item.detector_sha256 for category, item in shown.items()},
        reasons=reasons,
    )


def values_of(item: Record, stage: str) -> dict[str, float]:
    """Measure → value of one record, without its flips, which need another one."""
    if item.status != "measured":
        return {}
    values = {name: item.metrics[name] for name in METRICS if name in item.metrics}
    if stage in item.latency_ms:
        values["p50"] = item.latency_ms[stage].p50
    if item.images_per_second is not None:
        values["images_per_second"] = item.images_per_second
    if item.peak_memory_bytes is not None:
        values["peak_memory"] = item.peak_memory_bytes / _MIB
    if item.model_bytes is not None:
        values["model"] = item.model_bytes / _MIB
    return values


def _why_incomparable(first: Record, item: Record) -> str | None:
    if first.detector_sha256 != item.detector_sha256:
        return "another detector"
    fingerprints = [record.data.fingerprint if record.data else None for record in (first, item)]
    names = [[image.name for image in record.images] for record in (first, item)]
    return None if fingerprints[0] == fingerprints[1] and names[0] == names[1] else "other images"


def _mean(values: Sequence[float | None]) -> float | None:
    there = [value for value in values if value is not None]
    return sum(there) / len(there) if there and len(there) == len(values) else None
