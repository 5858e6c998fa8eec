"""The levels of maps, scores and decisions, each judged apart; inputs, tensors and metrics have modules of their own."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from harness.parity.pair import (
    Float64,
    Sides,
    flipped,
    is_finite,
    map_differences,
    number,
    rank_correlation,
    score_differences,
    share,
)
from harness.parity.report import LARGEST, Difference, Flip, LevelReport
from harness.parity.similarity import structural_similarity
from harness.parity.tolerances import FLOAT32
from harness.types import Bool


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


def measure_similarity(sides: Sides) -> Float64 | None:
    """`structural_similarity` of every image, (N,); `None` also without finite maps of one shape."""
    if sides.maps is None or not all(is_finite(maps).all() for maps in sides.maps):
        return None
    return structural_similarity(*sides.maps)


def map_level(sides: Sides, similarity: Float64 | None) -> LevelReport:
    """Largest difference of map values; one that is not finite fails even where both sides agree on it.

    `similarity` (`measure_similarity`) is shown and not judged: it forgives what a threshold on the map would not.
    """
    lacking = [name for name, arrays in zip(sides.backends, sides.evidence, strict=True) if arrays is None]
    if lacking:
        why = f"evidence of {' and '.join(lacking)} is missing: copy `evidence` along with the records, or bench again"
        return LevelReport(name="maps", verdict="not measured", messages=(why,))
    shapes = [arrays.maps.shape for arrays in sides.evidence if arrays]
    if all(shape[1:] == (0, 0) for shape in shapes):
        why = "the detector gives a score per image and no map"
        return LevelReport(name="maps", verdict="not measured", messages=(why,))
    apart = map_differences(sides)
    if sides.maps is None or apart is None:
        why = " and ".join(f"{shape} on {name}" for shape, name in zip(shapes, sides.backends, strict=True))
        return LevelReport(name="maps", verdict="failed", messages=(f"maps are {why}",))
    wrong = _not_finite(sides, [is_finite(maps).all(axis=(1, 2)) for maps in sides.maps], "maps")
    if wrong:
        return LevelReport(name="maps", verdict="failed", messages=wrong)
    largest, mean = apart
    level = _within_range("maps", sides, largest, float(mean.mean()))
    if similarity is None:
        return level
    lowest = int(np.argmin(similarity))
    return dataclasses.replace(
        level,
        numbers=level.numbers | {"lowest_similarity": float(similarity[lowest])},
        images=level.images | {"lowest_similarity": sides.names[lowest]},
    )


def _not_finite(sides: Sides, finite: Sequence[Bool], what: str) -> tuple[str, ...]:
    wrong = [[name for name, fine in zip(sides.names, good, strict=True) if not fine] for good in finite]
    return tuple(
        f"{what} of {backend} are NaN or infinite: {share(names, sides)}"
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
        images={"largest_difference": sides.names[worst]},
    )


def flips(sides: Sides) -> tuple[Flip, ...]:
    """Images decided differently; tolerated where the reference's score is within float32's tolerance of the threshold.

    So near, no precision decides; further off a looser profile would let missed defects pass.
    """
    threshold, decided = sides.records[0].thresholds.image, flipped(*sides.records)
    if not sides.scores_are_finite or threshold is None or decided is None:
        return ()
    near = FLOAT32.score * (sides.good_range or 0.0)
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
        for one, two, flips in zip(*(record.images for record in sides.records), decided, strict=True)
        if flips
    )


def decision_level(sides: Sides, flipped: Sequence[Flip]) -> LevelReport:
    """Flips at the frozen threshold."""
    if not sides.scores_are_finite:
        why = "scores that are not finite decide nothing"
        return LevelReport(name="decisions", verdict="not measured", messages=(why,))
    threshold = sides.records[0].thresholds.image
    if threshold is None:
        why = "no threshold is known: the model came without one and none was declared (docs/onnx.md)"
        return LevelReport(name="decisions", verdict="not measured", messages=(why,))
    asked, good_range = FLOAT32.score, sides.good_range
    margin = max((flip.margin for flip in flipped), default=0.0)
    return LevelReport(
        name="decisions",
        verdict="passed" if all(flip.tolerated for flip in flipped) else "failed",
        messages=tuple(_flip_message(flip) for flip in flipped),
        numbers={
            "flips": len(flipped),
            "tolerated_flips": sum(flip.tolerated for flip in flipped),
            "threshold": threshold,
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
