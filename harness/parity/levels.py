"""The levels of parity, each judged apart, so that a difference shows where it begins."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from harness import metrics
from harness.parity.report import COMPARED_METRICS, LARGEST, Difference, Flip, LevelReport, Verdict, overall
from harness.parity.sides import (
    Float64,
    Sides,
    is_finite,
    map_differences,
    named,
    number,
    rank_correlation,
    score_differences,
    scores_of,
)
from harness.record import EvidenceArrays, Record
from harness.types import Bool

_STAGES = ("decode", "frame", "input")
_SAME_METRIC = 1e-9
"""Metrics are deterministic; this allows for another machine's summation and nothing else."""


def input_level(sides: Sides) -> LevelReport:
    """Digests of what went into the network stage by stage, and the ground truth.

    Stages before the input may be unknown on one side, where another program preprocessed: the input alone decides.
    """
    first: dict[str, list[str]] = {stage: [] for stage in _STAGES}
    unknown: list[str] = []
    partly: list[str] = []
    at_input = 0
    for one, two in zip(*(record.images for record in sides.records), strict=True):
        known = [stage for stage in _STAGES if stage in one.stages and stage in two.stages]
        apart = [stage for stage in known if one.stages[stage] != two.stages[stage]]
        if "input" not in known:
            unknown.append(one.name)
            continue
        if known != list(_STAGES):
            partly.append(one.name)
        if apart:
            first[apart[0]].append(one.name)
            at_input += "input" in apart
    differing = {f"different first at stage {stage}": names for stage, names in first.items()}
    masks = _other_truth(sides)
    reasons = differing | {
        "without the digest of the input": unknown,
        "with other ground truth": masks,
        "warning: compared at the input alone, a side does not know the stages before it": partly,
    }
    messages = [f"{what}: {_share(names, sides)}" for what, names in reasons.items() if names]
    if any(first.values()) and not at_input:
        messages.append("warning: what the network saw is equal all the same")
    verdict: Verdict = "failed" if at_input or masks else "not measured" if unknown else "passed"
    numbers: dict[str, float | int | None] = {
        f"first_at_{stage}": len(names) for stage, names in first.items()
    }
    numbers |= {"different_inputs": at_input, "different_masks": len(masks)}
    return LevelReport(name="inputs", verdict=verdict, messages=tuple(messages), numbers=numbers)


def _other_truth(sides: Sides) -> list[str]:
    one, two = sides.evidence
    if one is None or two is None or one.masks.shape != two.masks.shape:
        return []  # missing evidence and other shapes are for the level of maps to report
    apart = (one.masks != two.masks).any(axis=(1, 2))
    return [name for name, differs in zip(sides.names, apart, strict=True) if differs]


def score_level(sides: Sides) -> LevelReport:
    """Largest difference of image scores, in the range of good scores."""
    wrong = _not_finite(sides, [is_finite(scores) for scores in sides.scores], "scores")
    if wrong:
        return LevelReport(name="scores", verdict="failed", messages=wrong)
    apart = score_differences(sides)
    level = _within_range("scores", sides, apart, float(apart.mean()))
    correlation = rank_correlation(*sides.scores)
    undefined = (
        () if correlation is not None else ("rank correlation undefined: all scores of one side are equal",)
    )
    numbers = level.numbers | {"rank_correlation": correlation}
    return dataclasses.replace(level, numbers=numbers, messages=level.messages + undefined + _outlier(sides))


def _outlier(sides: Sides) -> tuple[str, ...]:
    """A warning where one good image alone makes the range, and so the tolerances, more than twice as wide."""
    good = np.array([image.label == 0 for image in sides.records[0].images])
    scores = sides.scores[0][good]
    if len(scores) < 3:
        return ()
    order = np.argsort(scores)
    for outlier, rest in ((order[-1], order[:-1]), (order[0], order[1:])):
        narrow, wide = np.ptp(scores[rest]), np.ptp(scores)
        if wide > 2 * narrow:
            name = np.array(sides.names)[good][outlier]
            return (f"warning: {name} alone widens the range of good scores from {narrow:.4g} to {wide:.4g}",)
    return ()


