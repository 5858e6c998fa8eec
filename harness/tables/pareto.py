"""Accuracy against latency: every measured setting as a point, and the front of those that no other beats in both.

Times of different devices or hosts are no settings' difference: each device of each host has a front of its own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import msgspec

from harness.errors import RecordError
from harness.records.record import Record
from harness.tables.grouping import Part, comparable, groups, newest
from harness.tables.pivot import values_of
from harness.tables.summary import METRICS
from harness.tables.table import ABSENT, Format, Grid, View
from harness.tables.table import render as render_view
from harness.types import Case


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """Records that differ in the category alone, as means over the categories of the front."""

    case: Case
    """With an empty category."""
    where: str
    """Device and host: on the front is what nothing measured on the same beats."""
    accuracy: float | None
    milliseconds: float | None
    """Median time per image."""
    model_mb: float | None
    """Largest over the categories."""
    on_front: bool = False
    left_out: str | None = None
    """Why it cannot be on the front."""

    @property
    def name(self) -> str:
        """Detector, backend and settings."""
        case = self.case
        batch = f"batch {case.batch_size}, {case.threads} threads"
        return f"{case.detector} {case.backbone}, {case.runner}, {case.variant}, {batch}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Front:
    """All points of one data set, the same test images and one fit of every detector, the fastest first."""

    dataset: str
    suite: str | None
    metric: str
    stage: str
    categories: tuple[str, ...]
    """Over which the means are taken: those that every point has."""
    part: str | None
    """Which test images or detectors, where the data set has points of other ones too."""
    points: tuple[Point, ...]
    notes: tuple[str, ...]

    @property
    def title(self) -> str:
        """What is shown, over what."""
        suite = f" · suite {self.suite}" if self.suite else ""
        part = f" · {self.part}" if self.part else ""
        over = (
            f"mean of {len(self.categories)} categories" if len(self.categories) > 1 else self.categories[0]
        )
        return f"{METRICS[self.metric]} against p50 ms ({self.stage}) · {self.dataset}{suite} · {over}{part}"

    @property
    def explained(self) -> tuple[str, ...]:
        """What to know of the points, wherever they are shown."""
        places = {point.where for point in self.points if point.left_out is None}
        several = len(places) > 1
        of, other = (" of its device and host", "no other there") if several else ("", "no other")
        legend = f"★ on the front{of}: {other} is as fast and as accurate and better in one of the two (unrounded values)"
        apart = f"{len(places)} devices or hosts, a front of each: times of one say nothing of a setting on another"
        reasons = dict.fromkeys(point.left_out for point in self.points if point.left_out)
        out = [
            f"left out of the front: {reason}: {sum(point.left_out == reason for point in self.points)} of {len(self.points)} rows"
            for reason in reasons
        ]
        return (legend, *([apart] if several else []), *out, *self.notes)


def front(records: Iterable[Record], metric: str, *, stage: str = "total") -> tuple[Front, ...]:
    """One front per data set, test images and fit of each detector.

    A point is on the front if no other of the same device and host is both as fast and as accurate and better in one
    (Pareto). Simulators are shown and left out: their times are not the device's.

    Args:
        records: The newest of every case.
        metric: One of `METRICS`.
        stage: Whose median time.

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
    parts = [comparable(of, lambda item: shown <= values_of(item, stage).keys()) for of in sets.values()]
    return tuple(_front(part, metric, stage) for of in parts for part in of)


def _front(part: Part, metric: str, stage: str) -> Front:
    everything_found = [newest(group) for group in part.groups]
    shown = [{category: found[0] for category, found in of.items()} for of in everything_found]
    values = [{category: values_of(item, stage) for category, item in found.items()} for found in shown]
    usable = [{name for name, of in found.items() if metric in of and "p50" in of} for found in values]
    case = part.groups[0][0].case
    everything = sorted(set().union(*(found.keys() for found in shown)))
    categories = tuple(sorted(set.intersection(*(found for found in usable if found)))) if any(usable) else ()
    if not categories:
        raise RecordError(
            f"--front {metric}: no category of {case.dataset} has {METRICS[metric]} and times in all its records: bench the "
            "same categories everywhere"
        )
    hosts = sorted({(item.host.name, item.host.processor) for found in shown for item in found.values()})
    points = [_point(found, of, metric, categories, hosts) for found, of in zip(shown, values, strict=True)]
    left = [name for name in everything if name not in categories]
    hidden = sum(len(found) - 1 for of in everything_found for found in of.values())
    notes = [f"categories that not all have, left out: {', '.join(left)}"] if left else []
    notes += [f"{hidden} older records of other detectors or data are not shown"] if hidden else []
    other = "points of other test images, or of another fit of a detector, have a front of their own"
    notes += [f"{other}: nothing of one compares with the other"] if part.name else []
    notes += [f"host {name}: {processor}" for name, processor in hosts]
    ranked = sorted(
        points, key=lambda point: (point.milliseconds is None, point.milliseconds or 0, point.name)
    )
    return Front(
        dataset=case.dataset,
        suite=case.suite,
        metric=metric,
        stage=stage,
        categories=categories,
        part=part.name,
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
    places = sorted({_place(item, hosts) for item in records})
    found = [values[name] for name in categories if name in values]
    complete = len(found) == len(categories) and all(metric in of and "p50" in of for of in found)
    sizes = [of["model"] for of in found if "model" in of]
    left_out = None if complete else f"no {METRICS[metric]} or no times"
    if complete and len(places) > 1:
        left_out = "its categories are of several devices or hosts"
    if any(item.device.simulated for item in records if item.device):
        left_out = "SIMULATED, not hardware"
    return Point(
        case=msgspec.structs.replace(records[0].case, category=""),
        where=", ".join(places),
        accuracy=sum(of[metric] for of in found) / len(found) if complete else None,
        milliseconds=sum(of["p50"] for of in found) / len(found) if complete and len(places) == 1 else None,
        model_mb=max(sizes) if sizes else None,
        left_out=left_out,
    )


def _place(item: Record, hosts: Sequence[tuple[str, str]]) -> str:
    """Device and host, this one with its processor where another has its name."""
    device = item.device.device if item.device else "unknown"
    name = item.host.name
    same = sum(other == name for other, _ in hosts)
    return f"{device} on {name}" + (f" ({item.host.processor})" if same > 1 else "")


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
                *(item.metric, item.stage, ";".join(item.categories), item.part or ""),
                *(getattr(point.case, name) for name in settings),
                *(getattr(point, name) for name in values),
            ]
            for item in fronts
            for point in item.points
        ],
        document={"fronts": msgspec.to_builtins(fronts)},
    )
    return render_view(view, kind)


def _grid(item: Front) -> Grid:
    header = (
        "",
        "detector",
        "backend",
        "variant",
        "batch, threads",
        "device",
        METRICS[item.metric],
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
        for point in item.points
    )
    return Grid(title=item.title, header=header, rows=rows, notes=item.explained, numbers_from=6)
