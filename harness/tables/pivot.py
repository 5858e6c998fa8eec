"""Records side by side: one column per backend, precision or detector, one row per category and measure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from harness import registry
from harness.errors import RecordError, UsageError
from harness.parity import flipped
from harness.parity.tolerances import PROFILES, precision_of
from harness.records.record import Record
from harness.tables.grouping import (
    ComparableGroups,
    Group,
    comparable_groups,
    groups,
    host_of,
    mean,
    newest,
    place_of,
)
from harness.tables.summary import METRICS, TIMES
from harness.tables.table import ABSENT, Format, Grid, View
from harness.tables.table import render as render_view
from harness.types import Case

By = Literal["backend", "precision", "detector"]
MEASURES = {
    **METRICS,
    "flips": "flips",
    "p50": "p50 ms",
    "images_per_second": "images/s",
    "peak_memory": "peak MB",
    "model": "model MB",
}
"""Rows: the metrics; images whose decision at the frozen threshold differs from the reference column; the median time per image;
peak memory of the worker; size of the model's files."""
_SETTINGS = ("variant", "batch_size", "threads", "warmup")
_MB = 10**6


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """Records that differ only in their category."""

    name: str
    """The column's backend, precision or detector, and the settings in which columns differ."""
    case: Case
    """With an empty category."""
    where: str
    """Devices and machines."""
    places: Mapping[str, str]
    """Category → its device and machine."""
    simulated: bool
    values: Mapping[str, Mapping[str, float]]
    """Category → measure → value."""
    detectors: Mapping[str, str]
    """Category → `detector_sha256`."""
    reasons: Mapping[str, str]
    """Category → why it has no metrics, no times or no flips."""

    def mean(self, measure: str, categories: Sequence[str]) -> float | None:
        """Return the mean if all categories have the measure; times from several places have none."""
        values = [self.values[name].get(measure) for name in categories]
        there = [value for value in values if value is not None]
        several = len({self.places[name] for name in categories if name in self.places}) > 1
        if not there or len(there) < len(values) or (several and measure in TIMES):
            return None
        return mean(measure, there)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pivot:
    """One table whose columns are compared."""

    title: str
    columns: tuple[Column, ...]
    notes: tuple[str, ...]
    reference: int | None
    """Index of the first measured column, against which flips are counted; `None` if they are not counted."""

    @property
    def categories(self) -> tuple[str, ...]:
        """The categories of all columns, sorted by name."""
        return tuple(sorted({name for column in self.columns for name in column.detectors}))

    def means(self) -> tuple[tuple[str, ...], dict[str, tuple[float | None, ...]]]:
        """Return the categories that every column has metrics for, and for each measure the columns' means over them."""
        shared = tuple(
            name
            for name in self.categories
            if all(METRICS.keys() & column.values.get(name, {}).keys() for column in self.columns)
        )
        means = {}
        for measure in MEASURES:
            means[measure] = tuple(column.mean(measure, shared) for column in self.columns)
        return shared, means


def pivot(records: Iterable[Record], by: By, *, stage: str = "total") -> tuple[Pivot, ...]:
    """Put records side by side: one table for each data set, its test images and fits, and for each detector and backend unless `by` is it.

    Args:
        records: The newest of every case.
        by: What each column is.
        stage: The latency stage.

    Raises:
        RecordError: no table has two columns.
    """
    members: dict[tuple[object, ...], list[Group]] = {}
    for group in groups(records):
        members.setdefault(_shared(group[0].case, by), []).append(group)
    separated = [
        comparable_groups(members_of_table, lambda record: record.status == "measured")
        for members_of_table in members.values()
    ]
    if all(
        len(groups_shown.groups) == 1 for members_of_table in separated for groups_shown in members_of_table
    ):
        split = any(len(members_of_table) > 1 for members_of_table in separated)
        why = (
            " (the records there are, are of different test images or fits of the detector)" if split else ""
        )
        raise RecordError(
            f"--pivot {by}: no two columns to compare: bench the same data with another {by}, into the same folder{why}"
        )
    shown = [
        groups_shown
        for members_of_table in separated
        for groups_shown in members_of_table
        if len(members_of_table) > 1 or len(groups_shown.groups) > 1
    ]
    return tuple(_pivot(groups_shown, by, stage) for groups_shown in shown)


