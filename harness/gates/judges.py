"""One judge per kind of rule: what was found, against what was asked for."""

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
from harness.gates.report import said_once
from harness.gates.rules import STAGED, Bound, Find, Growth, Latency, NonInferior, Parity, Rule
from harness.gates.selection import Shelf
from harness.metrics import intervals
from harness.metrics.intervals.pixels import pixel_differences
from harness.parity import Verdict
from harness.records import record
from harness.records.record import Record

ON_EVIDENCE = (
    *("pixel_auroc", "aupro", "pixel_ap", "pixel_f1_max"),
    *("pixel_ok", "pixel_nok", "pixel_acc", "pixel_auc_binary"),
)
"""Metrics that rest on maps and masks."""
_ONE_NUMBER = {
    "peak_memory_bytes": " bytes",
    "model_bytes": " bytes",
    "load_ms": " ms",
    "first_inference_ms": " ms",
}
"""Fields of a record, with their units."""

Finding = tuple[Verdict, str, dict[str, float]]
"""Verdict, what was found and asked for in words, and the numbers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Where a gate looks."""

    results: Shelf
    baseline: Shelf | None


def judge(places: Places, rule: Rule, categories: tuple[str, ...]) -> Finding:
    """Judge one category, the mean of several, or a benchmark, which has none.

    Raises:
        HarnessError: something the rule rests on is missing or not to be trusted.
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
    found, missing = list[float](), list[tuple[str, str]]()
    for category in categories:
        try:
            found.append(_value(places.results, rule, category))
        except NotMeasured as reason:  # noqa: PERF203 - all that is missing is said at once
            missing.append((category, str(reason)))
    if missing:
        raise NotMeasured("; ".join(said_once(missing).values()))
    value, unit = statistics.fmean(found), _ONE_NUMBER.get(rule.value, "")
    what: str = rule.value
    if rule.value in STAGED:
        value = value if rule.value == "latency_ms" else 1e3 / value
        what = (
            f"{what} ({rule.stage}, {rule.statistic})"
            if rule.value == "latency_ms"
            else f"{what} ({rule.stage})"
        )
    limit, word = (rule.at_least, "least") if rule.at_least is not None else (rule.at_most, "most")
    assert limit is not None  # noqa: S101 - one of the two is there, `rules.read` saw to it
    good = value >= limit if word == "least" else value <= limit
    text = f"{what} {value:.7g}{unit}, asked for at {word} {limit:.7g}"
    return "passed" if good else "failed", text, {"value": value, f"at_{word}": limit}


def _value(place: Shelf, rule: Bound, category: str) -> float:
    """The value of one category; for images per second, the mean time in ms."""
    found = selection.admitted(place, rule.find, category, allow_simulated=rule.allow_simulated)
    title = f"{found.case.runner} {category}"
    if rule.value in _ONE_NUMBER:
        return _positive(title, rule.value, getattr(found, rule.value))
    if rule.value not in STAGED:
        if rule.value in ON_EVIDENCE:
            selection.pixels(place, found)
        return selection.metric(found, rule.value)
    samples = found.latency_samples_ms.get(rule.stage, [])
    if len(samples) != len(found.images):
        raise NotMeasured(f"{title}: {len(samples)} times of {rule.stage} for {len(found.images)} images")
    statistic = rule.statistic if rule.value == "latency_ms" else "mean"
    return _positive(title, rule.value, getattr(record.distribution(samples), statistic))


def _positive(title: str, name: str, value: float | None) -> float:
    if value is None or not 0 < value < math.inf:
        raise NotMeasured(
            f"{title}: {name} {'is not in the record' if value is None else f'{value} is not positive'}"
        )
    return value


def _pair(places: Places, rule: NonInferior | Growth, category: str) -> tuple[Record, Record]:
    """The record of a category and its baseline's."""
    assert places.baseline is not None  # noqa: S101 - `rules.read` saw to it
    now, then = (
        selection.admitted(place, rule.find, category, allow_simulated=rule.allow_simulated)
        for place in (places.results, places.baseline)
    )
    selection.require_counterparts(now, then)
    return now, then


def _noninferior(places: Places, rule: NonInferior, category: str) -> Finding:
    now, then = _pair(places, rule, category)
    for item in (now, then):
        selection.metric(item, rule.metric)
    difference = _difference(places, rule, now, then)
    if isinstance(difference, intervals.NoInterval):
        raise NotMeasured(f"{now.case.runner} {category}: {difference.reason}")
    verdict = intervals.non_inferior(difference, rule.margin)
    change = f"{difference.estimate:+.4g} from {then.metrics[rule.metric]:.6f}"
    interval = (
        f"{rule.level:.4g} interval {difference.low:+.4g} to {difference.high:+.4g}, {difference.method}"
    )
    few = "; too few images to show that it is not worse" if verdict == "not measured" else ""
    numbers = {name: getattr(difference, name) for name in ("estimate", "low", "high")} | {
        "margin": rule.margin
    }
    return verdict, f"{rule.metric} {change} ({interval}), asked for above {-rule.margin:.4g}{few}", numbers


