"""One judge for each kind of rule: it compares the measured value with the rule's limit."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass

import msgspec
import numpy as np

from harness import parity
from harness.errors import NotMeasured
from harness.gates import interleaved, ratios, selection
from harness.gates.interleaved import Interleaved, Run
from harness.gates.report import without_repetition
from harness.gates.rules import STAGED, Bound, Growth, Latency, NonInferior, Parity, Rule
from harness.gates.selection import Results
from harness.metrics.intervals import Interval, NoInterval, auroc_difference, non_inferior
from harness.metrics.intervals.pixels import pixel_differences
from harness.records import record as records
from harness.records.record import Record
from harness.types import Verdict

ON_EVIDENCE = (
    *("pixel_auroc", "aupro", "pixel_ap", "pixel_f1_max"),
    *("pixel_ok", "pixel_nok", "pixel_acc", "pixel_auc_binary"),
)
"""Metrics that are computed from maps and masks."""
_UNITS = {
    "peak_memory_bytes": " bytes",
    "model_bytes": " bytes",
    "load_ms": " ms",
    "first_inference_ms": " ms",
}
"""Values that are fields of a record, with their units."""

Finding = tuple[Verdict, str, dict[str, float]]
"""Verdict, the value and the limit in words, and both as numbers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """The results folders of a gate."""

    results: Results
    baseline: Results | None


def judge(places: Places, rule: Rule, categories: tuple[str, ...]) -> Finding:
    """Judge one category, the mean of several, or for a `Latency` rule, which has no categories, its benchmark.

    Raises:
        HarnessError: a record or benchmark of the rule is missing or cannot be trusted.
    """
    if isinstance(rule, Bound):
        return _bound(places, rule, categories)
    if isinstance(rule, NonInferior):
        return _noninferior(places, rule, categories[0])
    if isinstance(rule, Growth):
        return _growth(places, rule, categories[0])
    if isinstance(rule, Parity):
        return _parity(places, rule, categories[0])
    return _latency(places, rule)


def _bound(places: Places, rule: Bound, categories: tuple[str, ...]) -> Finding:
    values, missing = list[float](), list[tuple[str, str]]()
    for category in categories:
        try:
            values.append(_value(places.results, rule, category))
        except NotMeasured as reason:  # noqa: PERF203 - all missing categories are named at once
            missing.append((category, str(reason)))
    if missing:
        raise NotMeasured("; ".join(without_repetition(missing).values()))
    value, name = statistics.fmean(values), str(rule.value)
    if rule.value == "latency_ms":
        name = f"{name} ({rule.stage}, {rule.statistic})"
    elif rule.value in STAGED:
        value, name = 1e3 / value, f"{name} ({rule.stage})"
    limit, word = (rule.at_least, "least") if rule.at_least is not None else (rule.at_most, "most")
    assert limit is not None  # noqa: S101 - `rules.read` requires one of the two
    passed = value >= limit if word == "least" else value <= limit
    text = f"{name} {value:.7g}{_UNITS.get(rule.value, '')}, required: at {word} {limit:.7g}"
    return "passed" if passed else "failed", text, {"value": value, f"at_{word}": limit}


def _value(results: Results, rule: Bound, category: str) -> float:
    """Return the value of one category; for images per second, the mean time in ms."""
    record = selection.select(results, rule.find, category, allow_simulated=rule.allow_simulated)
    title = f"{record.case.runner} {category}"
    if rule.value in _UNITS:
        return _positive(title, rule.value, getattr(record, rule.value))
    if rule.value not in STAGED:
        if rule.value in ON_EVIDENCE:
            selection.pixels(results, record)
        return selection.metric(record, rule.value)
    samples = record.latency_samples_ms.get(rule.stage, [])
    if len(samples) != len(record.images):
        raise NotMeasured(f"{title}: {len(samples)} times of {rule.stage} for {len(record.images)} images")
    statistic = rule.statistic if rule.value == "latency_ms" else "mean"
    return _positive(title, rule.value, getattr(records.distribution(samples), statistic))


def _positive(title: str, name: str, value: float | None) -> float:
    if value is None or not 0 < value < math.inf:
        raise NotMeasured(
            f"{title}: {name} {'is not in the record' if value is None else f'{value} is not positive'}"
        )
    return value


def _now_and_then(places: Places, rule: NonInferior | Growth, category: str) -> tuple[Record, Record]:
    """Return the record of a category and its baseline's."""
    assert places.baseline is not None  # noqa: S101 - `rules.read` requires it
    now, then = (
        selection.select(results, rule.find, category, allow_simulated=rule.allow_simulated)
        for results in (places.results, places.baseline)
    )
    selection.require_comparable(now, then)
    return now, then


def _noninferior(places: Places, rule: NonInferior, category: str) -> Finding:
    now, then = _now_and_then(places, rule, category)
    for record in (now, then):
        selection.metric(record, rule.metric)
    difference = _difference(places, rule, now, then)
    if isinstance(difference, NoInterval):
        raise NotMeasured(f"{now.case.runner} {category}: {difference.reason}")
    verdict = non_inferior(difference, rule.margin)
    change = f"{difference.estimate:+.4g} from {then.metrics[rule.metric]:.6f}"
    interval = (
        f"{rule.level:.4g} interval {difference.low:+.4g} to {difference.high:+.4g}, {difference.method}"
    )
    few = "; too few images to show that it is not worse" if verdict == "not measured" else ""
    numbers = {name: getattr(difference, name) for name in ("estimate", "low", "high")} | {
        "margin": rule.margin
    }
    return verdict, f"{rule.metric} {change} ({interval}), required: above {-rule.margin:.4g}{few}", numbers


