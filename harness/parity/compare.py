"""Compare two records, level by level, after a check that they share what must be equal."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from harness.parity.levels import decisions, inputs, maps, metrics, scores, tensors
from harness.parity.levels.base import Level
from harness.parity.pair import Pair, first_names, map_differences, number, score_differences
from harness.parity.report import LARGEST, Difference, LevelReport, PairReport
from harness.parity.tolerances import FLOAT32, Tolerances, profile_of
from harness.records import record as records
from harness.records.record import Record
from harness.types import overall


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Which differences pass; the defaults are those of each pair's precision."""

    profile: str | None = None
    """One of `PROFILES`; `None` for that of the looser of the two precisions."""
    outputs: Mapping[str, float] = field(default_factory=dict)
    """Output name → its own tolerance."""
    margin: float | None = None
    """In [0, 1): the loss of AUROC or AUPRO that must be ruled out; `None` if none needs to be."""


DEFAULT = Limits()
_ENCODED = "warning: the files of the test images or masks differ, the decoded pixels do not"


def compare(
    folder: Path,
    reference: Record,
    candidate: Record,
    *,
    limits: Limits = DEFAULT,
    notes: tuple[str, ...] = (),
) -> PairReport:
    """Compare two records of one detector on the same images.

    Args:
        folder: Results folder; evidence is read from it.
        reference: The record that the candidate is held to.
        candidate: The record that is judged.
        limits: Which differences pass.
        notes: What the report says about the choice of the records.

    Returns:
        The report. If the two cannot be compared, it is "not measured" and has a reason and no levels.

    Raises:
        RecordError: a record's evidence was altered.
    """
    both = (reference, candidate)
    profile = profile_of(*both, name=limits.profile, outputs=limits.outputs)
    report = PairReport(
        verdict="not measured",
        reference=reference.case,
        other=candidate.case,
        detector_sha256=reference.detector_sha256,
        record_files=(records.path_of(folder, reference).name, records.path_of(folder, candidate).name),
        profile=profile,
        notes=notes,
        simulated=tuple(record.case.runner for record in both if record.device and record.device.simulated),
    )
    reason = _why_not_comparable(reference, candidate)
    if reason is not None:
        return dataclasses.replace(report, reason=reason)
    if about(reference) != about(candidate):
        report = dataclasses.replace(report, notes=(*notes, _ENCODED))
    evidence = (records.read_evidence(folder, reference), records.read_evidence(folder, candidate))
    return _judged(report, folder, Pair(records=both, evidence=evidence), limits.margin)


def _judged(report: PairReport, folder: Path, pair: Pair, margin: float | None) -> PairReport:
    flips = decisions.flips(pair)
    outputs = tensors.measure(folder, pair)
    changes = metrics.measure(pair, margin)
    levels: tuple[Level, ...] = (
        inputs.measure(pair),
        outputs,
        scores.measure(pair),
        maps.measure(pair),
        decisions.measure(pair, flips),
        changes,
    )
    tolerances = report.profile.tolerances
    reports = _judge(levels, tolerances)
    strict = () if tolerances == FLOAT32 else _judge(levels, FLOAT32)
    images = pair.records[0].images
    return dataclasses.replace(
        report,
        verdict=overall(level.verdict for level in reports),
        good=sum(image.label == 0 for image in images),
        defective=sum(image.label == 1 for image in images),
        levels=reports,
        left_out={"tensors": outputs.left_out} if outputs.left_out else {},
        float32={level.name: level.verdict for level in strict},
        tensors=outputs.differences,
        metrics=changes.changes,
        flips=flips,
        largest=largest_differences(pair),
    )


def _judge(levels: Sequence[Level], tolerances: Tolerances) -> tuple[LevelReport, ...]:
    reports = (level.judge(tolerances) for level in levels)
    return tuple(report for report in reports if report is not None)


