"""Accuracy against latency: every measured setting is a point; the Pareto front holds those that no other dominates.

Times from different devices or machines cannot be compared: each device of each machine has its own Pareto front.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import msgspec

from harness.errors import RecordError
from harness.records.record import Record
from harness.tables.grouping import ComparableGroups, comparable_groups, groups, newest
from harness.tables.pivot import values_of
from harness.tables.summary import METRICS
from harness.tables.table import ABSENT, Format, Grid, View
from harness.tables.table import render as render_view
from harness.types import Case


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One setting: means over the shared categories."""

    case: Case
    """With an empty category."""
    where: str
    """Device and machine; only points from the same place compete for the Pareto front."""
    accuracy: float | None
    milliseconds: float | None
    """Median time per image."""
    model_mb: float | None
    """Largest over the categories."""
    on_front: bool = False
    left_out: str | None = None
    """Why it cannot be on the Pareto front."""

    @property
    def name(self) -> str:
        """Detector, backend and settings."""
        case = self.case
        batch = f"batch {case.batch_size}, {case.threads} threads"
        return f"{case.detector} {case.backbone}, {case.runner}, {case.variant}, {batch}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Front:
    """All points of one data set with the same test images and one fit of each detector, the fastest first."""

    dataset: str
    suite: str | None
    metric: str
    stage: str
    categories: tuple[str, ...]
    """The categories that every point has: means are over these."""
    part: str | None
    """Test images or detectors, if the data set has points with others too."""
    points: tuple[Point, ...]
    notes: tuple[str, ...]

    @property
    def title(self) -> str:
        """The metric, the latency stage, the data set and the categories."""
        suite = f" · suite {self.suite}" if self.suite else ""
        part = f" · {self.part}" if self.part else ""
        over = (
            f"mean of {len(self.categories)} categories" if len(self.categories) > 1 else self.categories[0]
        )
        return f"{METRICS[self.metric]} against p50 ms ({self.stage}) · {self.dataset}{suite} · {over}{part}"

    @property
    def explained(self) -> tuple[str, ...]:
        """Notes that accompany the points in tables and pictures."""
        places = {point.where for point in self.points if point.left_out is None}
        several = len(places) > 1
        scope, other = (" of its device and machine", "no other there") if several else ("", "no other")
        legend = f"★ on the Pareto front{scope}: {other} is as fast and as accurate and better in one (unrounded values)"
        apart = f"{len(places)} devices or machines, a Pareto front of each: times of one say nothing of a setting on another"
        reasons = dict.fromkeys(point.left_out for point in self.points if point.left_out)
        out = [
            f"left out of the Pareto front: {reason}: {sum(point.left_out == reason for point in self.points)} of {len(self.points)} rows"
            for reason in reasons
        ]
        return (legend, *([apart] if several else []), *out, *self.notes)


def front(records: Iterable[Record], metric: str, *, stage: str = "total") -> tuple[Front, ...]:
    """Return one Pareto front for each data set, its test images and fits.

    A point is on the Pareto front if no other from the same device and machine is as fast and as accurate, and better in
    one. Simulators are shown but never on it: their times are not the device's.

    Args:
        records: The newest of every case.
        metric: One of `METRICS`.
        stage: The latency stage of the median time.

    Raises:
        RecordError: a data set has no category that all its points have measured, or there are no records.
    """
    sets: dict[tuple[object, ...], list[tuple[Record, ...]]] = {}
    for group in groups(records):
        case = group[0].case
        key = (case.dataset, case.suite, case.mask_threshold, case.mask_resize)
        sets.setdefault(key, []).append(group)
    if not sets:
        raise RecordError("--front: there are no records: bench something first")
    shown = {metric, "p50"}
    separated = [
        comparable_groups(members, lambda record: shown <= values_of(record, stage).keys())
        for members in sets.values()
    ]
    return tuple(_front(together, metric, stage) for members in separated for together in members)


def _front(together: ComparableGroups, metric: str, stage: str) -> Front:
    everything_found = [newest(group) for group in together.groups]
    shown = [
        {category: by_name[0] for category, by_name in measures.items()} for measures in everything_found
    ]
    values = [
        {category: values_of(record, stage) for category, record in by_name.items()} for by_name in shown
    ]
    usable = [
        {name for name, measures in by_name.items() if metric in measures and "p50" in measures}
        for by_name in values
    ]
    case = together.groups[0][0].case
    everything = sorted(set().union(*(by_name.keys() for by_name in shown)))
    categories = (
        tuple(sorted(set.intersection(*(by_name for by_name in usable if by_name)))) if any(usable) else ()
    )
    if not categories:
        raise RecordError(
            f"--front {metric}: no category of {case.dataset} has {METRICS[metric]} and times in all its records: bench the "
            "same categories everywhere"
        )
    hosts = sorted(
        {(record.host.name, record.host.processor) for by_name in shown for record in by_name.values()}
    )
    points = [
        _point(by_name, measures, metric, categories, hosts)
        for by_name, measures in zip(shown, values, strict=True)
    ]
    dropped = [name for name in everything if name not in categories]
    hidden = sum(len(by_name) - 1 for measures in everything_found for by_name in measures.values())
    notes = [f"categories that not all have, left out: {', '.join(dropped)}"] if dropped else []
    notes += [f"{hidden} older records of other detectors or data are not shown"] if hidden else []
    other = "points of other test images, or of another fit of a detector, have a Pareto front of their own"
    notes += [f"{other}: nothing of one compares with the other"] if together.name else []
    notes += [f"machine {name}: {processor}" for name, processor in hosts]
    ranked = sorted(
        points, key=lambda point: (point.milliseconds is None, point.milliseconds or 0, point.name)
    )
    return Front(
        dataset=case.dataset,
        suite=case.suite,
        metric=metric,
        stage=stage,
        categories=categories,
        part=together.name,
        points=tuple(_marked(point, points) for point in ranked),
        notes=tuple(notes),
    )


