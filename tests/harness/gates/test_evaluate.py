"""The verdict of every kind of rule, just within and just beyond its limit."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from harness import metrics
from harness.cli import main
from harness.gates import find, gate, lines
from harness.gates.ratios import ratio
from harness.metrics.intervals import Interval, auroc_difference
from harness.parity import PROFILES
from tests.harness.gates.gatefiles import (
    BOUND,
    LATENCY,
    MEMORY,
    NONINFERIOR,
    PARITY,
    RELATIVE,
    Bench,
    add,
    timed,
    write_run,
)
from tests.harness.record_factory import Outputs, Results, outputs

EARLIER = "2024-01-01T00:00:00+00:00"
CATEGORIES = 'find.categories = ["bottle", "cable"]\n'
SPEED = 'kind = "bound"\nvalue = "images_per_second"\nstage = "infer_head"\nof = "mean"\n'


def noisy(*, shift: float, seed: int = 0, count: int = 150) -> Outputs:
    """Return overlapping scores; their AUROC grows with the shift of the defective ones."""
    plain = outputs(good=count, defective=count)
    scores = np.random.default_rng(seed).normal(size=2 * count) + shift * plain.labels
    return Outputs(scores=scores, labels=plain.labels, maps=plain.maps, masks=plain.masks)


@pytest.mark.parametrize(
    ("rule", "verdict"),
    [
        ("at_least = 0.75", "passed"),
        ("at_least = 0.7500001", "failed"),
        ("at_most = 0.75", "passed"),
        ("at_most = 0.7499999", "failed"),
    ],
)
def test_the_limit_itself_is_allowed(bench: Bench, rule: str, verdict: str) -> None:
    base = outputs(good=2, defective=2)
    base.scores[:] = [1, 3, 2, 4]  # one of four pairs is ranked wrongly
    add(bench.results, base)
    assert bench.message(BOUND.replace("at_least = 0.9", rule)).startswith(
        f"{verdict}: image_auroc 0.75, required"
    )


def test_each_category_is_judged_or_their_mean(bench: Bench) -> None:
    half = outputs(good=2, defective=2)
    half.scores[:] = [2, 2, 2, 2]  # AUROC 0.5
    add(bench.results, outputs(good=2, defective=2))
    add(bench.results, half, case={"category": "cable"})
    each = bench.judge(BOUND.replace("0.9", "0.75") + CATEGORIES)
    assert [check.verdict for check in each.outcomes[0].checks] == ["passed", "failed"]
    mean = BOUND.replace("each", "mean") + CATEGORIES
    assert bench.message(mean.replace("0.9", "0.75")) == "passed: image_auroc 0.75, required: at least 0.75"
    assert bench.message(mean.replace("0.9", "0.76")).startswith("failed")


def test_a_mean_without_one_of_its_categories_is_not_measured(bench: Bench) -> None:
    add(bench.results)
    message = bench.message(BOUND.replace("each", "mean") + CATEGORIES)
    assert message.startswith("not measured: ")
    assert "no record of padim resnet18 on mvtec cable" in message


def test_images_per_second_are_the_inverse_of_the_mean_time(bench: Bench) -> None:
    """Categories of 20 and 80 ms per image have a mean of 50 ms: 20 images per second, not (50 + 12.5) / 2."""
    for category, ms in (("bottle", 20.0), ("cable", 80.0)):
        add(bench.results, latency_samples_ms={"infer_head": [ms] * 80}, case={"category": category})
    message = bench.message(SPEED + "at_least = 20\n" + CATEGORIES)
    assert message == "passed: images_per_second (infer_head) 20, required: at least 20"
    assert bench.message(SPEED + "at_least = 20.001\n" + CATEGORIES).startswith("failed")


def test_a_percentile_of_the_times_can_be_bounded(bench: Bench) -> None:
    add(bench.results, latency_samples_ms={"total": [1.0] * 79 + [1000.0]})
    rule = 'kind = "bound"\nvalue = "latency_ms"\nof = "each"\nat_most = 1\nstatistic = "p90"\n'
    assert bench.message(rule).startswith("passed: latency_ms (total, p90) 1,")
    assert bench.message(rule.replace("p90", "mean")).startswith("failed: latency_ms (total, mean) 13.4875,")


@pytest.mark.parametrize(
    ("now", "verdict"), [(110_000_000, "passed"), (110_000_001, "failed"), (1, "passed")]
)
def test_memory_may_grow_up_to_the_limit(bench: Bench, now: int, verdict: str) -> None:
    add(bench.baseline, finished=EARLIER)
    add(bench.results, peak_memory_bytes=now)
    assert bench.message(MEMORY).startswith(f"{verdict}: peak_memory_bytes {now}, ")


def test_a_record_without_the_value_is_not_measured(bench: Bench) -> None:
    add(bench.baseline, finished=EARLIER)
    add(bench.results, peak_memory_bytes=None)
    assert "peak_memory_bytes is not in the record" in bench.message(MEMORY)


def test_a_metric_is_judged_by_its_interval(bench: Bench) -> None:
    """One interval passes a wide margin and is too wide for a narrow one."""
    before, now = noisy(shift=1.5), noisy(shift=1.5)
    now.scores[:] += np.random.default_rng(1).normal(scale=0.2, size=300)
    add(bench.baseline, before, finished=EARLIER)
    add(bench.results, now)
    interval = auroc_difference(before.labels, before.scores, now.scores)
    assert isinstance(interval, Interval)
    assert interval.low < 0
    wide, narrow = -interval.low * 1.001, max(-interval.estimate, 0) + 1e-6
    assert bench.message(NONINFERIOR.replace("0.2", f"{wide}")).startswith("passed: image_auroc ")
    message = bench.message(NONINFERIOR.replace("0.2", f"{narrow}"))
    assert message.startswith("not measured")
    assert "too few images to show" in message


def test_a_metric_that_lost_more_than_the_margin_fails_and_one_that_gained_passes(bench: Bench) -> None:
    add(bench.baseline, noisy(shift=1.5), finished=EARLIER)
    add(bench.results, noisy(shift=0.5))
    assert bench.message(NONINFERIOR).startswith("failed")
    gained = Bench(folder=bench.folder / "gained")
    add(gained.baseline, noisy(shift=0.5), finished=EARLIER)
    add(gained.results, noisy(shift=1.5))
    assert gained.message(NONINFERIOR).startswith("passed: image_auroc +")


@pytest.mark.parametrize("metric", ["pixel_auroc", "aupro"])
def test_pixel_metrics_are_judged_from_the_maps(bench: Bench, metric: str) -> None:
    before, worse = outputs(good=15, defective=15), outputs(good=15, defective=15)
    before.maps[before.masks] += 0.5
    add(bench.baseline, before, finished=EARLIER)
    add(bench.results, worse)
    rule = NONINFERIOR.replace("image_auroc", metric).replace("0.2", "0.02")
    assert bench.message(rule).startswith(f"failed: {metric} -")
    swapped = Bench(folder=bench.folder / "swapped")
    add(swapped.baseline, worse, finished=EARLIER)
    add(swapped.results, before)
    assert swapped.message(rule).startswith(f"passed: {metric} +")


def test_parity_passes_with_equal_records_and_fails_with_another_map(bench: Bench) -> None:
    add(bench.results)
    add(bench.results, backend="mindspore-cpu", case={"variant": "mindir-fp32"})
    assert bench.message(PARITY).startswith("passed: agreeing with mindspore-cpu: inputs, scores, maps")
    off = outputs(good=40, defective=40)
    off.scores[0] += 0.5
    add(bench.results, off)
    assert bench.message(PARITY).startswith("failed: scores failed: ")


def test_a_parity_rule_may_name_tolerances_and_margin(bench: Bench) -> None:
    add(bench.results, backend="mindspore-cpu", case={"variant": "mindir-fp32"})
    off = outputs(good=40, defective=40)
    off.scores[0] -= PROFILES["float16"].score / 2  # the range of good scores is 1
    add(bench.results, off)
    assert bench.message(PARITY).startswith("failed: scores failed: ")
    assert bench.message(PARITY + 'profile = "float32"\n').startswith("failed")
    assert bench.message(PARITY + 'profile = "float16"\n').startswith("passed")
    assert bench.message(PARITY + 'profile = "float16"\nmargin = 0.0001\n').startswith("not measured")


def test_parity_with_itself_is_not_measured(bench: Bench) -> None:
    add(bench.results)
    rule = PARITY.replace("mindspore-cpu", "onnxruntime-cpu").replace("mindir-fp32", "onnx-fp32")
    assert "compared with itself" in bench.message(rule)


@pytest.mark.parametrize(
    ("ratio", "between", "verdict"),
    [(1.0, 0.02, "passed"), (1.3, 0.02, "failed"), (1.1, 0.3, "not measured"), (0.5, 0.2, "passed")],
)
def test_a_ratio_is_judged_by_its_interval(bench: Bench, ratio: float, between: float, verdict: str) -> None:
    write_run(bench.results.folder, [timed(ratio, between=between)])
    message = bench.message(LATENCY)
    assert message.startswith(f"{verdict}: ours takes ")
    assert ("too noisy to decide" in message) == (verdict == "not measured")


def test_a_ratio_below_the_limit_is_not_enough(bench: Bench) -> None:
    benchmark = timed(1.0, between=0.2)
    interval = ratio(benchmark, level=0.95)
    assert interval.low < interval.estimate < 1.1 < interval.high
    write_run(bench.results.folder, [benchmark])
    assert bench.message(LATENCY).startswith("not measured")


def test_the_ratio_of_each_process_is_shown(bench: Bench) -> None:
    benchmark = timed(1.0, between=0.2)
    write_run(bench.results.folder, [benchmark])
    shown = ", ".join(f"{value:.4g}" for value in ratio(benchmark, level=0.95).processes)
    assert f"over 5 processes: {shown})" in bench.message(LATENCY)


def test_masks_that_differ_from_the_baselines_are_not_measured(bench: Bench) -> None:
    before, now = outputs(), outputs()
    now.masks[-1, 0, 0] = True
    add(bench.baseline, before, finished=EARLIER)
    add(bench.results, now)
    assert "other ground truth" in bench.message(NONINFERIOR.replace("image", "pixel"))


def test_significance_without_the_minimum_effect_does_not_fail(bench: Bench) -> None:
    """The subject is certainly 5 % slower, and up to 10 % do not matter."""
    write_run(bench.results.folder, [timed(1.05, spread=0.005, blocks=100)])
    assert bench.message(LATENCY).startswith("passed")
    assert bench.message(LATENCY.replace("effect = 0.1", "effect = 0.01")).startswith("failed")


@pytest.mark.parametrize(
    ("then", "now", "verdict"), [(2.0, 2.0, "passed"), (2.0, 2.6, "failed"), (2.0, 1.0, "passed")]
)
def test_a_ratio_is_judged_against_the_baselines(bench: Bench, then: float, now: float, verdict: str) -> None:
    write_run(bench.baseline.folder, [timed(then, seed=1)], finished="earlier")
    write_run(bench.results.folder, [timed(now, seed=2)])
    assert bench.message(RELATIVE).startswith(f"{verdict}: ours over theirs is ")


def test_a_missing_record_is_named_with_the_nearest_one(bench: Bench) -> None:
    add(bench.results, case={"threads": 4})
    message = bench.message(BOUND + "find.threads = 2\n")
    assert "no record of padim resnet18 on mvtec bottle, onnxruntime-cpu onnx-fp32" in message
    assert message.endswith("the nearest has threads 4")
    add(bench.results, case={"threads": 8})
    assert "2 records fit" in bench.message(BOUND)
    assert "they differ in threads" in bench.message(BOUND)


def test_masks_read_by_another_rule_must_be_named(bench: Bench) -> None:
    add(bench.results, case={"mask_threshold": 0, "mask_resize": "dilated"})
    rule = BOUND.replace("image_auroc", "pixel_auroc").replace("0.9", "0.1")
    message = bench.message(rule)
    assert message.startswith("not measured: ")
    assert message.endswith("the nearest has mask_threshold 0, mask_resize 'dilated'")
    assert bench.message(rule + "find.mask_threshold = 0\n").endswith("has mask_resize 'dilated'")
    named = rule + 'find.mask_threshold = 0\nfind.mask_resize = "dilated"\n'
    assert bench.message(named).startswith("passed: pixel_auroc ")
    add(bench.results)
    assert bench.message(named).startswith("passed: pixel_auroc ")  # the new record does not match the rule


@pytest.mark.parametrize("over", ["each", "mean"])
def test_a_reason_that_categories_share_is_shown_once(bench: Bench, over: str) -> None:
    add(bench.results, case={"detector": "stpm", "category": "widget"})
    add(bench.results, case={"detector": "stpm", "category": "wood"})
    categories = 'find.categories = ["bottle", "cable", "wood", "tile"]\n'
    report = gate(bench.rules(BOUND.replace("each", over) + categories), bench.results.folder)
    text = "\n".join(lines(report))
    assert text.count("the nearest has category 'widget', detector 'stpm' (also cable, tile)") == 1
    assert text.count("the nearest has") == 2  # wood has a record of its own
    if over == "each":
        assert [check.about for check in report.outcomes[0].checks] == ["bottle", "cable", "wood", "tile"]


def test_the_report_holds_verdict_and_numbers(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    add(bench.results)
    path = bench.rules(BOUND, BOUND + "allow_simulated = true\n", LATENCY)
    assert main(["gate", str(path), "--results", str(bench.results.folder), "--json"]) == 3
    document = json.loads(capsys.readouterr().out)
    assert next(iter(document)) == "verdict"
    assert [outcome["verdict"] for outcome in document["outcomes"]] == ["passed", "passed", "not measured"]
    assert document["outcomes"][0]["checks"][0]["numbers"] == {"value": 1.0, "at_least": 0.9}
    text = lines(gate(path, bench.results.folder))
    assert text[0] == "✓ rule 0 (bound): passed"
    assert text[4] == "    simulated devices are allowed here"
    assert text[-1] == f"gate not measured: {path}: 3 rules, 2 passed, 0 failed, 1 not measured"


# The shipped example.


def seed_results(folder: Path, *, ms: float, wrong: int) -> Results:
    """Write the 15 categories of the seed's rules, each with `wrong` of 400 pairs of images ranked wrongly."""
    from harness.gates.rules import Bound, read

    rule = read(find("seed_patchcore")).rule[0]
    assert isinstance(rule, Bound)
    results = Results(folder=folder)
    for category in rule.find.categories:
        base = outputs(good=20, defective=20)
        base.scores[19] = base.scores[20 : 20 + wrong].max() + 0.001 if wrong else base.scores[19]
        names = ("detector", "backbone", "dataset", "variant", "suite", "mask_resize")
        case = {name: getattr(rule.find, name) for name in names} | {"category": category}
        add(results, base, backend="ascend310", case=case, latency_samples_ms={"infer_head": [ms] * 40})
    return results


@pytest.mark.parametrize(
    ("ms", "wrong", "verdicts"),
    [(50.0, 2, ["passed", "passed"]), (50.1, 3, ["failed", "failed"]), (1.0, 0, ["passed", "passed"])],
)
def test_the_seeds_rules_ask_for_its_accuracy_and_speed(
    tmp_path: Path, ms: float, wrong: int, verdicts: list[str]
) -> None:
    results = seed_results(tmp_path, ms=ms, wrong=wrong)
    report = gate(find("seed_patchcore"), results.folder)
    assert [outcome.verdict for outcome in report.outcomes] == verdicts


def test_the_seeds_rules_are_not_measured_without_one_category(tmp_path: Path) -> None:
    results = seed_results(tmp_path, ms=1, wrong=0)
    next(results.folder.glob("*_zipper_*.json")).unlink()
    assert gate(find("seed_patchcore"), results.folder).verdict == "not measured"


def test_the_noisy_scores_of_these_tests_have_the_auroc_they_need() -> None:
    base = noisy(shift=1.5)
    assert 0.8 < metrics.image_metrics(base.scores, base.labels).values["image_auroc"] < 0.9
