"""Two records compared, level by level, and what they must share before anything is compared."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from harness.parity.levels import decisions, inputs, maps, scores, tensors
from harness.parity.levels import metrics as metrics_module
from harness.parity.pair import (
    Float64,
    Sides,
    map_differences,
    named,
    number,
    score_differences,
)
from harness.parity.report import LARGEST, Difference, LevelReport, PairReport, Verdict, overall
from harness.parity.tolerances import FLOAT32, profile_of
from harness.records import record
from harness.records.record import Record


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a person may ask of a comparison."""

    profile: str | None = None
    """One of `PROFILES`; `None` for what the two precisions are."""
    outputs: Mapping[str, float] = field(default_factory=dict)
    """Tolerances of single outputs, by name."""
    margin: float | None = None
    """In [0, 1): the loss of AUROC or AUPRO that must be ruled out; `None`: nothing need be."""


NOTHING_ASKED = Asked()
_ENCODED = "warning: the files of the test images or masks differ, the decoded pixels do not"


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What takes time, and is the same whatever the tolerances are."""

    tensors: tensors.MeasuredTensors
    similarity: Float64 | None
    metrics: metrics_module.MeasuredMetrics


def compare(
    folder: Path,
    reference: Record,
    other: Record,
    *,
    asked: Asked = NOTHING_ASKED,
    notes: tuple[str, ...] = (),
) -> PairReport:
    """Compare two records of one detector on the same images; refused, with the reason, when they are not that.

    Raises:
        RecordError: the evidence of one was altered.
    """
    profile = profile_of(reference, other, asked=asked.profile, outputs=asked.outputs)
    pair = PairReport(
        verdict="not measured",
        reference=reference.case,
        other=other.case,
        detector_sha256=reference.detector_sha256,
        record_files=(record.path_of(folder, reference).name, record.path_of(folder, other).name),
        profile=profile,
        notes=notes,
        simulated=tuple(
            item.case.runner for item in (reference, other) if item.device and item.device.simulated
        ),
    )
    reason = _refusal(reference, other)
    if reason is not None:
        return dataclasses.replace(pair, reason=reason)
    sides = Sides(
        records=(reference, other),
        evidence=(record.read_evidence(folder, reference), record.read_evidence(folder, other)),
        tolerances=profile.tolerances,
    )
    if about(reference) != about(other):
        pair = dataclasses.replace(pair, notes=(*notes, _ENCODED))
    return _judged(pair, folder, sides, asked.margin)


def _judged(pair: PairReport, folder: Path, sides: Sides, margin: float | None) -> PairReport:
    measured = Measured(
        tensors=tensors.measure(folder, sides),
        similarity=maps.measure_similarity(sides),
        metrics=metrics_module.measure(sides, margin),
    )
    reports = _levels(sides, measured)
    strict: dict[str, Verdict] = {}
    if sides.tolerances != FLOAT32:
        strictly = _levels(dataclasses.replace(sides, tolerances=FLOAT32), measured)
        strict = {level.name: level.verdict for level in strictly}
    images = sides.records[0].images
    return dataclasses.replace(
        pair,
        verdict=overall(level.verdict for level in reports),
        good=sum(image.label == 0 for image in images),
        defective=sum(image.label == 1 for image in images),
        levels=reports,
        left_out={"tensors": measured.tensors.left_out} if measured.tensors.left_out else {},
        float32=strict,
        tensors=measured.tensors.differences,
        metrics=measured.metrics.changes,
        flips=decisions.flips(sides),
        largest=largest_differences(sides),
    )


def _levels(sides: Sides, measured: Measured) -> tuple[LevelReport, ...]:
    found = (
        inputs.input_level(sides),
        tensors.tensor_level(measured.tensors, sides),
        scores.score_level(sides),
        maps.map_level(sides, measured.similarity),
        decisions.decision_level(sides, decisions.flips(sides)),
        metrics_module.metric_level(measured.metrics, sides),
    )
    return tuple(level for level in found if level is not None)


def _refusal(reference: Record, other: Record) -> str | None:
    both = (reference, other)
    unmeasured = [
        f"{item.case.runner} {item.status}: {item.reason}" for item in both if item.status != "measured"
    ]
    if unmeasured:
        return "; ".join(unmeasured)
    dependent = _why_one_side_alone(reference, other)
    if dependent is not None:
        return dependent
    digests = " and ".join(item.detector_sha256[:12] for item in both)
    if reference.detector_sha256 != other.detector_sha256:
        return f"different detectors (detector_sha256 {digests}): bench both backends on one artifact"
    if reference.thresholds != other.thresholds:
        return f"different thresholds under one detector_sha256 ({digests}): a record was altered; bench both again"
    for name in ("mask threshold", "mask resize"):
        rules = [getattr(item.case, name.replace(" ", "_")) for item in both]
        if rules[0] != rules[1]:
            option = name.replace(" ", "-")
            return (
                f"different ground truth ({name} {rules[0]} and {rules[1]}): bench both with one --{option}"
            )
    return why_images_differ(reference, other)


def _why_one_side_alone(reference: Record, other: Record) -> str | None:
    if reference.inputs_sha256 == other.inputs_sha256:
        return f"a record would be compared with itself (inputs_sha256 {other.inputs_sha256[:12]})"
    for one, two in ((reference, other), (other, reference)):
        if two.source is not None and two.source.record_sha256 and two.source.made_by == one.case.runner:
            return (
                f"{two.case.runner} plays the outputs of {one.case.runner}: no network ran on the other side"
            )
    return None


def why_images_differ(reference: Record, other: Record) -> str | None:
    """Why two records are not of the same test images; `None` where they are, if only by their decoded pixels."""
    if reference.data is None or other.data is None or not reference.images or not other.images:
        return "a record without test images: there is nothing to compare"
    prints = f"fingerprints {reference.data.fingerprint[:12]} and {other.data.fingerprint[:12]}"
    mine, theirs = ([image.name for image in item.images] for item in (reference, other))
    counts = f"{len(mine)} and {len(theirs)} images, {prints}"
    if not set(mine) & set(theirs):
        return f"no test image in common ({counts}): bench both on one folder"
    if mine != theirs:
        alone = sorted(set(mine) ^ set(theirs))
        what = f"only one side has {named(alone)}" if alone else "the same names in another order"
        return f"different test images ({counts}): {what}; bench both on one folder"
    images = zip(reference.images, other.images, strict=True)
    relabelled = [one.name for one, two in images if one.label != two.label or one.label not in (0, 1)]
    if relabelled:
        return f"different or unknown labels ({prints}): {named(relabelled)}"
    if reference.data.fingerprint != other.data.fingerprint and not _same_pixels(reference, other):
        return f"different test images under the same names ({prints}): bench both on one folder"
    return None


def _same_pixels(reference: Record, other: Record) -> bool:
    """Whether every image was decoded to the same pixels, so that at most the files' encoding differs.

    Masks are compared as evidence, in the level of inputs.
    """
    mine, theirs = ([image.stages.get("decode") for image in item.images] for item in (reference, other))
    return mine == theirs and None not in mine


def about(item: Record) -> tuple[str, str | None]:
    """Detector and test data of a record, which both sides of a comparison share."""
    return item.detector_sha256, item.data.fingerprint if item.data else None


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
