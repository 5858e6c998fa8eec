"""A parity report as lines for the terminal: one table for each pair of backends, with one row for each category."""

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
)
from harness.types import MARKS, Case

_HEADER = ("category", "inputs", "tensors", "scores", "maps", "rank corr.", "decisions", "metrics", "verdict")
_LEGEND = (
    "a cell shows the smallest tolerance that would pass, the row 'allowed' the tolerance that judges",
    "tensors: the larger of an output's largest difference / its largest value and its relative L2 error",
    "scores, maps: largest difference / range of the reference's scores of good images",
    "decisions: images decided differently at the frozen threshold; metrics: largest change of AUROC or AUPRO",
)


def lines(report: ParityReport) -> list[str]:
    """Return what was compared, the differences, the tolerances, and in the last line the verdict."""
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
    candidate, reference = (
        f"{case.runner}{' (SIMULATED, not hardware)' if case.runner in pair.simulated else ''} {_setting(case)}"
        for case in (pair.other, pair.reference)
    )
    case = pair.reference
    profile = f"tolerances of {pair.profile.name} ({pair.profile.why})"
    return f"parity · {case.detector} {case.backbone} on {case.dataset}\n{candidate}\nagainst {reference}\n{profile}"


def _setting(case: Case) -> str:
    return f"({case.variant}, batch {case.batch_size}, {case.threads} threads)"


def _table(pairs: Sequence[PairReport]) -> list[str]:
    from tabulate import tabulate

    rows = [_allowed(pair) for pair in pairs if pair.levels][:1] + [_row(pair) for pair in pairs]
    alignment = ("left", *["right"] * (len(_HEADER) - 2), "left")
    text: str = tabulate(rows, _HEADER, tablefmt="rounded_outline", disable_numparse=True, colalign=alignment)
    table = text.splitlines()
    if len(rows) > len(pairs):
        table.insert(4, table[2])  # a rule between the tolerances and the pairs
    return table


def _allowed(pair: PairReport) -> list[str]:
    tolerances = pair.profile.tolerances
    shares = [f"≤ {share:.0e}" for share in (tolerances.tensor, tolerances.score, tolerances.map)]
    metrics = f"≤ {max(tolerances.auroc, tolerances.aupro):.0e}"
    return ["allowed", "equal", *shares, "", "no flip", metrics, ""]


def _row(pair: PairReport) -> list[str]:
    if not pair.levels:
        return [pair.other.category, *["–"] * (len(_HEADER) - 2), pair.verdict]
    levels = {level.name: level for level in pair.levels}
    inputs, decisions = levels["inputs"], levels["decisions"]
    correlation = levels["scores"].numbers.get("rank_correlation")
    differing = max(inputs.numbers[name] or 0 for name in ("different_inputs", "different_masks"))
    equal = "–" if inputs.verdict == "not measured" else "equal"
    flips = decisions.numbers.get("flips")
    return [
        pair.other.category,
        f"{MARKS[inputs.verdict]} {f'{differing} differ' if differing else equal}",
        "not saved" if "tensors" not in levels else _needed(levels["tensors"]),
        _needed(levels["scores"]),
        _needed(levels["maps"]),
        "–" if correlation is None else f"{correlation:.6f}",
        f"{MARKS[decisions.verdict]} {'–' if flips is None else '1 flip' if flips == 1 else f'{flips} flips'}",
        _needed(levels["metrics"]),
        pair.verdict,
    ]


def _needed(level: LevelReport) -> str:
    needed = level.numbers.get("tolerance_needed")
    return f"{MARKS[level.verdict]} {'–' if needed is None else f'{needed:.1e}' if needed else '0'}"


def _left_out(pairs: Sequence[PairReport]) -> list[str]:
    reasons = {
        f"{name}: left out and not counted: {why}" for pair in pairs for name, why in pair.left_out.items()
    }
    return sorted(reasons)


