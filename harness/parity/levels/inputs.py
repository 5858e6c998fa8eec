"""The level of inputs: the digests of each preprocessing step's result up to the network's input, and the ground truth."""

from __future__ import annotations

import numpy as np

from harness.parity.levels.base import Fixed
from harness.parity.pair import Pair
from harness.parity.report import LevelReport
from harness.records.record import Record
from harness.types import Verdict

STAGES = ("decode", "frame", "input")
Numbers = dict[str, float | int | None]


def stages_in_common(one: Record, two: Record) -> tuple[str, ...]:
    """Return those of `STAGES` that can be equal: without the input if one network does more of the preprocessing."""
    input_stages = (one.input_stage, two.input_stage)
    return STAGES if None in input_stages or input_stages[0] == input_stages[1] else STAGES[:2]


def measure(pair: Pair) -> Fixed:
    """Compare the digests of what went into the network, step by step, and the ground truth.

    The input decides. Digests before it may be unknown, if another program did the preprocessing. If one network does
    more of the preprocessing (a chip's AIPP normalises), the frame decides.
    """
    stages = stages_in_common(*pair.records)
    last = stages[-1]
    first: dict[str, list[str]] = {stage: [] for stage in STAGES}
    unknown: list[str] = []
    partly: list[str] = []
    frames: list[int] = []
    at_last = 0
    for index, (one, two) in enumerate(zip(*(record.images for record in pair.records), strict=True)):
        known = [stage for stage in stages if stage in one.stages and stage in two.stages]
        differing = [stage for stage in known if one.stages[stage] != two.stages[stage]]
        if last not in known:
            unknown.append(one.name)
            continue
        if tuple(known) != stages:
            partly.append(one.name)
        if differing:
            first[differing[0]].append(one.name)
            at_last += last in differing
        if "frame" in differing:
            frames.append(index)
    masks = _different_masks(pair)
    reasons = {
        **{f"first differ at {stage}": names for stage, names in first.items()},
        f"without the digest of the {last}": unknown,
        "with other ground truth": masks,
        f"warning: compared by the {last} alone, a record lacks the steps before it": partly,
    }
    messages = [f"{reason}: {pair.share(names)}" for reason, names in reasons.items() if names]
    if any(first.values()) and not at_last:
        messages.append(f"warning: the {last} is equal nevertheless")
    if last == "frame":
        reference, candidate = (
            f"{name} preprocesses up to {record.input_stage}"
            for name, record in zip(pair.names, pair.records, strict=True)
        )
        messages.append(
            f"warning: compared up to the frame: after it {reference} and {candidate}, the networks do the rest"
        )
    verdict: Verdict = "failed" if at_last or masks else "not measured" if unknown else "passed"
    numbers: Numbers = {f"first_at_{stage}": len(names) for stage, names in first.items()}
    numbers |= {"different_inputs": at_last, "different_masks": len(masks)}
    by_how_much, image = _frame_differences(pair, frames)
    if at_last or frames:
        messages.insert(sum(map(bool, first.values())), _in_words(by_how_much, image, frames))
    report = LevelReport(
        name="inputs",
        verdict=verdict,
        messages=tuple(messages),
        numbers=numbers | by_how_much,
        images={} if image is None else {"largest_grey_difference": image},
    )
    return Fixed(report)


def _frame_differences(pair: Pair, indices: list[int]) -> tuple[Numbers, str | None]:
    """Return grey-value differences (0 to 255) and the share of pixels of the frames that differ, and the worst image."""
    reference, candidate = pair.evidence
    if (
        not indices
        or reference is None
        or candidate is None
        or reference.frames.shape != candidate.frames.shape
    ):
        return {}, None
    largest, total, pixels, worst = 0, 0, 0, None
    for index in indices:
        differences = np.abs(reference.frames[index].astype(np.int16) - candidate.frames[index])
        total += int(differences.sum(dtype=np.int64))
        pixels += int(np.count_nonzero(differences.any(axis=-1)))
        if differences.max(initial=0) > largest:
            largest, worst = int(differences.max()), pair.images[index]
    height, width, channels = reference.frames.shape[1:]
    count = len(indices) * height * width
    numbers: Numbers = {
        "largest_grey_difference": largest,
        "mean_grey_difference": total / (count * channels),
        "share_of_pixels": pixels / count,
    }
    return numbers, worst


def _in_words(numbers: Numbers, image: str | None, frames: list[int]) -> str:
    if image is not None:
        return (
            f"the frames differ by {numbers['largest_grey_difference']} of 255 grey values at most, "
            f"{numbers['mean_grey_difference']:.3g} on average, in {numbers['share_of_pixels']:.1%} of their pixels, most "
            f"in {image}"
        )
    why = "the evidence holds frames, and not the scaled, normalised and laid out inputs"
    if frames:
        why = "the frames in the evidence are missing or of two sizes"
    if numbers:
        why = "the frames in the evidence are equal, their digests are not: a record was altered"
    return f"by how much is unknown: {why}"


def _different_masks(pair: Pair) -> list[str]:
    reference, candidate = pair.evidence
    if reference is None or candidate is None or reference.masks.shape != candidate.masks.shape:
        return []  # the level of maps reports missing evidence and other shapes
    differing = (reference.masks != candidate.masks).any(axis=(1, 2))
    return [name for name, differs in zip(pair.images, differing, strict=True) if differs]