def map_level(sides: Sides) -> LevelReport:
    """Largest difference of map values; one that is not finite fails even where both sides agree on it."""
    lacking = [name for name, arrays in zip(sides.backends, sides.evidence, strict=True) if arrays is None]
    if lacking:
        why = f"evidence of {' and '.join(lacking)} is missing: copy `evidence` along with the records, or bench again"
        return LevelReport(name="maps", verdict="not measured", messages=(why,))
    shapes = [arrays.maps.shape for arrays in sides.evidence if arrays]
    apart = map_differences(sides)
    if sides.maps is None or apart is None:
        why = " and ".join(f"{shape} on {name}" for shape, name in zip(shapes, sides.backends, strict=True))
        return LevelReport(name="maps", verdict="failed", messages=(f"maps are {why}",))
    wrong = _not_finite(sides, [is_finite(maps).all(axis=(1, 2)) for maps in sides.maps], "maps")
    if wrong:
        return LevelReport(name="maps", verdict="failed", messages=wrong)
    largest, mean = apart
    return _within_range("maps", sides, largest, float(mean.mean()))


def _not_finite(sides: Sides, finite: Sequence[Bool], what: str) -> tuple[str, ...]:
    wrong = [[name for name, fine in zip(sides.names, good, strict=True) if not fine] for good in finite]
    return tuple(
        f"{what} of {backend} are NaN or infinite: {_share(names, sides)}"
        for backend, names in zip(sides.backends, wrong, strict=True)
        if names
    )


def _within_range(name: str, sides: Sides, apart: Float64, mean: float) -> LevelReport:
    """Judge the largest of (N,) differences in the range of good scores."""
    asked = sides.tolerances.score if name == "scores" else sides.tolerances.map
    worst, good_range = int(np.argmax(apart)), sides.good_range
    largest = float(apart[worst])
    numbers: dict[str, float | int | None] = {"largest_difference": largest, "mean_difference": mean}
    if good_range is None:
        why = "no scale to compare with: the reference's good test images are missing, or all score the same"
        return LevelReport(
            name=name, verdict="not measured", messages=(why,), numbers=numbers, tolerance={"of_range": asked}
        )
    numbers |= {"range_of_good_scores": good_range, "tolerance_needed": number(largest / good_range)}
    allowed = asked * good_range
    over = int(np.count_nonzero(apart > allowed))
    most = f"most of all {sides.names[worst]} by {largest:.3g}"
    text = f"beyond {allowed:.3g} for {over} of {len(apart)} images, {most}"
    return LevelReport(
        name=name,
        verdict="failed" if over else "passed",
        messages=(text,) if over else (),
        numbers=numbers,
        tolerance={"of_range": asked, "absolute": allowed},
    )


def _share(names: Sequence[str], sides: Sides) -> str:
    return f"{len(names)} of {len(sides.names)} images ({named(names)})"


def flips(sides: Sides) -> tuple[Flip, ...]:
    """Images decided differently; tolerated where the reference's score is within tolerance of the threshold."""
    if not sides.scores_are_finite:
        return ()
    threshold = sides.records[0].thresholds.image
    near = sides.tolerances.score * (sides.good_range or 0.0)
    return tuple(
        Flip(
            image=one.name,
            label=one.label,
            reference_score=one.score,
            other_score=two.score,
            threshold=threshold,
            margin=abs(one.score - threshold),
            tolerated=abs(one.score - threshold) <= near,
        )
        for one, two in zip(*(record.images for record in sides.records), strict=True)
        if (one.score > threshold) != (two.score > threshold)
    )


