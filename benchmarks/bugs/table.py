"""The outcomes as the tables of docs/explanation/bug-bench.md."""

from __future__ import annotations

from collections.abc import Sequence

from tabulate import tabulate

from benchmarks.bugs.change import Outcome


def summary(outcomes: Sequence[Outcome]) -> str:
    """One line: the numbers of bugs found, refused and placed, and of false alarms."""
    bugs = [outcome for outcome in outcomes if outcome.change.place is not None]
    harmless = [outcome for outcome in outcomes if outcome.change.place is None]
    placed = sum(outcome.placed_right for outcome in bugs)
    refused = sum(outcome.verdict == "refused" for outcome in bugs)
    alarms = sum(outcome.verdict != "passed" for outcome in harmless)
    return (
        f"{sum(outcome.found for outcome in bugs)} of {len(bugs)} bugs found ({refused} by a refusal), {placed} placed in the right stage; "
        f"{alarms} of {len(harmless)} harmless changes gave an alarm"
    )


def tables(outcomes: Sequence[Outcome]) -> str:
    """Markdown: the bugs, then the harmless changes."""
    bugs = [
        {
            "where": outcome.change.where,
            "bug": outcome.change.name,
            "found": _mark(holds=outcome.verdict == "failed"),
            "refused": _mark(holds=outcome.verdict == "refused"),
            "stage": outcome.change.place,
            "named": ("**not** " if not outcome.placed_right else "") + (outcome.placed or "none"),
            "Polygraphy": outcome.polygraphy,
        }
        for outcome in outcomes
        if outcome.change.place is not None
    ]
    harmless = [
        {
            "harmless change": outcome.change.name,
            "parity": outcome.verdict if outcome.verdict == "passed" else f"**{outcome.verdict}**",
            "Polygraphy": {"found": "alarm", "missed": "passed"}.get(outcome.polygraphy, outcome.polygraphy),
        }
        for outcome in outcomes
        if outcome.change.place is None
    ]
    parts = [tabulate(rows, headers="keys", tablefmt="github") for rows in (bugs, harmless) if rows]
    return "\n\n".join(parts)


def _mark(*, holds: bool) -> str:
    return "yes" if holds else ""