def _details(pairs: Sequence[PairReport]) -> list[str]:
    width = max(len(pair.other.category) for pair in pairs)
    return [f"{pair.other.category:<{width}}  {line}" for pair in pairs for line in _pair_details(pair)]


def _pair_details(pair: PairReport) -> list[str]:
    if pair.reason is not None:
        return [*pair.notes, f"not compared: {pair.reason}"]
    levels = {level.name: level for level in pair.levels}
    good_range = levels["scores"].numbers.get("range_of_good_scores")
    images = f"{pair.good + pair.defective} images ({pair.good} good, {pair.defective} defective)"
    scale = "" if good_range is None else f", range of good scores {good_range:.5g}"
    return [
        *pair.notes,
        f"{images}, detector {pair.detector_sha256[:12]}{scale}",
        *by_float32(pair),
        *(f"{tensor.output}: {tensor_in_words(tensor, pair)}" for tensor in pair.tensors),
        *(f"{name + ' differ by':<17}{_differences(levels[name])}" for name in ("scores", "maps")),
        *(change_in_words(change) for change in pair.metrics if is_worth_showing(change)),
        *(f"{level.name}: {line}" for level in pair.levels for line in level.messages),
    ]


def by_float32(pair: PairReport) -> list[str]:
    """Return the verdict by float32's tolerances, if others judged the pair."""
    if not pair.float32:
        return []
    names = {
        verdict: [name for name, by_float32 in pair.float32.items() if by_float32 == verdict]
        for verdict in ("failed", "not measured")
    }
    text = ", ".join(f"{verdict} ({', '.join(levels)})" for verdict, levels in names.items() if levels)
    return [f"by the tolerances of float32: {text or 'passed'}"]


def tensor_in_words(tensor: TensorDifference, pair: PairReport) -> str:
    """Describe one network output: the needed and the allowed tolerance, then the errors."""
    if tensor.largest is None:
        broken = " and ".join(map(str, tensor.not_finite))
        return f"{broken} of {tensor.values} values are NaN or infinite"
    needs = (
        "no tolerance would pass"
        if tensor.tolerance_needed is None
        else f"needs {tensor.tolerance_needed:.1e}"
    )
    errors = {
        "at most": tensor.largest,
        "on average": tensor.mean,
        "relative at most": tensor.largest_relative,
        "relative on average": tensor.mean_relative,
        "relative L2": tensor.relative_l2,
    }
    text = ", ".join(f"{name} {short(value)}" for name, value in errors.items())
    cosine = "undefined" if tensor.cosine is None else f"{tensor.cosine:.8f}"
    allowed = pair.profile.tolerances.of_output(tensor.output)
    return f"{needs} (allowed {allowed:.0e}); {text}, cosine {cosine}"


def change_in_words(change: MetricChange) -> str:
    """Describe one metric of both records and the interval of its change."""
    title = COMPARED_METRICS[change.name]
    text = f"{title} {change.reference:.6f} → {change.other:.6f} ({change.other - change.reference:+.2g})"
    interval = "no interval computed" if change.interval is None else interval_in_words(change.interval)
    return f"{text}, {interval}"


def is_worth_showing(change: MetricChange) -> bool:
    """Whether a metric changes, or a margin was stated for it."""
    return abs(change.other - change.reference) > NEGLIGIBLE or change.non_inferior is not None


def short(value: float | None) -> str:
    """Return two digits of a number."""
    return "undefined" if value is None else f"{value:.2g}"


def _differences(level: LevelReport) -> str:
    largest, mean = (level.numbers.get(f"{which}_difference") for which in ("largest", "mean"))
    if largest is None or mean is None:
        return f"{MARKS['not measured']} (see below)"
    similarity = level.numbers.get("lowest_similarity")
    lowest = (
        ""
        if similarity is None
        else f", structural similarity {similarity:.6f} at least ({level.images['lowest_similarity']})"
    )
    return f"{largest:.2g} at most, {mean:.1g} on average{lowest}"