def _shared(case: Case, by: By) -> tuple[object, ...]:
    detector, backend = (case.detector, case.backbone), (case.runner,)
    more = {"backend": detector, "precision": detector + backend, "detector": backend}[by]
    return (case.dataset, case.suite, case.mask_threshold, case.mask_resize, *more)


def _pivot(members_shown: ComparableGroups, by: By, stage: str) -> Pivot:
    members = sorted(members_shown.groups, key=lambda group: _order(group, by))
    cases = [msgspec.structs.replace(group[0].case, category="") for group in members]
    differing = [name for name in _SETTINGS if len({getattr(case, name) for case in cases}) > 1]
    by_category = [newest(group) for group in members]
    shown = [
        {category: category_records[0] for category, category_records in categories.items()}
        for categories in by_category
    ]
    measured = [any(record.status == "measured" for record in categories.values()) for categories in shown]
    reference = measured.index(True) if by != "detector" and any(measured) else None
    first = (None, {}) if reference is None else (f"[{reference + 1}]", shown[reference])
    columns: list[Column] = []
    notes: list[str] = []
    for group, case, categories, chosen in zip(members, cases, by_category, shown, strict=True):
        name = ", ".join([_value(group[0], by), *(_setting(case, name) for name in differing)])
        columns.append(_column(name, case, chosen, first, stage))
        hidden = sum(len(category_records) - 1 for category_records in categories.values())
        if hidden:
            notes.append(f"{name}: {hidden} older records of other detectors or data are not shown")
        notes += [f"{name}: {category}: {why}" for category, why in columns[-1].reasons.items()]
        if len({columns[-1].places[category] for category, record in chosen.items() if record.device}) > 1:
            notes.append(
                f"{name}: its categories are of several devices or machines: their times have no mean"
            )
    if members_shown.name:
        other = "columns of other test images, or of another fit of a detector, have a table of their own"
        notes.append(f"{other}: nothing of one compares with the other")
    if reference is None and by != "detector":
        notes.append("no flips: no column is measured")
    same = [_setting(cases[0], name) for name in _SETTINGS if name not in differing]
    apart = [members_shown.name] if members_shown.name else []
    title = [f"{cases[0].dataset} by {by}", *_titles(cases[0], by), *same, *apart]
    return Pivot(title=" · ".join(title), columns=tuple(columns), notes=tuple(notes), reference=reference)


def _titles(case: Case, by: By) -> list[str]:
    detector = [] if by == "detector" else [f"{case.detector} {case.backbone}"]
    backend = [] if by == "backend" else [case.runner]
    return [*([f"suite {case.suite}"] if case.suite else []), *detector, *backend]


def _order(group: Group, by: By) -> tuple[object, ...]:
    record, case = group[0], group[0].case
    first = list(PROFILES).index(precision_of(record)[0]) if by == "precision" else _value(record, by)
    return (any(map(_is_simulated, group)), first, case.variant, case.batch_size, case.threads, case.warmup)


def _is_simulated(record: Record) -> bool:
    """Ask the device; if the case opened none, ask its backend."""
    if record.device is not None:
        return record.device.simulated
    try:
        return registry.backend(record.case.backend).simulated
    except UsageError:  # of another distribution, which is not here
        return False


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
    name: str,
    case: Case,
    shown: Mapping[str, Record],
    reference: tuple[str | None, Mapping[str, Record]],
    stage: str,
) -> Column:
    mark, first = reference
    devices = {record.device.device for record in shown.values() if record.device}
    hosts = {host_of(record) for record in shown.values()}
    simulated = any(map(_is_simulated, shown.values()))
    values, reasons = {}, {}
    for category, record in shown.items():
        values[category] = values_of(record, stage)
        why = [] if record.status == "measured" else [f"{record.status}: {record.reason}"]
        if record.status == "measured" and "p50" not in values[category]:
            why.append(f"no times of {stage}")
        if record.status == "measured" and mark is not None:
            decided = _flips(first.get(category), record, mark)
            if isinstance(decided, str):
                why.append(f"no flips: {decided}")
            else:
                values[category]["flips"] = decided
        if why:
            reasons[category] = "; ".join(why)
    return Column(
        name=f"{name}, SIMULATED" if simulated else name,
        case=case,
        where=f"device {', '.join(sorted(devices)) or 'unknown'} on {', '.join(sorted(hosts))}",
        places={category: place_of(record) for category, record in shown.items()},
        simulated=simulated,
        values=values,
        detectors={category: record.detector_sha256 for category, record in shown.items()},
        reasons=reasons,
    )


