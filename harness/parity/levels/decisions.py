"""The level of decisions at the frozen threshold."""

from __future__ import annotations

from collections.abc import Sequence

from harness.parity.levels.base import Fixed
from harness.parity.pair import Pair, flipped, number
from harness.parity.report import Flip, LevelReport
from harness.parity.tolerances import FLOAT32


def flips(pair: Pair) -> tuple[Flip, ...]:
    """Return the images that the two records decide differently.

    A flip is tolerated if the reference's score lies within float32's tolerance of the threshold: so near, no precision
    decides. Further off, the tolerance of a looser profile would let missed defects pass.
    """
    threshold, is_flipped = pair.threshold, flipped(*pair.records)
    if not pair.scores_are_finite or threshold is None or is_flipped is None:
        return ()
    near = FLOAT32.score * (pair.good_range or 0.0)
    return tuple(
        Flip(
            image=reference.name,
            label=reference.label,
            reference_score=reference.score,
            other_score=candidate.score,
            threshold=threshold,
            margin=abs(reference.score - threshold),
            tolerated=abs(reference.score - threshold) <= near,
        )
        for reference, candidate, flips in zip(
            *(record.images for record in pair.records), is_flipped, strict=True
        )
        if flips
    )


def measure(pair: Pair, flips: Sequence[Flip]) -> Fixed:
    """Judge the flips, by float32's tolerance in every profile."""
    if not pair.scores_are_finite:
        why = "scores that are not finite decide nothing"
        return Fixed(LevelReport(name="decisions", verdict="not measured", messages=(why,)))
    if pair.threshold is None:
        why = "no threshold is known: the model has none and its description declares none (docs/how-to/onnx-from-elsewhere.md)"
        return Fixed(LevelReport(name="decisions", verdict="not measured", messages=(why,)))
    share, good_range = FLOAT32.score, pair.good_range
    margin = max((flip.margin for flip in flips), default=0.0)
    report = LevelReport(
        name="decisions",
        verdict="passed" if all(flip.tolerated for flip in flips) else "failed",
        messages=tuple(_message(flip) for flip in flips),
        numbers={
            "flips": len(flips),
            "tolerated_flips": sum(flip.tolerated for flip in flips),
            "threshold": pair.threshold,
            "largest_margin": margin,
            "tolerance_needed": number(margin / good_range) if good_range else None,
        },
        tolerance={"of_range": share, "absolute": share * (good_range or 0.0)},
    )
    return Fixed(report)


def _message(flip: Flip) -> str:
    kind = "defective" if flip.label else "good"
    scores = f"{flip.reference_score:.7g} → {flip.other_score:.7g} at threshold {flip.threshold:.7g}"
    tolerated = f"warning, tolerated so near the threshold ({flip.margin:.2g}): " if flip.tolerated else ""
    return f"{tolerated}{flip.image} ({kind}) flips: {scores}"