def _difference(places: Places, rule: NonInferior, now: Record, then: Record) -> Interval | NoInterval:
    """Return the interval of the metric's change from `then` to `now`, on the same images."""
    if rule.metric == "image_auroc":
        labels = np.array([image.label for image in now.images])
        scores, before = (
            np.array([image.score for image in record.images], np.float64) for record in (now, then)
        )
        return auroc_difference(labels, before, scores, level=rule.level)
    assert places.baseline is not None  # noqa: S101 - `rules.read` requires it
    arrays, earlier = selection.pixels(places.results, now), selection.pixels(places.baseline, then)
    if not np.array_equal(arrays.masks, earlier.masks):
        raise NotMeasured(f"{now.case.runner} {now.case.category}: other ground truth than the baseline's")
    return pixel_differences(arrays.masks, earlier.maps, arrays.maps, level=rule.level)[rule.metric]


def _growth(places: Places, rule: Growth, category: str) -> Finding:
    now, then = _now_and_then(places, rule, category)
    title = f"{now.case.runner} {category}"
    if rule.value == "peak_memory_bytes":
        selection.require_one_machine(now.host, then.host, title)
    value, before = (_positive(title, rule.value, getattr(record, rule.value)) for record in (now, then))
    ratio = value / before
    text = f"{rule.value} {value:.0f}, {ratio:.4g} times the baseline's {before:.0f}, required: at most {rule.at_most:.4g}"
    return "passed" if ratio <= rule.at_most else "failed", text, {"ratio": ratio, "at_most": rule.at_most}


def _parity(places: Places, rule: Parity, category: str) -> Finding:
    other = rule.reference
    find = msgspec.structs.replace(
        rule.find, backend=other.backend, variant=other.variant, source=other.source
    )
    reference, candidate = (
        selection.select(places.results, side, category, allow_simulated=rule.allow_simulated)
        for side in (find, rule.find)
    )
    limits = parity.Limits(profile=rule.profile, margin=rule.margin)
    pair = parity.compare(places.results.folder, reference, candidate, limits=limits)
    if pair.reason is not None:
        raise NotMeasured(pair.reason)
    wrong = [
        f"{level.name} {level.verdict}: {'; '.join(level.messages)}"
        for level in pair.levels
        if level.verdict != "passed"
    ]
    agreeing = ", ".join(level.name for level in pair.levels if level.verdict == "passed")
    left_out = [f"{name} left out: {why}" for name, why in pair.left_out.items()]
    text = "; ".join([*wrong, f"agreeing with {reference.case.runner}: {agreeing or 'nothing'}", *left_out])
    text = f"{text} ({pair.profile.name}: {pair.profile.why})"
    return pair.verdict, text, {"images": len(candidate.images)}


def _latency(places: Places, rule: Latency) -> Finding:
    run = interleaved.read(places.results.folder)
    now = benchmark(run, rule)
    if rule.of == "control":
        ratio = ratios.ratio(now, level=rule.level)
        text = f"{rule.subject} takes {ratio.estimate:.4g} times {rule.control}"
    else:
        assert places.baseline is not None  # noqa: S101 - `rules.read` requires it
        earlier = interleaved.read(places.baseline.folder)
        if earlier == run:
            raise NotMeasured(
                "this is the baseline's own run, nothing was measured since; run the benchmarks again"
            )
        selection.require_one_machine(run.host, earlier.host, rule.benchmark)
        ratio = ratios.relative(now, benchmark(earlier, rule), level=rule.level)
        text = f"{rule.subject} over {rule.control} is {ratio.estimate:.4g} times the baseline's"
    limit = rule.at_most * (1 + rule.minimum_effect)
    verdict: Verdict = "passed" if ratio.high < limit else "failed" if ratio.low > limit else "not measured"
    each = ", ".join(f"{value:.4g}" for value in ratio.processes)
    interval = f"{rule.level:.4g} interval {ratio.low:.4g} to {ratio.high:.4g} over {len(ratio.processes)} processes: {each}"
    noisy = (
        "; too noisy to decide: use more processes, or a quieter machine" if verdict == "not measured" else ""
    )
    text = f"{text} ({interval}), required: below {rule.at_most:.4g} × {1 + rule.minimum_effect:.4g}{noisy}"
    return verdict, text, {"ratio": ratio.estimate, "low": ratio.low, "high": ratio.high, "limit": limit}


def benchmark(run: Run, rule: Latency) -> Interleaved:
    """Return the benchmark that a rule names.

    Raises:
        NotMeasured: it is missing, its test failed, it times something else, or its device is simulated.
    """
    matches = [benchmark for benchmark in run.benchmarks if benchmark.benchmark == rule.benchmark]
    if len(matches) != 1:
        names = ", ".join(sorted({benchmark.benchmark for benchmark in run.benchmarks})) or "none"
        raise NotMeasured(
            f"{len(matches)} interleaved benchmarks are called {rule.benchmark} (there are: {names})"
        )
    (match,) = matches
    if match.status != "measured":
        raise NotMeasured(f"{rule.benchmark}: its test failed, or not every process measured the same")
    if (match.subject, match.control) != (rule.subject, rule.control):
        raise NotMeasured(
            f"{rule.benchmark}: it times {match.subject} beside {match.control}, the rule names {rule.subject} beside {rule.control}"
        )
    if match.simulated and not rule.allow_simulated:
        raise NotMeasured(f"{rule.benchmark}: its device is simulated, and the rule does not allow that")
    return match