def values_of(record: Record, stage: str) -> dict[str, float]:
    """Map each measure of one record to its value, without flips, which need a second record."""
    if record.status != "measured":
        return {}
    values = {name: record.metrics[name] for name in METRICS if name in record.metrics}
    if stage in record.latency_ms:
        values["p50"] = record.latency_ms[stage].p50
    if record.images_per_second is not None:
        values["images_per_second"] = record.images_per_second
    if record.peak_memory_bytes is not None:
        values["peak_memory"] = record.peak_memory_bytes / _MB
    if record.model_bytes is not None:
        values["model"] = record.model_bytes / _MB
    return values


def _flips(first: Record | None, record: Record, mark: str) -> int | str:
    """Count the images whose decision differs from `first` in column `mark`, or say why it is unknown."""
    if first is None or first.status != "measured":
        return f"{mark} is not measured"
    if [image.name for image in first.images] != [image.name for image in record.images]:
        return f"other images than {mark}"
    decided = flipped(first, record)
    return "no threshold is known" if decided is None else int(decided.sum())


def render(pivots: Sequence[Pivot], kind: Format) -> str:
    """Render all tables; CSV has a line for each column, category and measure, with the reason if the value is missing."""
    keys = [field.name for field in msgspec.structs.fields(Case) if field.name != "category"]
    view = View(
        grids=tuple(map(_grid, pivots)),
        csv_header=["title", "column", "where", "simulated", *keys, "category", "measure", "value", "note"],
        csv_rows=[
            [
                *(table.title, column.name, column.places[category], column.simulated),
                *(getattr(column.case, name) for name in keys),
                *(category, measure, values.get(measure, ""), column.reasons.get(category, "")),
            ]
            for table in pivots
            for column in table.columns
            for category, values in column.values.items()
            for measure in MEASURES
        ],
        document={
            "pivots": [
                {
                    "title": table.title,
                    "columns": [
                        {name: getattr(column, name) for name in ("name", "where", "simulated")}
                        | {"case": msgspec.to_builtins(column.case)}
                        | {
                            "places": dict(column.places),
                            "values": dict(column.values),
                            "detectors": dict(column.detectors),
                        }
                        for column in table.columns
                    ],
                    "mean": {
                        "over": list(table.means()[0]),
                        "values": {name: list(values) for name, values in table.means()[1].items()},
                    },
                    "flips_against": None if table.reference is None else table.columns[table.reference].name,
                    "notes": list(table.notes),
                }
                for table in pivots
            ]
        },
    )
    return render_view(view, kind)


def _grid(table: Pivot) -> Grid:
    against = f" against [{table.reference + 1}]" if table.reference is not None else ""
    labels = MEASURES | {"flips": MEASURES["flips"] + against}
    rows = [
        (category if measure == "image_auroc" else "", labels[measure], *cells)
        for category in table.categories
        for measure, cells in _lines([column.values.get(category, {}) for column in table.columns])
    ]
    shared, means = table.means()
    if len(table.categories) > 1 and shared:
        label = f"mean of {len(shared)}" + (
            "" if len(shared) == len(table.categories) else f" (of {len(table.categories)})"
        )
        columns = [
            {name: values[index] for name, values in means.items() if values[index] is not None}
            for index in range(len(table.columns))
        ]
        rows += [
            (label if measure == "image_auroc" else "", labels[measure], *cells)
            for measure, cells in _lines(columns)
        ]
    marks = [f"[{index}]" for index in range(1, len(table.columns) + 1)]
    header = [
        column.name.replace(", ", "\n") + f"\n{mark}"
        for column, mark in zip(table.columns, marks, strict=True)
    ]
    where = [f"{mark} {column.where}" for mark, column in zip(marks, table.columns, strict=True)]
    return Grid(
        title=table.title,
        header=("category", "", *header),
        rows=tuple(rows),
        notes=(*where, *table.notes),
        numbers_from=2,
    )


def _lines(columns: Sequence[Any]) -> list[tuple[str, list[str]]]:
    """Return measures with their cells: all metrics, and the others if a column has them."""
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
