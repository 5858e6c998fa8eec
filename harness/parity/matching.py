"""Which records are compared with which, and what lacks a counterpart."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from harness import errors
from harness.errors import UsageError
from harness.parity.compare import NOTHING_ASKED, Asked, about, compare, why_images_differ
from harness.parity.report import PairReport, ParityReport, Verdict, overall
from harness.parity.tolerances import PROFILES, precision_of
from harness.records import record
from harness.records.record import Record
from harness.types import Case


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


def _require_outputs(pairs: Sequence[PairReport], asked: Asked) -> None:
    """A tolerance that no output has would be one that nobody notices."""
    compared = {found.output: None for pair in pairs for found in pair.tensors}
    for name in asked.outputs:
        if not compared:
            raise UsageError(
                f"--tolerance {name}: no outputs were compared: bench both sides with --save-outputs"
            )
        if name not in compared:
            raise UsageError(errors.unknown("output of the networks", name, compared))


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
    return item.detector_sha256 == last.detector_sha256 and (unknown or why_images_differ(last, item) is None)


def _candidates(members: Sequence[Record], reference: str, other: Record) -> list[Record]:
    """Records of the reference that `other` may be compared with: of its category, and of its detector and data if there are."""
    if _side(other, reference) == reference:
        return []
    mine = [
        item
        for item in members
        if item.case.category == other.case.category and _side(item, reference) == reference
    ]
    return [item for item in mine if about(item) == about(other)] or mine


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