def _point(
    shown: dict[str, Record],
    values: dict[str, dict[str, float]],
    metric: str,
    categories: Sequence[str],
    hosts: Sequence[tuple[str, str]],
) -> Point:
    records = [shown[name] for name in categories if name in shown] or list(shown.values())
    places = sorted({_place(record, hosts) for record in records})
    measures = [values[name] for name in categories if name in values]
    complete = len(measures) == len(categories) and all(
        metric in measured and "p50" in measured for measured in measures
    )
    sizes = [measured["model"] for measured in measures if "model" in measured]
    left_out = None if complete else f"no {METRICS[metric]} or no times"
    if complete and len(places) > 1:
        left_out = "its categories are of several devices or machines"
    if any(record.device.simulated for record in records if record.device):
        left_out = "SIMULATED, not hardware"
    return Point(
        case=msgspec.structs.replace(records[0].case, category=""),
        where=", ".join(places),
        accuracy=sum(measured[metric] for measured in measures) / len(measures) if complete else None,
        milliseconds=sum(measured["p50"] for measured in measures) / len(measures)
        if complete and len(places) == 1
        else None,
        model_mb=max(sizes) if sizes else None,
        left_out=left_out,
    )


def _place(record: Record, hosts: Sequence[tuple[str, str]]) -> str:
    """Return device and machine; the processor too if two machines share the name."""
    device = record.device.device if record.device else "unknown"
    name = record.host.name
    same = sum(other == name for other, _ in hosts)
    return f"{device} on {name}" + (f" ({record.host.processor})" if same > 1 else "")


def _marked(point: Point, points: Sequence[Point]) -> Point:
    beaten = point.left_out is not None or any(_beats(other, point) for other in points)
    return dataclasses.replace(point, on_front=not beaten)


def _beats(other: Point, point: Point) -> bool:
    if other.left_out is not None or other.accuracy is None or other.milliseconds is None:
        return False
    if point.accuracy is None or point.milliseconds is None or other.where != point.where:
        return False
    return dominates((-other.accuracy, other.milliseconds), (-point.accuracy, point.milliseconds))


def dominates(one: tuple[float, float], two: tuple[float, float]) -> bool:
    """Whether `one` is nowhere larger than `two` and smaller in one of the two (Pareto)."""
    return one != two and one[0] <= two[0] and one[1] <= two[1]


def render(fronts: Sequence[Front], kind: Format) -> str:
    """Render all Pareto fronts; CSV has a line for each point."""
    settings = [field.name for field in msgspec.structs.fields(Case) if field.name != "category"]
    values = ("where", "accuracy", "milliseconds", "model_mb", "on_front", "left_out")
    view = View(
        grids=tuple(map(_grid, fronts)),
        csv_header=["metric", "stage", "categories", "part", *settings, *values],
        csv_rows=[
            [
                *(
                    front_shown.metric,
                    front_shown.stage,
                    ";".join(front_shown.categories),
                    front_shown.part or "",
                ),
                *(getattr(point.case, name) for name in settings),
                *(getattr(point, name) for name in values),
            ]
            for front_shown in fronts
            for point in front_shown.points
        ],
        document={"fronts": msgspec.to_builtins(fronts)},
    )
    return render_view(view, kind)


def _grid(front_shown: Front) -> Grid:
    header = (
        "",
        "detector",
        "backend",
        "variant",
        "batch, threads",
        "device",
        METRICS[front_shown.metric],
        "p50 ms",
        "model MB",
    )
    rows = tuple(
        (
            "★" if point.on_front else "",
            f"{point.case.detector} {point.case.backbone}",
            point.case.runner,
            point.case.variant,
            f"{point.case.batch_size}, {point.case.threads}",
            point.where,
            ABSENT if point.accuracy is None else f"{point.accuracy:.4f}",
            ABSENT if point.milliseconds is None else f"{point.milliseconds:.1f}",
            ABSENT if point.model_mb is None else f"{point.model_mb:.1f}",
        )
        for point in front_shown.points
    )
    return Grid(
        title=front_shown.title, header=header, rows=rows, notes=front_shown.explained, numbers_from=6
    )
