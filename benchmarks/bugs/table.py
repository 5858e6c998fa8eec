"""The bench's outcomes as the table of docs/explanation/bug-bench.md."""

from __future__ import annotations

from collections.abc import Sequence

from tabulate import tabulate

from benchmarks.bugs.base import Outcome


def summary(outcomes: Sequence[Outcome]) -> str:
    """One line: how many were found, placed and refused, how many false alarms there were."""
    bugs = [item for item in outcomes if item.change.place is not None]
    harmless = [item for item in outcomes if item.change.place is None]
    found, placed, alarms = (
        sum(item.found for item in bugs),
        sum(item.placed_right for item in bugs),
        sum(item.verdict != "passed" for item in harmless),
    )
    refused = sum(item.verdict == "refused" for item in bugs)
    return (
        f"{found} of {len(bugs)} bugs found ({refused} by a refusal), {placed} placed in the right stage; "
        f"{alarms} of {len(harmless)} harmless changes gave an alarm"
    )


def rows(outcomes: Sequence[Outcome]) -> str:
    """Markdown: the bugs, then the harmless changes."""
    bugs = [
        {
            "where": item.change.where,
            "bug": item.change.name,
            "found": _mark(holds=item.verdict == "failed"),
            "refused": _mark(holds=item.verdict == "refused"),
            "stage": item.change.place,
            "named": ("**not** " if not item.placed_right else "") + (item.placed or "none"),
            "Polygraphy": item.polygraphy,
        }
        for item in outcomes
        if item.change.place is not None
    ]
    harmless = [
        {
            "harmless change": item.change.name,
            "parity": item.verdict if item.verdict == "passed" else f"**{item.verdict}**",
            "Polygraphy": {"found": "alarm", "missed": "passed"}.get(item.polygraphy, item.polygraphy),
        }
        for item in outcomes
        if item.change.place is None
    ]
    tables = [tabulate(part, headers="keys", tablefmt="github") for part in (bugs, harmless) if part]
    return "\n\n".join(tables)


def _mark(*, holds: bool) -> str:
    return "yes" if holds else ""
