"""A gate's report: the verdict on every rule with the numbers it rests on, and the verdict over all rules."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import msgspec

from harness.types import MARKS, Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """The verdict on one subject of a rule: a category, the mean of several, or a benchmark."""

    about: str
    """The subject."""
    verdict: Verdict
    message: str
    """The value and its limit; the reason if it was not measured."""
    numbers: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One rule with all its checks."""

    rule: str
    kind: str
    verdict: Verdict
    checks: tuple[Check, ...]
    notes: tuple[str, ...] = ()
    """Remarks that do not change the verdict, for example that simulated devices are allowed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GateReport:
    """Every rule of a file, and the verdict over all of them."""

    verdict: Verdict
    rules: str
    """Path of the file."""
    outcomes: tuple[Outcome, ...]
    reasons: tuple[str, ...]
    """What keeps the gate from passing, whatever the rules' verdicts are."""

    def to_json(self) -> dict[str, Any]:
        """Return plain dicts, lists, strings and finite numbers; the first key is `verdict`."""
        document: dict[str, Any] = msgspec.to_builtins(self)
        return document


def lines(report: GateReport) -> list[str]:
    """Return one line for each rule and each of its checks, and in the last line the verdict."""
    text = [line for outcome in report.outcomes for line in _outcome(outcome)]
    text += [f"not measured: {reason}" for reason in report.reasons]
    counts = [
        f"{sum(outcome.verdict == verdict for outcome in report.outcomes)} {verdict}" for verdict in MARKS
    ]
    return [
        *text,
        f"gate {report.verdict}: {report.rules}: {len(report.outcomes)} rules, {', '.join(counts)}",
    ]


def without_repetition(reasons: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Map each category to its reason; of categories whose reasons differ in their own name alone, only the first stays."""
    alike: dict[str, list[tuple[str, str]]] = {}
    for category, reason in reasons:
        alike.setdefault(reason.replace(category, ""), []).append((category, reason))
    return {
        first: f"{reason} (also {', '.join(name for name, _ in more)})" if more else reason
        for (first, reason), *more in alike.values()
    }


def _outcome(outcome: Outcome) -> Iterator[str]:
    yield f"{MARKS[outcome.verdict]} {outcome.rule} ({outcome.kind}): {outcome.verdict}"
    reasons = without_repetition(
        (check.about, check.message) for check in outcome.checks if check.verdict == "not measured"
    )
    for check in outcome.checks:
        if check.verdict != "not measured" or check.about in reasons:
            yield f"    {MARKS[check.verdict]} {check.about}: {reasons.get(check.about, check.message)}"
    for note in outcome.notes:
        yield f"    {note}"