def _difference(
    places: Places, rule: NonInferior, now: Record, then: Record
) -> intervals.Interval | intervals.NoInterval:
    """Interval of the metric of `now` less that of `then`, on the same images."""
    if rule.metric == "image_auroc":
        labels = np.array([image.label for image in now.images])
        scores, before = (
            np.array([image.score for image in item.images], np.float64) for item in (now, then)
        )
        return intervals.auroc_difference(labels, before, scores, level=rule.level)
    assert places.baseline is not None  # noqa: S101 - `rules.read` saw to it
    arrays, earlier = selection.pixels(places.results, now), selection.pixels(places.baseline, then)
    if not np.array_equal(arrays.masks, earlier.masks):
        raise NotMeasured(f"{now.case.runner} {now.case.category}: other ground truth than the baseline's")
    return pixel_differences(arrays.masks, earlier.maps, arrays.maps, level=rule.level)[rule.metric]


def _growth(places: Places, rule: Growth, category: str) -> Finding:
    now, then = _pair(places, rule, category)
    title = f"{now.case.runner} {category}"
    if rule.value == "peak_memory_bytes":
        selection.require_one_host(now.host, then.host, title)
    value, before = (_positive(title, rule.value, getattr(item, rule.value)) for item in (now, then))
    ratio = value / before
    text = f"{rule.value} {value:.0f}, {ratio:.4g} times the baseline's {before:.0f}, asked for at most {rule.at_most:.4g}"
    return "passed" if ratio <= rule.at_most else "failed", text, {"ratio": ratio, "at_most": rule.at_most}


def _parity(places: Places, rule: Parity, category: str) -> Finding:
    other = msgspec.structs.replace(
        rule.find,
        backend=rule.reference.backend,
        variant=rule.reference.variant,
        source=rule.reference.source,
    )
    reference, subject = (_admitted_side(places.results, find, category, rule) for find in (other, rule.find))
    limits = parity.Limits(profile=rule.profile, margin=rule.margin)
    pair = parity.compare(places.results.folder, reference, subject, limits=limits)
    if pair.reason is not None:
        raise NotMeasured(pair.reason)
    wrong = [f"{level.name} {level.verdict}: {'; '.join(level.messages)}" for level in pair.levels]
    shown = [text for text, level in zip(wrong, pair.levels, strict=True) if level.verdict != "passed"]
    agreeing = ", ".join(level.name for level in pair.levels if level.verdict == "passed")
    left_out = [f"{name} left out: {why}" for name, why in pair.left_out.items()]
    text = "; ".join([*shown, f"agreeing with {reference.case.runner}: {agreeing or 'nothing'}", *left_out])
    text = f"{text} ({pair.profile.name}: {pair.profile.why})"
    return pair.verdict, text, {"images": len(subject.images)}


def _admitted_side(place: Shelf, find: Find, category: str, rule: Parity) -> Record:
    return selection.admitted(place, find, category, allow_simulated=rule.allow_simulated)


def _latency(places: Places, rule: Latency) -> Finding:
    run = interleaved.read(places.results.folder)
    item = benchmark(run, rule)
    if rule.of == "control":
        found = ratios.ratio(item, level=rule.level)
    else:
        assert places.baseline is not None  # noqa: S101 - `rules.read` saw to it
        earlier = interleaved.read(places.baseline.folder)
        if earlier == run:
            raise NotMeasured(
                "this is the baseline's own run, nothing was measured since; run the benchmarks again"
            )
        selection.require_one_host(run.host, earlier.host, rule.benchmark)
        found = ratios.relative(item, benchmark(earlier, rule), level=rule.level)
    limit = rule.at_most * (1 + rule.minimum_effect)
    verdict: Verdict = "passed" if found.high < limit else "failed" if found.low > limit else "not measured"
    what = f"{rule.subject} takes {found.estimate:.4g} times {rule.control}"
    if rule.of == "baseline":
        what = f"{rule.subject} over {rule.control} is {found.estimate:.4g} times the baseline's"
    each = ", ".join(f"{value:.4g}" for value in found.processes)
    interval = f"{rule.level:.4g} interval {found.low:.4g} to {found.high:.4g} over {len(found.processes)} processes: {each}"
    noisy = "; too noisy to tell: more processes, or a quieter machine" if verdict == "not measured" else ""
    text = f"{what} ({interval}), asked for below {rule.at_most:.4g} × {1 + rule.minimum_effect:.4g}{noisy}"
    return verdict, text, {"ratio": found.estimate, "low": found.low, "high": found.high, "limit": limit}


def benchmark(run: Run, rule: Latency) -> Interleaved:
    """The benchmark a rule names.

    Raises:
        NotMeasured: it is not there, its test failed, it times something else, or on a simulated device.
    """
    found = [item for item in run.benchmarks if item.benchmark == rule.benchmark]
    if len(found) != 1:
        there = ", ".join(sorted({item.benchmark for item in run.benchmarks})) or "none"
        raise NotMeasured(
            f"{len(found)} interleaved benchmarks are called {rule.benchmark} (there are: {there})"
        )
    (item,) = found
    if item.status != "measured":
        raise NotMeasured(f"{rule.benchmark}: its test failed, or not every process measured the same")
    if (item.subject, item.control) != (rule.subject, rule.control):
        raise NotMeasured(
            f"{rule.benchmark}: it times {item.subject} beside {item.control}, the rule says {rule.subject} beside {rule.control}"
        )
    if item.simulated and not rule.allow_simulated:
        raise NotMeasured(f"{rule.benchmark}: its device is simulated, and the rule does not allow that")
    return item
