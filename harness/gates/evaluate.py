"""Evaluate the rules of a file over a results folder: each by itself, then one verdict over all."""

from __future__ import annotations

from pathlib import Path

from harness.errors import HarnessError, UsageError
from harness.gates import judges, rules, selection
from harness.gates.judges import Places
from harness.gates.report import Check, GateReport, Outcome
from harness.gates.rules import Bound, Latency, Rule
from harness.types import Verdict, overall


def gate(path: Path, results: Path) -> GateReport:
    """Judge the rules of a file over the records of a results folder.

    A folder without records and a file without rules are not measured.

    Args:
        path: File of rules.
        results: Results folder.

    Raises:
        UsageError: the file cannot be read as rules, or names the results folder as its own baseline.
    """
    file = rules.read(path)
    if file.baseline is not None and file.baseline.resolve() == results.resolve():
        raise UsageError(
            f"{path}: the baseline is the results folder {results}, which always agrees with itself"
        )
    baseline = None if file.baseline is None else selection.read_results(file.baseline)
    places = Places(results=selection.read_results(results), baseline=baseline)
    outcomes = tuple(_outcome(places, rule) for rule in file.rule)
    reasons = [text for place in (places.results, baseline) if place for text in place.unreadable]
    if not outcomes:
        reasons.append(f"{path}: there are no rules")
    verdicts: list[Verdict] = [outcome.verdict for outcome in outcomes]
    if reasons:
        verdicts.append("not measured")
    return GateReport(verdict=overall(verdicts), rules=str(path), outcomes=outcomes, reasons=tuple(reasons))


def _outcome(places: Places, rule: Rule) -> Outcome:
    checks = tuple(_check(places, rule, about, categories) for about, categories in _subjects(rule))
    return Outcome(
        rule=rule.name,
        kind=str(rule.__struct_config__.tag),
        verdict=overall(check.verdict for check in checks),
        checks=checks,
        notes=("simulated devices are allowed here",) if rule.allow_simulated else (),
    )


def _subjects(rule: Rule) -> list[tuple[str, tuple[str, ...]]]:
    """Return what a rule judges one by one, each with its categories."""
    if isinstance(rule, Latency):
        return [(rule.benchmark, ())]
    categories = rule.find.categories
    if isinstance(rule, Bound) and rule.of == "mean":
        return [(f"mean of {len(categories)}", categories)]
    return [(category, (category,)) for category in categories]


def _check(places: Places, rule: Rule, about: str, categories: tuple[str, ...]) -> Check:
    try:
        verdict, message, numbers = judges.judge(places, rule, categories)
    except HarnessError as error:  # the records cannot be trusted
        return Check(about=about, verdict="not measured", message=str(error))
    return Check(about=about, verdict=verdict, message=message, numbers=numbers)
