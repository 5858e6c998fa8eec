"""What a gate says: the verdict on every rule with the numbers it rests on, and over all of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import msgspec

from harness.parity import Verdict

MARKS: dict[Verdict, str] = {"passed": "✓", "failed": "✗", "not measured": "?"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing a rule looked at: a category, the mean of them, a benchmark."""

    about: str
    verdict: Verdict
    message: str
    """What was found and what was asked for; the reason where nothing was measured."""
    numbers: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One rule and all it looked at."""

    rule: str
    kind: str
    verdict: Verdict
    checks: tuple[Check, ...]
    notes: tuple[str, ...] = ()
    """What to know about a verdict all the same: simulated devices."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GateReport:
    """Every rule of a file, and the verdict over all of them."""

    verdict: Verdict
    rules: str
    """The file."""
    outcomes: tuple[Outcome, ...]
    reasons: tuple[str, ...]
    """What keeps the whole from passing, whatever the rules say."""

    def to_json(self) -> dict[str, Any]:
        """Plain dicts, lists, strings and finite numbers; the first key is `verdict`."""
        document: dict[str, Any] = msgspec.to_builtins(self)
        return document


def lines(report: GateReport) -> list[str]:
    """One line per rule and per thing it looked at; the last line is the verdict."""
    text = [line for outcome in report.outcomes for line in _outcome(outcome)]
    text += [f"not measured: {reason}" for reason in report.reasons]
    counts = [
        f"{sum(outcome.verdict == verdict for outcome in report.outcomes)} {verdict}" for verdict in MARKS
    ]
    return [
        *text,
        f"gate {report.verdict}: {report.rules}: {len(report.outcomes)} rules, {', '.join(counts)}",
    ]


def said_once(reasons: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Category → its reason; categories whose reasons differ by their own name alone share the first's."""
    alike: dict[str, list[tuple[str, str]]] = {}
    for category, reason in reasons:
        alike.setdefault(reason.replace(category, ""), []).append((category, reason))
    return {
        first: f"{reason} (and {len(more)} more alike: {', '.join(name for name, _ in more)})"
        if more
        else reason
        for (first, reason), *more in alike.values()
    }


def _outcome(outcome: Outcome) -> Iterator[str]:
    yield f"{MARKS[outcome.verdict]} {outcome.rule} ({outcome.kind}): {outcome.verdict}"
    said = said_once(
        (check.about, check.message) for check in outcome.checks if check.verdict == "not measured"
    )
    for check in outcome.checks:
        if check.verdict != "not measured" or check.about in said:
            yield f"    {MARKS[check.verdict]} {check.about}: {said.get(check.about, check.message)}"
    for note in outcome.notes:
        yield f"    {note}"
