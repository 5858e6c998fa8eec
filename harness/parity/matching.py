"""Pair the records of a results folder, compare each pair, and name the records without a pair."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from harness import errors
from harness.errors import UsageError
from harness.parity.compare import DEFAULT, Limits, about, compare, why_images_differ
from harness.parity.report import PairReport, ParityReport
from harness.parity.tolerances import PROFILES, precision_of
from harness.records.record import Record, latest, read_all
from harness.types import Case, Verdict, overall


def parity(
    folder: Path,
    *,
    reference: str,
    records: Sequence[Record] | None = None,
    limits: Limits = DEFAULT,
) -> ParityReport:
    """Compare every other record with the reference's record of the same detector and category.

    Args:
        folder: Results folder; evidence is read from it.
        reference: The reference backend; `BACKEND:VARIANT` for one variant, and then the backend's other variants are candidates too.
        records: The records to compare; `None` for the newest of every case in `folder`.
        limits: Which differences pass, in every pair.

    Raises:
        RecordError: a record or its evidence cannot be read or was altered.
        UsageError: `limits` has a tolerance for an output that no pair compared.
    """
    everything = read_all(folder) if records is None else tuple(records)
    newest = latest(everything)
    scopes: dict[str, list[Record]] = {}
    replays = tuple(record for record in newest if _is_replay(record, reference, newest))
    for record in (record for record in newest if record not in replays):
        suite = f" (suite {record.case.suite})" if record.case.suite else ""
        scope = f"{record.case.detector} {record.case.backbone} on {record.case.dataset}{suite}"
        scopes.setdefault(scope, []).append(record)
    reasons = [f"{scope}: {gap}" for scope, members in scopes.items() for gap in _gaps(members, reference)]
    if not newest:
        reasons.append("there are no records")
    pairs = tuple(
        dataclasses.replace(
            pair, notes=pair.notes + _superseded(pair, everything, newest) + _left_out(replays)
        )
        for members in scopes.values()
        for pair in _pairs(folder, members, reference, limits)
    )
    if not pairs:
        reasons += _left_out(replays)
    _require_outputs(pairs, limits)
    verdicts: list[Verdict] = [pair.verdict for pair in pairs]
    if reasons:
        verdicts.append("not measured")
    return ParityReport(verdict=overall(verdicts), reference=reference, pairs=pairs, reasons=tuple(reasons))


def _require_outputs(pairs: Sequence[PairReport], limits: Limits) -> None:
    """Reject a tolerance for an output that no pair compared: it would be ignored silently."""
    compared = {tensor.output for pair in pairs for tensor in pair.tensors}
    for name in limits.outputs:
        if not compared:
            raise UsageError(
                f"--tolerance {name}: no outputs were compared: bench both backends with --save-outputs"
            )
        if name not in compared:
            raise UsageError(errors.unknown("output of the networks", name, compared))


def _name(record: Record, reference: str) -> str:
    """Return the record's backend, with its variant if `reference` names one."""
    with_variant = f"{record.case.runner}:{record.case.variant}"
    by_variant = reference.startswith(f"{record.case.runner}:") or ":" in reference.partition("(")[0]
    return with_variant if by_variant else record.case.runner


def _gaps(members: Sequence[Record], reference: str) -> list[str]:
    """Say what keeps the records of one detector on one data set from being paired."""
    by_name: dict[str, list[Record]] = {}
    for record in members:
        runner = record.case.runner
        variants = {member.case.variant for member in members if member.case.runner == runner}
        name = _name(record, reference)
        if name != reference and len(variants) > 1:
            name = f"{runner}:{record.case.variant}"
        by_name.setdefault(name, []).append(record)
    references = by_name.pop(reference, None)
    if references is None:
        names = sorted({_name(record, reference) for record in members})
        return [f"no record of the reference {reference} (there are: {', '.join(names)})"]
    if not by_name:
        ids = sorted({record.case.variant for record in references})
        more = (
            f", or name one of its variants ({', '.join(ids)}): --reference {reference}:{ids[0]}"
            if ids[1:]
            else ""
        )
        return [f"only {reference} has records: nothing to compare with; bench another backend{more}"]
    choices = [_choices(members, reference, record) for record in members]
    everything = [record for choice in choices for record in choice]
    ambiguous = (_ambiguity(choice, reference) for choice in [*choices, everything])
    gaps = [gap for gap in ambiguous if gap is not None][:1]
    for name, candidates in sorted(by_name.items()):
        gaps += _missing(reference, references, name, candidates)
        gaps += _outdated(reference, references, name, candidates)
    return [*dict.fromkeys(gaps)]


def _missing(
    reference: str, references: Sequence[Record], name: str, candidates: Sequence[Record]
) -> list[str]:
    """Name the categories that only one of two backends has."""
    ours, theirs = ({record.case.category for record in records} for records in (references, candidates))
    return [
        f"{having} has records of {', '.join(sorted(categories))} and {lacking} has none"
        for having, lacking, categories in (
            (reference, name, ours - theirs),
            (name, reference, theirs - ours),
        )
        if categories
    ]


