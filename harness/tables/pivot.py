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
from harness.tables.grouping import Group, Part, comparable, groups, host_of, mean, newest, place_of
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
"""Rows: the metrics; images that the frozen threshold decides otherwise than in another column; the median time per image;
peak memory of the worker; size of the model's files."""
_SETTINGS = ("variant", "batch_size", "threads", "warmup")
_MB = 10**6


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """Records that differ in the category alone."""

    name: str
    """What the table is spread by, and what else tells this column from the others."""
    case: Case
    """With an empty category."""
    where: str
    """Device and host."""
    places: Mapping[str, str]
    """Category → its own device and host."""
    simulated: bool
    values: Mapping[str, Mapping[str, float]]
    """Category → measure → value."""
    detectors: Mapping[str, str]
    """Category → `detector_sha256`."""
    reasons: Mapping[str, str]
    """Category → why it has no metrics, no times or no flips."""

    def mean(self, measure: str, categories: Sequence[str]) -> float | None:
        """Over categories that all have it; times of several places have none."""
        values = [self.values[name].get(measure) for name in categories]
        there = [value for value in values if value is not None]
        several = len({self.places[name] for name in categories if name in self.places}) > 1
        if not there or len(there) < len(values) or (several and measure in TIMES):
            return None
        return mean(measure, there)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pivot:
    """One table of columns to be compared."""

    title: str
    columns: tuple[Column, ...]
    notes: tuple[str, ...]
    reference: int | None
    """Index of the column that flips are counted against, the first that is measured; `None` where they are not counted."""

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
            found[measure] = tuple(column.mean(measure, shared) for column in self.columns)
        return shared, found


def pivot(records: Iterable[Record], by: By, *, stage: str = "total") -> tuple[Pivot, ...]:
    """Spread records over columns; one table per data set, its test images, fit of each detector and, but for what is spread, detector and backend.

    Args:
        records: The newest of every case.
        by: What the columns are.
        stage: Whose times.

    Raises:
        RecordError: no table has two columns.
    """
    members: dict[tuple[object, ...], list[Group]] = {}
    for group in groups(records):
        members.setdefault(_shared(group[0].case, by), []).append(group)
    parts = [comparable(of, lambda item: item.status == "measured") for of in members.values()]
    if all(len(part.groups) == 1 for of in parts for part in of):
        split = any(len(of) > 1 for of in parts)
        why = (
            " (the records there are, are of different test images or fits of the detector)" if split else ""
        )
        raise RecordError(
            f"--pivot {by}: no two columns to compare: bench the same data with another {by}, into the same folder{why}"
        )
    shown = [part for of in parts for part in of if len(of) > 1 or len(part.groups) > 1]
    return tuple(_pivot(part, by, stage) for part in shown)


def _shared(case: Case, by: By) -> tuple[object, ...]:
    detector, backend = (case.detector, case.backbone), (case.runner,)
    more = {"backend": detector, "precision": detector + backend, "detector": backend}[by]
    return (case.dataset, case.suite, case.mask_threshold, case.mask_resize, *more)


def _pivot(part: Part, by: By, stage: str) -> Pivot:
    members = sorted(part.groups, key=lambda group: _order(group, by))
    cases = [msgspec.structs.replace(group[0].case, category="") for group in members]
    differing = [name for name in _SETTINGS if len({getattr(case, name) for case in cases}) > 1]
    by_category = [newest(group) for group in members]
    shown = [{category: found[0] for category, found in of.items()} for of in by_category]
    measured = [any(item.status == "measured" for item in of.values()) for of in shown]
    reference = measured.index(True) if by != "detector" and any(measured) else None
    first = (None, {}) if reference is None else (f"[{reference + 1}]", shown[reference])
    columns: list[Column] = []
    notes: list[str] = []
    for group, case, of, chosen in zip(members, cases, by_category, shown, strict=True):
        name = ", ".join([_value(group[0], by), *(_setting(case, name) for name in differing)])
        columns.append(_column(name, case, chosen, first, stage))
        hidden = sum(len(found) - 1 for found in of.values())
        if hidden:
            notes.append(f"{name}: {hidden} older records of other detectors or data are not shown")
        notes += [f"{name}: {category}: {why}" for category, why in columns[-1].reasons.items()]
        if len({columns[-1].places[category] for category, item in chosen.items() if item.device}) > 1:
            notes.append(f"{name}: its categories are of several devices or hosts: their times have no mean")
    if part.name:
        other = "columns of other test images, or of another fit of a detector, have a table of their own"
        notes.append(f"{other}: nothing of one compares with the other")
    if reference is None and by != "detector":
        notes.append("no flips: no column is measured")
    same = [_setting(cases[0], name) for name in _SETTINGS if name not in differing]
    apart = [part.name] if part.name else []
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


