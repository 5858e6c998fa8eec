"""The level of metrics: what changes in AUROC and AUPRO, and whether the change is more than chance."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness import metrics
from harness.metrics.intervals import Interval, NoInterval, auroc_difference, non_inferior, pixel_differences
from harness.parity.pair import Sides, is_finite, scores_of
from harness.parity.report import COMPARED_METRICS, LevelReport, MetricChange, Verdict, overall
from harness.records.record import EvidenceArrays, Record

NEGLIGIBLE = 1e-6
"""Without a margin, pixel metrics that change by no more are shown without an interval: the rounding of float32 maps
gives as much, and a bootstrap of 83 maps of 256 by 256 takes 4 s."""
_SAME_METRIC = 1e-9
"""Metrics are deterministic; this allows for another machine's summation and nothing else."""
_PIXEL = ("pixel_auroc", "aupro")


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredMetrics:
    """The metrics of both sides, by none of the tolerances."""

    altered: tuple[str, ...]
    """Stored metrics that do not follow from the record's own scores and maps."""
    changes: tuple[MetricChange, ...]
    """Of the metrics that both sides have."""
    margin: float | None


def measure(sides: Sides, margin: float | None) -> MeasuredMetrics:
    """Recompute every metric from scores and maps, and take the intervals of the changes.

    Args:
        sides: Both records.
        margin: In [0, 1): the largest loss that is none; `None` where no margin is stated.
    """
    altered = tuple(
        line
        for record, arrays in zip(sides.records, sides.evidence, strict=True)
        for line in _altered(record, arrays)
    )
    both = {
        name: (sides.records[0].metrics[name], sides.records[1].metrics[name])
        for name in COMPARED_METRICS
        if all(name in record.metrics for record in sides.records)
    }
    intervals = _intervals(sides, both, margin)
    changes = tuple(
        MetricChange(
            name=name,
            reference=one,
            other=two,
            interval=intervals.get(name),
            non_inferior=None if margin is None else non_inferior(intervals[name], margin),
        )
        for name, (one, two) in both.items()
    )
    return MeasuredMetrics(altered=altered, changes=changes, margin=margin)


def metric_level(measured: MeasuredMetrics, sides: Sides) -> LevelReport:
    """Changes against their tolerances; where a margin is stated, also whether a larger loss is ruled out."""
    allowed = sides.tolerances
    asked = {
        "image_auroc": max(allowed.auroc, _one_pair(sides)),
        "pixel_auroc": allowed.auroc,
        "aupro": allowed.aupro,
    }
    numbers: dict[str, float | int | None] = dict.fromkeys(COMPARED_METRICS)
    verdicts: list[Verdict] = []
    messages: list[str] = []
    for change in measured.changes:
        title, size = COMPARED_METRICS[change.name], abs(change.other - change.reference)
        numbers[change.name] = size
        verdicts.append("passed" if size <= asked[change.name] else "failed")
        if verdicts[-1] == "failed":
            messages.append(
                f"{title} changes by {size:.3g}, from {change.reference:.7f} to {change.other:.7f}"
            )
        if change.non_inferior is not None:
            verdicts.append(change.non_inferior)
            messages += _non_inferiority(change, measured.margin)
    for name in COMPARED_METRICS.keys() - {change.name for change in measured.changes}:
        nowhere = all(name not in record.metrics for record in sides.records)
        verdicts.append("not measured" if nowhere else "failed")
    messages += [
        f"{title} is undefined: {_why_undefined(sides, name)}"
        for name, title in COMPARED_METRICS.items()
        if numbers[name] is None
    ]
    if measured.altered:
        verdicts.append("failed")
        messages += measured.altered
    found = [value for value in numbers.values() if value is not None]
    numbers["tolerance_needed"] = max(found, default=None)
    return LevelReport(
        name="metrics",
        verdict=overall(verdicts),
        messages=tuple(messages),
        numbers=numbers,
        tolerance=asked | ({} if measured.margin is None else {"margin": measured.margin}),
    )