def _outdated(
    reference: str, references: Sequence[Record], name: str, candidates: Sequence[Record]
) -> list[str]:
    """Name the categories with no candidate for the reference's newest record.

    Agreement with an older detector says nothing about the newest.
    """
    newest = {record.case.category: record for record in sorted(references, key=lambda one: one.finished)}
    return [
        f"{reference}'s newest record of {category} is of detector {last.detector_sha256[:12]}"
        f"{f' and test images {last.data.fingerprint[:12]}' if last.data else ''}, and {name} has no record of these: "
        "bench it too"
        for category, last in newest.items()
        if category in {record.case.category for record in candidates}
        and not any(_may_pair(last, record) for record in candidates if record.case.category == category)
    ]


def _may_pair(reference: Record, candidate: Record) -> bool:
    """Whether two records are of one detector and, as far as both know, of the same test images."""
    unknown = reference.data is None or candidate.data is None
    same_detector = reference.detector_sha256 == candidate.detector_sha256
    return same_detector and (unknown or why_images_differ(reference, candidate) is None)


def _choices(members: Sequence[Record], reference: str, candidate: Record) -> list[Record]:
    """Return the reference's records of the candidate's category, those of its detector and test data if there are any."""
    if _name(candidate, reference) == reference:
        return []
    choices = [
        record
        for record in members
        if record.case.category == candidate.case.category and _name(record, reference) == reference
    ]
    return [record for record in choices if about(record) == about(candidate)] or choices


def _ambiguity(choices: Sequence[Record], reference: str) -> str | None:
    """Ask for a variant if the choices have several precisions: agreement with int8 says nothing about float32."""
    if len({precision_of(record) for record in choices}) < 2:
        return None
    by_precision = sorted(choices, key=lambda record: list(PROFILES).index(precision_of(record)[0]))
    ids = list(dict.fromkeys(record.case.variant for record in by_precision))
    categories = ", ".join(sorted({record.case.category for record in choices}))
    return (
        f"{reference} has records of {categories} in several precisions ({', '.join(ids)}): name the one to compare "
        f"with, for example --reference {reference}:{ids[0]}"
    )


def _pairs(folder: Path, members: Sequence[Record], reference: str, limits: Limits) -> list[PairReport]:
    pairs = []
    for candidate in members:
        choices = _choices(members, reference, candidate)
        if choices and _ambiguity(choices, reference) is None:
            chosen, notes = _choose(choices, candidate.case)
            pairs.append(compare(folder, chosen, candidate, limits=limits, notes=notes))
    return pairs


def _choose(references: Sequence[Record], case: Case) -> tuple[Record, tuple[str, ...]]:
    """Choose the reference record of the same batch size and threads, or else the newest; measured ones first."""
    usable = [record for record in references if record.status == "measured"] or references
    usable = [record for record in usable if _ground_truth(record.case) == _ground_truth(case)] or usable
    setting = (case.batch_size, case.threads)
    same = [record for record in usable if (record.case.batch_size, record.case.threads) == setting]
    chosen = max(same or usable, key=lambda record: record.finished)
    described = f"{chosen.case.variant}, batch {chosen.case.batch_size}, {chosen.case.threads} threads"
    if not same:
        why = f"{chosen.case.runner} has no record of batch {case.batch_size} and {case.threads} threads"
        return chosen, (f"{why}: compared with its newest ({described})",)
    if len(same) > 1:
        return chosen, (
            f"{chosen.case.runner} has {len(same)} such records: compared with the newest ({described})",
        )
    return chosen, ()


def _ground_truth(case: Case) -> tuple[int, str]:
    """Return the rules that turn masks into ground truth."""
    return case.mask_threshold, case.mask_resize


def _superseded(pair: PairReport, everything: Sequence[Record], newest: Sequence[Record]) -> tuple[str, ...]:
    """Name older records of the pair's cases and detector that come from another model or from other outputs."""
    return tuple(
        f"an older record of {record.case.runner} ({record.finished[:16]}Z, model {record.model_sha256[:12]}) is superseded, "
        "not compared"
        for record in everything
        if record not in newest
        and record.case in (pair.reference, pair.other)
        and record.detector_sha256 == pair.detector_sha256
        and record.inputs_sha256 not in [newer.inputs_sha256 for newer in newest if newer.case == record.case]
    )


def _is_replay(record: Record, reference: str, newest: Sequence[Record]) -> bool:
    """Whether the record replays the reference's outputs, or the reference the record's: both show one network's run."""
    if record.source is not None and record.source.record_sha256:
        return record.source.made_by == reference.partition(":")[0]
    sources = [
        other.source for other in newest if _name(other, reference) == reference and other is not record
    ]
    return any(
        source is not None and source.record_sha256 and source.made_by == record.case.runner
        for source in sources
    )


def _left_out(replays: Sequence[Record]) -> tuple[str, ...]:
    names = dict.fromkeys(record.case.runner for record in replays)
    return tuple(f"{name} is left out: it and the reference share the outputs of one run" for name in names)
