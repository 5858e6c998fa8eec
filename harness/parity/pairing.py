"""Which records are compared with which, and what two records must share before anything is compared."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from harness import record, registry
from harness.errors import UsageError
from harness.parity import inputs, levels, rates, tensors
from harness.parity.profiles import FLOAT32, PROFILES, precision_of, profile_of
from harness.parity.report import LevelReport, PairReport, ParityReport, Verdict, overall
from harness.parity.sides import Float64, Sides, named
from harness.record import Record
from harness.types import Case


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
    metrics: rates.MeasuredMetrics


def parity(
    folder: Path,
    *,
    reference: str,
    records: Sequence[Record] | None = None,
    asked: Asked = NOTHING_ASKED,
) -> ParityReport:
    """Compare every record of another side with the reference's record of the same category.

    Args:
        folder: Results folder; evidence is read from it.
        reference: Backend to be agreed with; `BACKEND:VARIANT` for one variant, with which the backend's others are compared too.
        records: Those to compare; the newest of every case in `folder` when not given.
        asked: Of every pair.

    Raises:
        RecordError: a record or its evidence cannot be read or was altered.
        UsageError: no pair compared an output that `asked` has a tolerance for.
    """
    everything = record.read_all(folder) if records is None else tuple(records)
    found = record.latest(everything)
    scopes: dict[str, list[Record]] = {}
    left_out = tuple(item for item in found if _is_same_side(item, reference, found))
    for item in (item for item in found if item not in left_out):
        suite = f" (suite {item.case.suite})" if item.case.suite else ""
        scope = f"{item.case.detector} {item.case.backbone} on {item.case.dataset}{suite}"
        scopes.setdefault(scope, []).append(item)
    reasons = [f"{scope}: {gap}" for scope, members in scopes.items() for gap in _gaps(members, reference)]
    if not found:
        reasons.append("there are no records")
    pairs = tuple(
        dataclasses.replace(pair, notes=pair.notes + _superseded(pair, everything, found) + _played(left_out))
        for members in scopes.values()
        for pair in _pairs(folder, members, reference, asked)
    )
    if not pairs:
        reasons += _played(left_out)
    _require_outputs(pairs, asked)
    verdicts: list[Verdict] = [pair.verdict for pair in pairs]
    if reasons:
        verdicts.append("not measured")
    return ParityReport(verdict=overall(verdicts), reference=reference, pairs=pairs, reasons=tuple(reasons))


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
    if _about(reference) != _about(other):
        pair = dataclasses.replace(pair, notes=(*notes, _ENCODED))
    return _judged(pair, folder, sides, asked.margin)


def _judged(pair: PairReport, folder: Path, sides: Sides, margin: float | None) -> PairReport:
    measured = Measured(
        tensors=tensors.measure(folder, sides),
        similarity=levels.measure_similarity(sides),
        metrics=rates.measure(sides, margin),
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
        flips=levels.flips(sides),
        largest=levels.largest_differences(sides),
    )


def _levels(sides: Sides, measured: Measured) -> tuple[LevelReport, ...]:
    found = (
        inputs.input_level(sides),
        tensors.tensor_level(measured.tensors, sides),
        levels.score_level(sides),
        levels.map_level(sides, measured.similarity),
        levels.decision_level(sides, levels.flips(sides)),
        rates.metric_level(measured.metrics, sides),
    )
    return tuple(level for level in found if level is not None)


def _require_outputs(pairs: Sequence[PairReport], asked: Asked) -> None:
    """A tolerance that no output has would be one that nobody notices."""
    compared = {found.output: None for pair in pairs for found in pair.tensors}
    for name in asked.outputs:
        if not compared:
            raise UsageError(
                f"--tolerance {name}: no outputs were compared: bench both sides with --save-outputs"
            )
        if name not in compared:
            raise UsageError(registry.unknown("output of the networks", name, compared))


def _side(item: Record, reference: str) -> str:
    """What the record is called beside `reference`: by its backend, or by backend and variant where that names one."""
    one_of_a_backend = f"{item.case.runner}:{item.case.variant}"
    by_variant = reference.startswith(f"{item.case.runner}:") or ":" in reference.partition("(")[0]
    return one_of_a_backend if by_variant else item.case.runner


def _gaps(members: Sequence[Record], reference: str) -> list[str]:
    """What has no counterpart among the records of one detector on one data set."""
    sides: dict[str, list[Record]] = {}
    for item in members:
        mine = _side(item, reference) == reference
        several = len({of.case.variant for of in members if of.case.runner == item.case.runner}) > 1
        name = f"{item.case.runner}:{item.case.variant}" if several else _side(item, reference)
        sides.setdefault(reference if mine else name, []).append(item)
    ours = sides.pop(reference, None)
    if ours is None:
        names = sorted({_side(item, reference) for item in members})
        return [f"no record of the reference {reference} (there are: {', '.join(names)})"]
    if not sides:
        ids = sorted({item.case.variant for item in ours})
        more = (
            f", or name one of its variants ({', '.join(ids)}): --reference {reference}:{ids[0]}"
            if ids[1:]
            else ""
        )
        return [f"only {reference} has records: nothing to compare with; bench another backend{more}"]
    candidates = [_candidates(members, reference, other) for other in members]
    unclear = [*candidates, [item for of in candidates for item in of]]  # in a category, else over all
    found = [gap for gap in (_unclear(of, reference) for of in unclear) if gap is not None][:1]
    for name, theirs in sorted(sides.items()):
        found += _lost(reference, ours, name, theirs) + _outdated(reference, ours, name, theirs)
    return [*dict.fromkeys(found)]


def _lost(reference: str, ours: Sequence[Record], name: str, theirs: Sequence[Record]) -> list[str]:
    """Categories that only one of two sides has."""
    mine, other = ({item.case.category for item in records} for records in (ours, theirs))
    return [
        f"{having} has records of {', '.join(sorted(lost))} and {lacking} has none"
        for having, lacking, lost in ((reference, name, mine - other), (name, reference, other - mine))
        if lost
    ]


def _outdated(reference: str, ours: Sequence[Record], name: str, theirs: Sequence[Record]) -> list[str]:
    """Categories whose newest record of the reference has no counterpart: agreement with an older detector says nothing of it."""
    newest = {item.case.category: item for item in sorted(ours, key=lambda item: item.finished)}
    return [
        f"{reference}'s newest record of {category} is of detector {last.detector_sha256[:12]}"
        f"{f', test images {last.data.fingerprint[:12]}' if last.data else ''}, and {name} has none of that: bench it too"
        for category, last in newest.items()
        if category in {item.case.category for item in theirs}
        and not any(_is_counterpart(item, last) for item in theirs if item.case.category == category)
    ]


def _is_counterpart(item: Record, last: Record) -> bool:
    """Whether a record is of the same detector and, as far as both say, test images."""
    unknown = last.data is None or item.data is None
    return item.detector_sha256 == last.detector_sha256 and (
        unknown or _why_images_differ(last, item) is None
    )


def _candidates(members: Sequence[Record], reference: str, other: Record) -> list[Record]:
    """Records of the reference that `other` may be compared with: of its category, and of its detector and data if there are."""
    if _side(other, reference) == reference:
        return []
    mine = [
        item
        for item in members
        if item.case.category == other.case.category and _side(item, reference) == reference
    ]
    return [item for item in mine if _about(item) == _about(other)] or mine


def _unclear(candidates: Sequence[Record], reference: str) -> str | None:
    """Why it is not clear what is agreed with: int8 agrees with int8, and says nothing of float32."""
    if len({precision_of(item) for item in candidates}) < 2:
        return None
    by_precision = sorted(candidates, key=lambda item: list(PROFILES).index(precision_of(item)[0]))
    ids = list(dict.fromkeys(item.case.variant for item in by_precision))
    return (
        f"{reference} has records of {', '.join(sorted({item.case.category for item in candidates}))} in several precisions ({', '.join(ids)}): name the one to be "
        f"agreed with, --reference {reference}:{ids[0]} say"
    )


def _pairs(folder: Path, members: Sequence[Record], reference: str, asked: Asked) -> list[PairReport]:
    pairs = []
    for other in members:
        candidates = _candidates(members, reference, other)
        if candidates and _unclear(candidates, reference) is None:
            chosen, notes = _choose(candidates, other.case)
            pairs.append(compare(folder, chosen, other, asked=asked, notes=notes))
    return pairs


def _about(item: Record) -> tuple[str, str | None]:
    """Detector and test data of a record, which both sides of a comparison share."""
    return item.detector_sha256, item.data.fingerprint if item.data else None


def _truth(case: Case) -> tuple[int, str]:
    """What makes ground truth of the masks."""
    return case.mask_threshold, case.mask_resize


def _superseded(pair: PairReport, everything: Sequence[Record], found: Sequence[Record]) -> tuple[str, ...]:
    """Older records of the pair's cases and detector that another model, or other outputs, gave, and that are not compared."""
    return tuple(
        f"an older record of {item.case.runner} ({item.finished[:16]}Z, model {item.model_sha256[:12]}) is superseded, "
        f"not compared"
        for item in everything
        if item not in found
        and item.case in (pair.reference, pair.other)
        and item.detector_sha256 == pair.detector_sha256
        and item.inputs_sha256 not in [kept.inputs_sha256 for kept in found if kept.case == item.case]
    )


