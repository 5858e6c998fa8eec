"""A parity report as lines for the terminal: one table per pair of backends, one row per category."""

from __future__ import annotations

from collections.abc import Sequence

from harness.parity.levels.metrics import NEGLIGIBLE, interval_in_words
from harness.parity.report import (
    COMPARED_METRICS,
    LevelReport,
    MetricChange,
    PairReport,
    ParityReport,
    TensorDifference,
    Verdict,
)
from harness.types import Case

_MARKS: dict[Verdict, str] = {"passed": "✓", "failed": "✗", "not measured": "?"}
_HEADER = ("category", "inputs", "tensors", "scores", "maps", "rank corr.", "decisions", "metrics", "verdict")
_LEGEND = (
    "tensors: largest difference / largest value of an output, or its relative L2 error if that is larger",
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
        for line in (*title.splitlines(), *_table(pairs), *_left_out(pairs), *_details(pairs), "")
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
    profile = f"tolerances of {pair.profile.name} ({pair.profile.why})"
    return f"parity · {case.detector} {case.backbone} on {case.dataset}\n{one}\nagainst {two}\n{profile}"


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
    asked = pair.profile.tolerances
    metrics = f"≤ {max(asked.auroc, asked.aupro):.0e}"
    near = [f"≤ {value:.0e}" for value in (asked.tensor, asked.score, asked.map)]
    return ["asked", "equal", *near, "", "no flip", metrics, ""]


def _row(pair: PairReport) -> list[str]:
    if not pair.levels:
        return [pair.other.category, *["–"] * (len(_HEADER) - 2), pair.verdict]
    levels = {level.name: level for level in pair.levels}
    inputs, decisions = levels["inputs"], levels["decisions"]
    correlation = levels["scores"].numbers.get("rank_correlation")
    apart = max(inputs.numbers[name] or 0 for name in ("different_inputs", "different_masks"))
    flips = decisions.numbers.get("flips")
    return [
        pair.other.category,
        f"{_MARKS[inputs.verdict]} {f'{apart} differ' if apart else '–' if inputs.verdict == 'not measured' else 'equal'}",
        "not saved" if "tensors" not in levels else _marked(levels["tensors"]),
        _marked(levels["scores"]),
        _marked(levels["maps"]),
        "–" if correlation is None else f"{correlation:.6f}",
        f"{_MARKS[decisions.verdict]} {'–' if flips is None else '1 flip' if flips == 1 else f'{flips} flips'}",
        _marked(levels["metrics"]),
        pair.verdict,
    ]


def _marked(level: LevelReport) -> str:
    return f"{_MARKS[level.verdict]} {_needed(level)}"


def _needed(level: LevelReport) -> str:
    needed = level.numbers.get("tolerance_needed")
    if needed is None:
        return "–"
    return f"{needed:.1e}" if needed else "0"


def _details(pairs: Sequence[PairReport]) -> list[str]:
    width = max(len(pair.other.category) for pair in pairs)
    return [f"{pair.other.category:<{width}}  {line}" for pair in pairs for line in _details_of(pair)]


def _left_out(pairs: Sequence[PairReport]) -> list[str]:
    reasons = {
        f"{name}: left out and not counted: {why}" for pair in pairs for name, why in pair.left_out.items()
    }
    return sorted(reasons)


def _details_of(pair: PairReport) -> list[str]:
    if pair.reason is not None:
        return [*pair.notes, f"not compared: {pair.reason}"]
    by_name = {level.name: level for level in pair.levels}
    good_range = by_name["scores"].numbers.get("range_of_good_scores")
    what = f"{pair.good + pair.defective} images ({pair.good} good, {pair.defective} defective)"
    scale = "" if good_range is None else f", range of good scores {good_range:.5g}"
    apart = [f"{name + ' differ by':<17}{_apart(by_name[name])}" for name in ("scores", "maps")]
    messages = [f"{level.name}: {line}" for level in pair.levels for line in level.messages]
    return [
        *pair.notes,
        f"{what}, detector {pair.detector_sha256[:12]}{scale}",
        *by_float32(pair),
        *(f"{found.output}: {tensor_in_words(found, pair)}" for found in pair.tensors),
        *apart,
        *(change_in_words(change) for change in pair.metrics if is_worth_telling(change)),
        *messages,
    ]


def by_float32(pair: PairReport) -> list[str]:
    """What the tolerances of float32 would have said, where others judged."""
    if not pair.float32:
        return []
    failed, open_ = (
        [name for name, verdict in pair.float32.items() if verdict == wanted]
        for wanted in ("failed", "not measured")
    )
    found = [f"failed ({', '.join(failed)})"] if failed else []
    found += [f"not measured ({', '.join(open_)})"] if open_ else []
    return [f"by the tolerances of float32: {', '.join(found) or 'passed'}"]


def tensor_in_words(found: TensorDifference, pair: PairReport) -> str:
    """One output of the network: tolerance needed and asked for, then the errors."""
    asked = pair.profile.tolerances.of_output(found.output)
    if found.largest is None:
        return f"{sum(found.not_finite)} NaN or infinite of {found.values} values on either side"
    needs = (
        "no tolerance would do" if found.tolerance_needed is None else f"needs {found.tolerance_needed:.1e}"
    )
    errors = {
        "at most": found.largest,
        "on average": found.mean,
        "relative at most": found.largest_relative,
        "relative on average": found.mean_relative,
        "relative L2": found.relative_l2,
    }
    text = ", ".join(f"{name} {_short(value)}" for name, value in errors.items())
    cosine = "undefined" if found.cosine is None else f"{found.cosine:.8f}"
    return f"{needs} (asked {asked:.0e}); {text}, cosine {cosine}"


def change_in_words(change: MetricChange) -> str:
    """One metric on both sides and the interval of its change."""
    title = COMPARED_METRICS[change.name]
    text = f"{title} {change.reference:.6f} → {change.other:.6f} ({change.other - change.reference:+.2g})"
    interval = "no interval taken" if change.interval is None else interval_in_words(change.interval)
    return f"{text}, {interval}"


def is_worth_telling(change: MetricChange) -> bool:
    """Whether a metric changes, or somebody asked whether it does."""
    return abs(change.other - change.reference) > NEGLIGIBLE or change.non_inferior is not None


def _short(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.2g}"


def _apart(level: LevelReport) -> str:
    largest, mean = (level.numbers.get(f"{which}_difference") for which in ("largest", "mean"))
    if largest is None or mean is None:
        return "? (see below)"
    similarity = level.numbers.get("lowest_similarity")
    lowest = (
        ""
        if similarity is None
        else f", structural similarity {similarity:.6f} at least ({level.images['lowest_similarity']})"
    )
    return f"{largest:.2g} at most, {mean:.1g} on average{lowest}"
