"""The level of metrics: the changes of AUROC and AUPRO, and whether a change is more than chance."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness import metrics
from harness.metrics.intervals import Interval, NoInterval, auroc_difference, non_inferior, pixel_differences
from harness.parity.pair import Pair, is_finite, scores_of
from harness.parity.report import COMPARED_METRICS, LevelReport, MetricChange
from harness.parity.tolerances import Tolerances
from harness.records.record import EvidenceArrays, Record
from harness.types import Verdict, overall

NEGLIGIBLE = 1e-6
"""Without a margin, pixel metrics that change by no more are shown without an interval: the rounding of float32 maps
changes them as much, and a bootstrap of 83 maps of 256 by 256 lasts 4 s."""
_SAME_METRIC = 1e-9
"""Metrics are deterministic; this allows for the summation of another machine, and nothing else."""
_PIXEL = ("pixel_auroc", "aupro")


@dataclass(frozen=True, slots=True, kw_only=True)
class Metrics:
    """The changes of the metrics, before any tolerance."""

    pair: Pair
    altered: tuple[str, ...]
    """Messages for stored metrics that do not follow from the record's own scores and maps."""
    changes: tuple[MetricChange, ...]
    """Of the metrics that both records have."""
    margin: float | None

    def judge(self, tolerances: Tolerances) -> LevelReport:
        """Judge the changes by their tolerances, and with a margin, whether a larger loss is ruled out."""
        allowed = {
            "image_auroc": max(tolerances.auroc, _one_swap(self.pair)),
            "pixel_auroc": tolerances.auroc,
            "aupro": tolerances.aupro,
        }
        numbers: dict[str, float | int | None] = dict.fromkeys(COMPARED_METRICS)
        verdicts: list[Verdict] = []
        messages: list[str] = []
        for change in self.changes:
            title, size = COMPARED_METRICS[change.name], abs(change.other - change.reference)
            numbers[change.name] = size
            verdicts.append("passed" if size <= allowed[change.name] else "failed")
            if verdicts[-1] == "failed":
                messages.append(
                    f"{title} changes by {size:.3g}, from {change.reference:.7f} to {change.other:.7f}"
                )
            if change.non_inferior is not None:
                verdicts.append(change.non_inferior)
                messages += _non_inferiority(change, self.margin)
        for name in COMPARED_METRICS.keys() - {change.name for change in self.changes}:
            in_neither = all(name not in record.metrics for record in self.pair.records)
            verdicts.append("not measured" if in_neither else "failed")
        messages += [
            f"{title} is undefined: {_why_undefined(self.pair, name)}"
            for name, title in COMPARED_METRICS.items()
            if numbers[name] is None
        ]
        if self.altered:
            verdicts.append("failed")
            messages += self.altered
        numbers["tolerance_needed"] = max(
            (value for value in numbers.values() if value is not None), default=None
        )
        return LevelReport(
            name="metrics",
            verdict=overall(verdicts),
            messages=tuple(messages),
            numbers=numbers,
            tolerance=allowed | ({} if self.margin is None else {"margin": self.margin}),
        )


def measure(pair: Pair, margin: float | None) -> Metrics:
    """Compute every metric again from scores and maps, and the intervals of the changes.

    Args:
        pair: Both records.
        margin: In [0, 1): the largest loss that counts as none; `None` if no margin is stated.
    """
    altered = tuple(
        line
        for record, arrays in zip(pair.records, pair.evidence, strict=True)
        for line in _altered(record, arrays)
    )
    reference, candidate = (record.metrics for record in pair.records)
    both = {
        name: (reference[name], candidate[name])
        for name in COMPARED_METRICS
        if name in reference and name in candidate
    }
    intervals = _intervals(pair, both, margin)
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
    return Metrics(pair=pair, altered=altered, changes=changes, margin=margin)


def _one_swap(pair: Pair) -> float:
    """Return the change of image AUROC if one good and one defective image swap their order.

    It is always allowed: if the level of scores passes, the two lie within twice its tolerance of each other, and these
    images could show no smaller change.
    """
    labels = _labels(pair.records[0])
    swaps = int((labels == 0).sum()) * int((labels == 1).sum())
    return (1 + 1e-9) / swaps if swaps else 0.0


def interval_in_words(interval: Interval | NoInterval) -> str:
    """Describe the interval and its method, or say why there is none."""
    if isinstance(interval, NoInterval):
        return f"no interval: {interval.reason}"
    ends = f"{interval.low:+.2g} to {interval.high:+.2g}"
    return f"{interval.level:.0%} interval {ends} ({interval.method})"


def _non_inferiority(change: MetricChange, margin: float | None) -> list[str]:
    if change.non_inferior == "passed" or change.interval is None:
        return []
    title = COMPARED_METRICS[change.name]
    verb = "loses more than" if change.non_inferior == "failed" else "is not shown to lose less than"
    return [f"{title} {verb} the margin of {margin:g}: {interval_in_words(change.interval)}"]


def _intervals(
    pair: Pair, both: dict[str, tuple[float, float]], margin: float | None
) -> dict[str, Interval | NoInterval]:
    """Return intervals by metric; with a margin, each of `both` has one or a reason why it has none."""
    intervals: dict[str, Interval | NoInterval] = {}
    if "image_auroc" in both:
        intervals["image_auroc"] = (
            auroc_difference(_labels(pair.records[0]), *pair.scores)
            if pair.scores_are_finite
            else NoInterval(reason="scores are not finite")
        )
    pixel = [name for name in _PIXEL if name in both]
    changed = any(abs(two - one) > NEGLIGIBLE for one, two in (both[name] for name in pixel))
    if pixel and (changed or margin is not None):
        intervals |= {name: interval for name, interval in _pixel_intervals(pair).items() if name in pixel}
    return intervals


def _pixel_intervals(pair: Pair) -> dict[str, Interval | NoInterval]:
    reference, candidate = pair.evidence
    if reference is None or candidate is None or pair.maps is None:
        reason = "the maps of a record are missing, or of another shape"
    elif not np.array_equal(reference.masks, candidate.masks):
        reason = "the two records have different ground truth"
    elif not all(is_finite(maps).all() for maps in pair.maps):
        reason = "maps are not finite"
    else:
        return pixel_differences(reference.masks, *pair.maps)
    return dict.fromkeys(_PIXEL, NoInterval(reason=reason))


def _why_undefined(pair: Pair, name: str) -> str:
    reasons = (
        f"{record.case.runner}: {record.undefined.get(name, 'no reason given')}"
        for record in pair.records
        if name not in record.metrics
    )
    return "; ".join(reasons)


def _altered(record: Record, arrays: EvidenceArrays | None) -> list[str]:
    """Return a message for each stored metric that does not follow from the record's own scores and maps.

    Scores and maps that are not finite are left to their own levels.
    """
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
    """Return (N,), 0 for good and 1 for defective."""
    return np.array([image.label for image in record.images], np.int64)