def _one_pair(sides: Sides) -> float:
    """What image AUROC changes by where one good and one defective image change their order.

    So much is allowed: where the level of scores passes, the two lie within twice its tolerance of each other, and no
    smaller change could be seen on these images.
    """
    labels = _labels(sides.records[0])
    pairs = int((labels == 0).sum()) * int((labels == 1).sum())
    return (1 + 1e-9) / pairs if pairs else 0.0


def interval_in_words(interval: Interval | NoInterval) -> str:
    """The interval and how it was made, or why there is none."""
    if isinstance(interval, NoInterval):
        return f"no interval: {interval.reason}"
    ends = f"{interval.low:+.2g} to {interval.high:+.2g}"
    return f"{interval.level:.0%} interval {ends} ({interval.method})"


def _non_inferiority(change: MetricChange, margin: float | None) -> list[str]:
    if change.non_inferior == "passed" or change.interval is None:
        return []
    title = COMPARED_METRICS[change.name]
    what = "loses more than" if change.non_inferior == "failed" else "is not shown to lose less than"
    return [f"{title} {what} the margin of {margin:g}: {interval_in_words(change.interval)}"]


def _intervals(
    sides: Sides, both: dict[str, tuple[float, float]], margin: float | None
) -> dict[str, Interval | NoInterval]:
    """By metric; every one of `both` has one, or a reason for none, where a margin is stated."""
    found: dict[str, Interval | NoInterval] = {}
    if "image_auroc" in both:
        found["image_auroc"] = (
            auroc_difference(_labels(sides.records[0]), *sides.scores)
            if sides.scores_are_finite
            else NoInterval(reason="scores are not finite")
        )
    wanted = [name for name in _PIXEL if name in both]
    changed = any(abs(two - one) > NEGLIGIBLE for one, two in (both[name] for name in wanted))
    if wanted and (changed or margin is not None):
        found |= {name: value for name, value in _pixel_intervals(sides).items() if name in wanted}
    return found


def _pixel_intervals(sides: Sides) -> dict[str, Interval | NoInterval]:
    one, two = sides.evidence
    if one is None or two is None or sides.maps is None:
        reason = "the maps of a side are missing, or of another shape"
    elif not np.array_equal(one.masks, two.masks):
        reason = "the two sides have other ground truth"
    elif not all(is_finite(maps).all() for maps in sides.maps):
        reason = "maps are not finite"
    else:
        return pixel_differences(one.masks, *sides.maps)
    return dict.fromkeys(_PIXEL, NoInterval(reason=reason))


def _why_undefined(sides: Sides, name: str) -> str:
    reasons = (
        f"{record.case.runner}: {record.undefined.get(name, 'no reason given')}"
        for record in sides.records
        if name not in record.metrics
    )
    return "; ".join(reasons)


def _altered(record: Record, arrays: EvidenceArrays | None) -> list[str]:
    """Stored metrics that do not follow from the record's own scores and maps; what is not finite fails elsewhere."""
    scores = scores_of(record)
    right = metrics.Metrics(values={}, thresholds={}, undefined={})
    if is_finite(scores).all():
        right = metrics.image_metrics(scores, _labels(record))
    if arrays is not None and is_finite(arrays.maps).all():
        right = metrics.merge(right, metrics.pixel_metrics(arrays.maps, arrays.masks))
        if record.pixel_decisions is not None:
            labels = _labels(record)
            threshold, rules = record.thresholds.pixel, record.pixel_decisions
            decided = metrics.decision_metrics(arrays.maps, arrays.masks, labels, threshold, rules)
            right = metrics.merge(right, decided)
    wrong = [name for name in right.undefined if name in record.metrics]
    for name, value in right.values.items():
        if name not in record.metrics or abs(record.metrics[name] - value) > _SAME_METRIC:
            wrong.append(name)
    return [
        f"{record.case.runner} records {name} {record.metrics.get(name)}, its own scores and maps give "
        f"{right.values.get(name)}: the record was altered; bench the case again"
        for name in wrong
    ]


def _labels(record: Record) -> NDArray[np.int64]:
    """(N,), 0 good and 1 defective."""
    return np.array([image.label for image in record.images], np.int64)
