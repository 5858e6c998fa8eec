"""The level of decisions at the frozen thresholds."""

from __future__ import annotations

from collections.abc import Sequence

from harness.parity.pair import (
    Sides,
    flipped,
    number,
)
from harness.parity.report import Flip, LevelReport
from harness.parity.tolerances import FLOAT32


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
        why = "no threshold is known: the model came without one and none was declared (docs/how-to/onnx-from-elsewhere.md)"
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