def _why_not_comparable(reference: Record, candidate: Record) -> str | None:
    both = (reference, candidate)
    unmeasured = [
        f"{record.case.runner} {record.status}: {record.reason}"
        for record in both
        if record.status != "measured"
    ]
    if unmeasured:
        return "; ".join(unmeasured)
    dependent = _why_dependent(reference, candidate)
    if dependent is not None:
        return dependent
    digests = " and ".join(record.detector_sha256[:12] for record in both)
    if reference.detector_sha256 != candidate.detector_sha256:
        return f"different detectors (detector_sha256 {digests}): bench both backends on one artifact"
    if reference.thresholds != candidate.thresholds:
        return f"different thresholds under one detector_sha256 ({digests}): a record was altered; bench both again"
    for name in ("mask threshold", "mask resize"):
        rules = [getattr(record.case, name.replace(" ", "_")) for record in both]
        if rules[0] != rules[1]:
            option = name.replace(" ", "-")
            return (
                f"different ground truth ({name} {rules[0]} and {rules[1]}): bench both with one --{option}"
            )
    return why_images_differ(reference, candidate)


def _why_dependent(reference: Record, candidate: Record) -> str | None:
    if reference.inputs_sha256 == candidate.inputs_sha256:
        return f"a record would be compared with itself (inputs_sha256 {candidate.inputs_sha256[:12]})"
    for one, two in ((reference, candidate), (candidate, reference)):
        if two.source is not None and two.source.record_sha256 and two.source.made_by == one.case.runner:
            return (
                f"{two.case.runner} replays the outputs of {one.case.runner}: one network ran, so two are "
                "not compared"
            )
    return None


def why_images_differ(reference: Record, candidate: Record) -> str | None:
    """Say why two records are not of the same test images; `None` if they are, at least by their decoded pixels."""
    both = (reference, candidate)
    if reference.data is None or candidate.data is None or not reference.images or not candidate.images:
        return "a record without test images: there is nothing to compare"
    prints = f"fingerprints {reference.data.fingerprint[:12]} and {candidate.data.fingerprint[:12]}"
    one, two = ([image.name for image in record.images] for record in both)
    counts = f"{len(one)} and {len(two)} images, {prints}"
    if not set(one) & set(two):
        return f"no test image in common ({counts}): bench both on one folder"
    if one != two:
        alone = sorted(set(one) ^ set(two))
        how = f"only one record has {first_names(alone)}" if alone else "the same names in another order"
        return f"different test images ({counts}): {how}; bench both on one folder"
    images = zip(reference.images, candidate.images, strict=True)
    relabelled = [a.name for a, b in images if a.label != b.label or a.label not in (0, 1)]
    if relabelled:
        return f"different or unknown labels ({prints}): {first_names(relabelled)}"
    if reference.data.fingerprint != candidate.data.fingerprint and not _same_pixels(reference, candidate):
        return f"different test images under the same names ({prints}): bench both on one folder"
    return None


def _same_pixels(reference: Record, candidate: Record) -> bool:
    """Whether every image was decoded to the same pixels, so that only the files' encoding differs.

    Masks are evidence, which the level of inputs compares.
    """
    one, two = ([image.stages.get("decode") for image in record.images] for record in (reference, candidate))
    return one == two and None not in one


def about(record: Record) -> tuple[str, str | None]:
    """Return the digests of a record's detector and test data, which the two records of a pair share."""
    return record.detector_sha256, record.data.fingerprint if record.data else None


def largest_differences(pair: Pair) -> tuple[Difference, ...]:
    """Return the images with the largest difference of score or map; a value that is not finite counts as the largest."""
    by_score, by_map = score_differences(pair), map_differences(pair)
    of_maps = np.full(len(by_score), -np.inf) if by_map is None else by_map[0]
    larger = np.nan_to_num(np.maximum(by_score, of_maps), nan=np.inf)
    return tuple(
        Difference(
            image=pair.images[index],
            label=pair.records[0].images[index].label,
            reference_score=number(pair.scores[0][index]),
            other_score=number(pair.scores[1][index]),
            score=number(by_score[index]),
            map=number(of_maps[index]),
        )
        for index in np.argsort(-larger, kind="stable")[:LARGEST]
    )