def _is_same_side(item: Record, reference: str, found: Sequence[Record]) -> bool:
    """Whether a record plays the outputs of the reference, or the reference plays its outputs: no network ran between them."""
    if item.source is not None and item.source.record_sha256:
        return item.source.made_by == reference.partition(":")[0]
    mine = [of for of in found if _side(of, reference) == reference and of is not item]
    return any(of.source and of.source.record_sha256 and of.source.made_by == item.case.runner for of in mine)


def _played(left_out: Sequence[Record]) -> tuple[str, ...]:
    names = dict.fromkeys(item.case.runner for item in left_out)
    return tuple(f"{name} is left out: the one plays the outputs of the other" for name in names)


def _choose(references: Sequence[Record], case: Case) -> tuple[Record, tuple[str, ...]]:
    """The reference record of the same batch size and threads, else the newest; measured ones first."""
    usable = [item for item in references if item.status == "measured"] or references
    usable = [item for item in usable if _truth(item.case) == _truth(case)] or usable
    wanted = (case.batch_size, case.threads)
    same = [item for item in usable if (item.case.batch_size, item.case.threads) == wanted]
    chosen = max(same or usable, key=lambda item: item.finished)
    setting = f"{chosen.case.variant}, batch {chosen.case.batch_size}, {chosen.case.threads} threads"
    if not same:
        why = f"{chosen.case.runner} has no record of batch {case.batch_size} and {case.threads} threads"
        return chosen, (f"{why}: its newest was taken ({setting})",)
    if len(same) > 1:
        return chosen, (
            f"{chosen.case.runner} has {len(same)} such records: the newest was taken ({setting})",
        )
    return chosen, ()


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
    return _why_images_differ(reference, other)


def _why_one_side_alone(reference: Record, other: Record) -> str | None:
    if reference.inputs_sha256 == other.inputs_sha256:
        return f"a record would be compared with itself (inputs_sha256 {other.inputs_sha256[:12]})"
    for one, two in ((reference, other), (other, reference)):
        if two.source is not None and two.source.record_sha256 and two.source.made_by == one.case.runner:
            return (
                f"{two.case.runner} plays the outputs of {one.case.runner}: no network ran on the other side"
            )
    return None


def _why_images_differ(reference: Record, other: Record) -> str | None:
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