def _is_simulated(item: Record) -> bool:
    """As the device says; of a case that came to none, as its backend says."""
    if item.device is not None:
        return item.device.simulated
    try:
        return registry.backend(item.case.backend).simulated
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
    devices = {item.device.device for item in shown.values() if item.device}
    hosts = {host_of(item) for item in shown.values()}
    simulated = any(map(_is_simulated, shown.values()))
    values, reasons = {}, {}
    for category, item in shown.items():
        values[category] = values_of(item, stage)
        why = [] if item.status == "measured" else [f"{item.status}: {item.reason}"]
        if item.status == "measured" and "p50" not in values[category]:
            why.append(f"no times of {stage}")
        if item.status == "measured" and mark is not None:
            decided = _flips(first.get(category), item, mark)
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
        places={category: place_of(item) for category, item in shown.items()},
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
        values["peak_memory"] = item.peak_memory_bytes / _MB
    if item.model_bytes is not None:
        values["model"] = item.model_bytes / _MB
    return values


def _flips(first: Record | None, item: Record, mark: str) -> int | str:
    """Images that are decided otherwise than in `first`, of the column `mark`; or why that cannot be said."""
    if first is None or first.status != "measured":
        return f"{mark} is not measured"
    if [image.name for image in first.images] != [image.name for image in item.images]:
        return f"other images than {mark}"
    decided = flipped(first, item)
    return "no threshold is known" if decided is None else int(decided.sum())


def render(pivots: Sequence[Pivot], kind: Format) -> str:
    """Render all tables; CSV has a line for each column, category and measure, with the reason if the value is missing."""
    keys = [field.name for field in msgspec.structs.fields(Case) if field.name != "category"]
    view = View(
        grids=tuple(map(_grid, pivots)),
        csv_header=["title", "column", "where", "simulated", *keys, "category", "measure", "value", "note"],
        csv_rows=[
            [
                *(item.title, column.name, column.places[category], column.simulated),
                *(getattr(column.case, name) for name in keys),
                *(category, measure, values.get(measure, ""), column.reasons.get(category, "")),
            ]
            for item in pivots
            for column in item.columns
            for category, values in column.values.items()
            for measure in MEASURES
        ],
        document={
            "pivots": [
                {
                    "title": item.title,
                    "columns": [
                        {name: getattr(column, name) for name in ("name", "where", "simulated")}
                        | {"case": msgspec.to_builtins(column.case)}
                        | {
                            "places": dict(column.places),
                            "values": dict(column.values),
                            "detectors": dict(column.detectors),
                        }
                        for column in item.columns
                    ],
                    "mean": {
                        "over": list(item.means()[0]),
                        "values": {name: list(values) for name, values in item.means()[1].items()},
                    },
                    "flips_against": None if item.reference is None else item.columns[item.reference].name,
                    "notes": list(item.notes),
                }
                for item in pivots
            ]
        },
    )
    return render_view(view, kind)


def _grid(item: Pivot) -> Grid:
    against = f" against [{item.reference + 1}]" if item.reference is not None else ""
    labels = MEASURES | {"flips": MEASURES["flips"] + against}
    rows = [
        (category if measure == "image_auroc" else "", labels[measure], *cells)
        for category in item.categories
        for measure, cells in _lines([column.values.get(category, {}) for column in item.columns])
    ]
    shared, means = item.means()
    if len(item.categories) > 1 and shared:
        label = f"mean of {len(shared)}" + (
            "" if len(shared) == len(item.categories) else f" (of {len(item.categories)})"
        )
        columns = [
            {name: values[index] for name, values in means.items() if values[index] is not None}
            for index in range(len(item.columns))
        ]
        rows += [
            (label if measure == "image_auroc" else "", labels[measure], *cells)
            for measure, cells in _lines(columns)
        ]
    marks = [f"[{index}]" for index in range(1, len(item.columns) + 1)]
    header = [
        column.name.replace(", ", "\n") + f"\n{mark}"
        for column, mark in zip(item.columns, marks, strict=True)
    ]
    where = [f"{mark} {column.where}" for mark, column in zip(marks, item.columns, strict=True)]
    return Grid(
        title=item.title,
        header=("category", "", *header),
        rows=tuple(rows),
        notes=(*where, *item.notes),
        numbers_from=2,
    )


def _lines(columns: Sequence[Any]) -> list[tuple[str, list[str]]]:
    """Measure and cells; the metrics always, the others where a column has them."""
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
