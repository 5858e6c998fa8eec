"""A parity report as lines for the terminal: one table per pair of backends, one row per category."""

from __future__ import annotations

from collections.abc import Sequence

from harness.parity.report import LevelReport, PairReport, ParityReport, Verdict
from harness.types import Case

_MARKS: dict[Verdict, str] = {"passed": "✓", "failed": "✗", "not measured": "?"}
_HEADER = ("category", "inputs", "scores", "maps", "rank corr.", "decisions", "metrics", "verdict")
_LEGEND = (
    "scores, maps: largest difference / range of the reference's good scores, which is the tolerance needed to pass",
    "decisions: images on the other side of the frozen threshold; metrics: largest change of AUROC (image, pixel), AUPRO",
)


def lines(report: ParityReport) -> list[str]:
    """Say what was compared, how far it lies apart and what was allowed; the last line is the verdict."""
    groups: dict[str, list[PairReport]] = {}
    for pair in report.pairs:
        groups.setdefault(_title(pair), []).append(pair)
    text = [
        line
        for title, pairs in groups.items()
        for line in (*title.splitlines(), *_table(pairs), *_details(pairs), "")
    ]
    if any(pair.levels for pair in report.pairs):
        text += [*_LEGEND, ""]
    text += [f"not compared: {reason}" for reason in report.reasons]
    passed = sum(pair.verdict == "passed" for pair in report.pairs)
    count = f"{passed} of {len(report.pairs)} comparisons with {report.reference} passed"
    gaps = f", {len(report.reasons)} could not be made" if report.reasons else ""
    return [*text, f"parity {report.verdict}: {count}{gaps}"]


def _title(pair: PairReport) -> str:
    one, two = (
        f"{case.runner}{' (SIMULATED, not hardware)' if case.runner in pair.simulated else ''} {_setting(case)}"
        for case in (pair.other, pair.reference)
    )
    case = pair.reference
    return f"parity · {case.detector} {case.backbone} on {case.dataset}\n{one}\nagainst {two}"


def _setting(case: Case) -> str:
    return f"({case.variant}, batch {case.batch_size}, {case.threads} threads)"


def _table(pairs: Sequence[PairReport]) -> list[str]:
    from tabulate import tabulate

    rows = [_asked(pair) for pair in pairs if pair.levels][:1] + [_row(pair) for pair in pairs]
    alignment = ("left", *["right"] * (len(_HEADER) - 2), "left")
    text: str = tabulate(rows, _HEADER, tablefmt="rounded_outline", disable_numparse=True, colalign=alignment)
    table = text.splitlines()
    if len(rows) > len(pairs):
        table.insert(4, table[2])  # sets what was asked off from what was found
    return table


def _asked(pair: PairReport) -> list[str]:
    asked = pair.tolerances
    metrics = f"≤ {max(asked.auroc, asked.aupro):.0e}"
    return ["asked", "equal", f"≤ {asked.score:.0e}", f"≤ {asked.map:.0e}", "", "no flip", metrics, ""]


def _row(pair: PairReport) -> list[str]:
    if not pair.levels:
        return [pair.other.category, *["–"] * (len(_HEADER) - 2), pair.verdict]
    inputs, scores, maps, decisions, metrics = pair.levels
    correlation = scores.numbers.get("rank_correlation")
    apart = max(inputs.numbers[name] or 0 for name in ("different_inputs", "different_masks"))
    flips = decisions.numbers.get("flips")
    return [
        pair.other.category,
        f"{_MARKS[inputs.verdict]} {f'{apart} differ' if apart else '–' if inputs.verdict == 'not measured' else 'equal'}",
        f"{_MARKS[scores.verdict]} {_needed(scores)}",
        f"{_MARKS[maps.verdict]} {_needed(maps)}",
        "–" if correlation is None else f"{correlation:.6f}",
        f"{_MARKS[decisions.verdict]} {'–' if flips is None else '1 flip' if flips == 1 else f'{flips} flips'}",
        f"{_MARKS[metrics.verdict]} {_needed(metrics)}",
        pair.verdict,
    ]


def _needed(level: LevelReport) -> str:
    needed = level.numbers.get("tolerance_needed")
    if needed is None:
        return "–"
    return f"{needed:.1e}" if needed else "0"


def _details(pairs: Sequence[PairReport]) -> list[str]:
    width = max(len(pair.other.category) for pair in pairs)
    return [f"{pair.other.category:<{width}}  {line}" for pair in pairs for line in _details_of(pair)]


def _details_of(pair: PairReport) -> list[str]:
    if pair.reason is not None:
        return [*pair.notes, f"not compared: {pair.reason}"]
    by_name = {level.name: level for level in pair.levels}
    good_range = by_name["scores"].numbers.get("range_of_good_scores")
    what = f"{pair.good + pair.defective} images ({pair.good} good, {pair.defective} defective)"
    scale = "" if good_range is None else f", range of good scores {good_range:.5g}"
    apart = [f"{name + ' differ by':<17}{_apart(by_name[name])}" for name in ("scores", "maps")]
    messages = [f"{level.name}: {line}" for level in pair.levels for line in level.messages]
    return [*pair.notes, f"{what}, detector {pair.detector_sha256[:12]}{scale}", *apart, *messages]


def _apart(level: LevelReport) -> str:
    largest, mean = (level.numbers.get(f"{which}_difference") for which in ("largest", "mean"))
    return (
        "? (see below)"
        if largest is None or mean is None
        else f"{largest:.2g} at most, {mean:.1g} on average"
    )