def decision_level(sides: Sides, flipped: Sequence[Flip]) -> LevelReport:
    """Flips at the frozen threshold."""
    if not sides.scores_are_finite:
        why = "scores that are not finite decide nothing"
        return LevelReport(name="decisions", verdict="not measured", messages=(why,))
    asked, good_range = sides.tolerances.score, sides.good_range
    margin = max((flip.margin for flip in flipped), default=0.0)
    return LevelReport(
        name="decisions",
        verdict="passed" if all(flip.tolerated for flip in flipped) else "failed",
        messages=tuple(_flip_message(flip) for flip in flipped),
        numbers={
            "flips": len(flipped),
            "tolerated_flips": sum(flip.tolerated for flip in flipped),
            "threshold": sides.records[0].thresholds.image,
            "largest_margin": margin,
            "tolerance_needed": number(margin / good_range) if good_range else None,
        },
        tolerance={"of_range": asked, "absolute": asked * (good_range or 0.0)},
    )


def _flip_message(flip: Flip) -> str:
    kind = "defective" if flip.label else "good"
    scores = f"{flip.reference_score:.7g} → {flip.other_score:.7g} at threshold {flip.threshold:.7g}"
    tolerated = f"warning, tolerated so near the threshold ({flip.margin:.2g}): " if flip.tolerated else ""
    return f"{tolerated}{flip.image} ({kind}) flips: {scores}"


def metric_level(sides: Sides) -> LevelReport:
    """Changes of AUROC and AUPRO between metrics that follow from each record's own scores and maps."""
    allowed = sides.tolerances
    asked = {"image_auroc": allowed.auroc, "pixel_auroc": allowed.auroc, "aupro": allowed.aupro}
    numbers: dict[str, float | int | None] = {}
    verdicts: list[Verdict] = []
    messages: list[str] = []
    for name, title in COMPARED_METRICS.items():
        one, two = (record.metrics.get(name) for record in sides.records)
        if one is not None and two is not None:
            numbers[name] = abs(two - one)
            verdicts.append("passed" if abs(two - one) <= asked[name] else "failed")
            text = f"{title} changes by {abs(two - one):.3g}, from {one:.7f} to {two:.7f}"
            messages += [text] if verdicts[-1] == "failed" else []
        else:
            numbers[name] = None
            verdicts.append("not measured" if one is two else "failed")
            messages.append(f"{title} is undefined: {_why_undefined(sides, name)}")
    for record, arrays in zip(sides.records, sides.evidence, strict=True):
        if altered := _altered(record, arrays):
            verdicts.append("failed")
            messages += altered
    changes = [value for value in numbers.values() if value is not None]
    numbers["tolerance_needed"] = max(changes, default=None)
    return LevelReport(
        name="metrics", verdict=overall(verdicts), messages=tuple(messages), numbers=numbers, tolerance=asked
    )


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
        right = metrics.image_metrics(scores, np.array([image.label for image in record.images]))
    if arrays is not None and is_finite(arrays.maps).all():
        right = metrics.merge(right, metrics.pixel_metrics(arrays.maps, arrays.masks))
        if record.pixel_decisions is not None:
            labels = np.array([image.label for image in record.images])
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


def largest_differences(sides: Sides) -> tuple[Difference, ...]:
    """The images furthest apart, scores and maps counting alike; what is not finite counts most."""
    scores = score_differences(sides)
    apart = map_differences(sides)
    maps = np.full(len(scores), -np.inf) if apart is None else apart[0]
    furthest = np.nan_to_num(np.maximum(scores, maps), nan=np.inf)
    return tuple(
        Difference(
            image=sides.names[index],
            label=sides.records[0].images[index].label,
            reference_score=number(sides.scores[0][index]),
            other_score=number(sides.scores[1][index]),
            score=number(scores[index]),
            map=number(maps[index]),
        )
        for index in np.argsort(-furthest, kind="stable")[:LARGEST]
    )
