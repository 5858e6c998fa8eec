"""The level of inputs: what went into the network, stage by stage, and the ground truth."""

from __future__ import annotations

import numpy as np

from harness.parity.pair import Sides, share
from harness.parity.report import LevelReport, Verdict
from harness.records.record import Record

STAGES = ("decode", "frame", "input")


def stages_in_common(one: Record, two: Record) -> tuple[str, ...]:
    """`STAGES`, up to the frame where one network takes over earlier than the other: their inputs cannot be equal."""
    taken_over = (one.input_stage, two.input_stage)
    return STAGES if None in taken_over or taken_over[0] == taken_over[1] else STAGES[:2]


def input_level(sides: Sides) -> LevelReport:
    """Digests of what went into the network stage by stage, and the ground truth.

    Stages before the input may be unknown on one side, where another program preprocessed: the input alone decides.
    Where one network takes over earlier than the other (a chip's AIPP normalises), the frame decides.
    """
    taken_over = [record.input_stage for record in sides.records]
    stages = stages_in_common(*sides.records)
    last = stages[-1]
    first: dict[str, list[str]] = {stage: [] for stage in STAGES}
    unknown: list[str] = []
    partly: list[str] = []
    frames: list[int] = []
    at_last = 0
    for index, (one, two) in enumerate(zip(*(record.images for record in sides.records), strict=True)):
        known = [stage for stage in stages if stage in one.stages and stage in two.stages]
        apart = [stage for stage in known if one.stages[stage] != two.stages[stage]]
        if last not in known:
            unknown.append(one.name)
            continue
        if tuple(known) != stages:
            partly.append(one.name)
        if apart:
            first[apart[0]].append(one.name)
            at_last += last in apart
        if "frame" in apart:
            frames.append(index)
    differing = {f"different first at stage {stage}": names for stage, names in first.items()}
    masks = _other_truth(sides)
    reasons = differing | {
        f"without the digest of the {last}": unknown,
        "with other ground truth": masks,
        f"warning: compared at the {last} alone, a side does not know the stages before it": partly,
    }
    messages = [f"{what}: {share(names, sides)}" for what, names in reasons.items() if names]
    if any(first.values()) and not at_last:
        messages.append("warning: what the network saw is equal all the same")
    if last == "frame":
        messages.append(
            f"warning: compared up to the frame: after it {sides.backends[0]} preprocesses up to {taken_over[0]} and "
            f"{sides.backends[1]} up to {taken_over[1]}, its network does the rest"
        )
    verdict: Verdict = "failed" if at_last or masks else "not measured" if unknown else "passed"
    numbers: dict[str, float | int | None] = {
        f"first_at_{stage}": len(names) for stage, names in first.items()
    }
    numbers |= {"different_inputs": at_last, "different_masks": len(masks)}
    by_how_much, image = _frame_differences(sides, frames)
    if at_last or frames:
        messages.insert(sum(map(bool, first.values())), _in_words(by_how_much, image, frames))
    return LevelReport(
        name="inputs",
        verdict=verdict,
        messages=tuple(messages),
        numbers=numbers | by_how_much,
        images={} if image is None else {"largest_grey_difference": image},
    )


def _frame_differences(sides: Sides, indices: list[int]) -> tuple[dict[str, float | int | None], str | None]:
    """Over the frames that differ: largest and mean difference of grey values, share of pixels; and the worst image."""
    one, two = sides.evidence
    if not indices or one is None or two is None or one.frames.shape != two.frames.shape:
        return {}, None
    largest, total, pixels, worst = 0, 0, 0, None
    for index in indices:
        apart = np.abs(one.frames[index].astype(np.int16) - two.frames[index])
        total += int(apart.sum(dtype=np.int64))
        pixels += int(np.count_nonzero(apart.any(axis=-1)))
        if apart.max(initial=0) > largest:
            largest, worst = int(apart.max()), sides.names[index]
    height, width, channels = one.frames.shape[1:]
    values = len(indices) * height * width
    numbers: dict[str, float | int | None] = {
        "largest_grey_difference": largest,
        "mean_grey_difference": total / (values * channels),
        "share_of_pixels": pixels / values,
    }
    return numbers, worst


def _in_words(numbers: dict[str, float | int | None], image: str | None, frames: list[int]) -> str:
    if image is not None:
        return (
            f"the frames differ by {numbers['largest_grey_difference']} of 255 grey values at most, "
            f"{numbers['mean_grey_difference']:.3g} on average, in {numbers['share_of_pixels']:.1%} of their pixels, most "
            f"of all {image}"
        )
    why = "the evidence holds frames, not what scaling, normalisation and layout make of them"
    if frames:
        why = "the frames in the evidence are missing or of two sizes"
    if numbers:
        why = "the frames in the evidence are equal, their digests are not: a record was altered"
    return f"by how much cannot be told: {why}"


def _other_truth(sides: Sides) -> list[str]:
    one, two = sides.evidence
    if one is None or two is None or one.masks.shape != two.masks.shape:
        return []  # missing evidence and other shapes are for the level of maps to report
    apart = (one.masks != two.masks).any(axis=(1, 2))
    return [name for name, differs in zip(sides.names, apart, strict=True) if differs]
