"""Rules over a results folder: each judged alone, and one verdict over all."""

from __future__ import annotations

from pathlib import Path

from harness import parity
from harness.errors import HarnessError, UsageError
from harness.gates import judges, rules, selection
from harness.gates.judges import Places
from harness.gates.report import Check, GateReport, Outcome
from harness.gates.rules import Bound, Latency, Rule
from harness.parity import Verdict


def gate(path: Path, results: Path) -> GateReport:
    """Judge the rules of a file over the records of a results folder.

    A folder without records, or a file without rules, is not measured.

    Raises:
        UsageError: the file is not one of rules, or takes the results themselves for the baseline.
    """
    asked = rules.read(path)
    if asked.baseline is not None and asked.baseline.resolve() == results.resolve():
        raise UsageError(
            f"{path}: the baseline is the results folder {results}, which always agrees with itself"
        )
    baseline = None if asked.baseline is None else selection.shelf(asked.baseline)
    places = Places(results=selection.shelf(results), baseline=baseline)
    outcomes = tuple(_outcome(places, rule) for rule in asked.rule)
    reasons = [text for place in (places.results, baseline) if place for text in place.unreadable]
    if not outcomes:
        reasons.append(f"{path}: there are no rules")
    verdicts: list[Verdict] = [outcome.verdict for outcome in outcomes]
    if reasons:
        verdicts.append("not measured")
    return GateReport(
        verdict=parity.overall(verdicts), rules=str(path), outcomes=outcomes, reasons=tuple(reasons)
    )


def _outcome(places: Places, rule: Rule) -> Outcome:
    checks = tuple(_check(places, rule, about, categories) for about, categories in _parts(rule))
    return Outcome(
        rule=rule.name,
        kind=str(rule.__struct_config__.tag),
        verdict=parity.overall(check.verdict for check in checks),
        checks=checks,
        notes=("simulated devices are allowed here",) if rule.allow_simulated else (),
    )


def _parts(rule: Rule) -> list[tuple[str, tuple[str, ...]]]:
    """What a rule looks at one by one, with the categories each is about."""
    if isinstance(rule, Latency):
        return [(rule.benchmark, ())]
    categories = rule.find.categories
    if isinstance(rule, Bound) and rule.of == "mean":
        return [(f"mean of {len(categories)}", categories)]
    return [(category, (category,)) for category in categories]


def _check(places: Places, rule: Rule, about: str, categories: tuple[str, ...]) -> Check:
    try:
        verdict, message, numbers = judges.judge(places, rule, categories)
    except HarnessError as error:  # whatever a rule cannot rest on
        return Check(about=about, verdict="not measured", message=str(error))
    return Check(about=about, verdict=verdict, message=message, numbers=numbers)
