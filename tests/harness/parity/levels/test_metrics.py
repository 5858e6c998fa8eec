"""The level of metrics, intervals and the margin."""

from __future__ import annotations

import dataclasses

import msgspec
import numpy as np
import pytest

from harness import metrics
from harness.metrics.intervals import Interval, NoInterval
from harness.parity import (
    Limits,
    compare,
)
from harness.records import record
from harness.records.record import EvidenceArrays
from tests.harness.parity.pairs import (
    change,
    failing,
    level,
    messages,
    noisy,
    numbers,
    verdicts,
    with_pixel,
    with_score,
)
from tests.harness.record_factory import THRESHOLDS, Outputs, Results, frames, outputs


def rows(width: int) -> Outputs:
    """Two good and two defective images of one row, `2 * width` pixels of either kind, perfectly separated."""
    maps = np.linspace(1, 3, 4 * width, dtype=np.float32).reshape(4, 1, width)
    masks = np.repeat([False, True], 2)[:, None, None] & np.ones(maps.shape, np.bool_)
    return dataclasses.replace(outputs(good=2, defective=2), maps=maps, masks=masks)


# With n good and n defective images, two pairs that swap their order change it by 2 / n²: 0.98e-4 and 1.01e-4.
@pytest.mark.parametrize(("count", "failed"), [(143, set()), (140, {"metrics"})])
def test_image_auroc_may_change_by_a_ten_thousandth(results: Results, count: int, failed: set[str]) -> None:
    base = outputs(good=count, defective=count, side=4)
    above, below = (
        with_score(with_score(base, count, value), count + 1, value) for value in (2.0002, 1.9998)
    )
    pair = results.compared(above, below)
    assert failing(pair) == failed
    assert ("image AUROC changes" in messages(pair, "metrics")) == bool(failed)
    assert numbers(pair, "metrics")["image_auroc"] == pytest.approx(2 / count**2)


def test_one_pair_of_near_images_may_swap_its_order_however_few_there_are(results: Results) -> None:
    base = outputs(good=4, defective=5)
    pair = results.compared(with_score(base, 4, 2.0002), with_score(base, 4, 1.9998))
    assert pair.verdict == "passed"
    assert numbers(pair, "metrics")["image_auroc"] == pytest.approx(1 / 20)
    far = results.compared(with_score(base, 4, 2.1), with_score(base, 4, 1.9998))
    assert failing(far) == {"scores"}


# The lowest defective pixel passes the lowest good one, far beyond AUPRO's limit: 1 / (2w)², 0.96e-4 and 1.04e-4.
@pytest.mark.parametrize(("width", "failed"), [(51, set()), (49, {"metrics"})])
def test_pixel_auroc_may_change_by_a_ten_thousandth(results: Results, width: int, failed: set[str]) -> None:
    above, below = (with_pixel(rows(width), (2, 0, 0), value) for value in (1.0002, 0.9998))
    pair = results.compared(above, below)
    assert failing(pair) == failed
    assert ("pixel AUROC changes" in messages(pair, "metrics")) == bool(failed)
    assert numbers(pair, "metrics")["pixel_auroc"] == pytest.approx(1 / (2 * width) ** 2)


# One pixel of two regions of w is found one of 2w good pixels later, over a limit of 0.3: 0.985e-4 and 1.006e-4.
@pytest.mark.parametrize(("width", "failed"), [(92, set()), (91, {"metrics"})])
def test_aupro_may_change_by_a_ten_thousandth(results: Results, width: int, failed: set[str]) -> None:
    highest = float(rows(width).maps[1, 0, -1])
    above, below = (with_pixel(rows(width), (2, 0, 0), highest + step) for step in (2e-4, -2e-4))
    pair = results.compared(above, below)
    assert failing(pair) == failed
    assert ("AUPRO changes" in messages(pair, "metrics")) == bool(failed)
    assert numbers(pair, "metrics")["aupro"] == pytest.approx(1 / (1.2 * width**2))


def test_a_metric_undefined_in_both_records_is_not_measured_with_its_reason(results: Results) -> None:
    pair = results.compared(outputs(defective=0), outputs(defective=0))
    assert (pair.verdict, verdicts(pair)["metrics"]) == ("not measured", "not measured")
    assert "image AUROC is undefined: reference: all 4 test images are good" in messages(pair, "metrics")


def test_a_metric_undefined_in_one_record_fails(results: Results) -> None:
    reference, other = results.add("reference", outputs()), results.add("other", outputs(), evidence=None)
    others = {name: value for name, value in other.metrics.items() if name != "pixel_auroc"}
    other = msgspec.structs.replace(other, metrics=others, undefined={"pixel_auroc": "lost"})
    pair = compare(results.folder, reference, other)
    assert failing(pair) == {"metrics"}
    assert "pixel AUROC is undefined: other: lost" in messages(pair, "metrics")


@pytest.mark.parametrize("name", record.METRICS)
@pytest.mark.parametrize(("change", "failed"), [(5e-10, set()), (2e-9, {"metrics"})])
def test_a_metric_that_does_not_follow_from_its_own_scores_and_maps_fails(
    results: Results, name: str, change: float, failed: set[str]
) -> None:
    reference, other = results.add("reference", outputs()), results.add("other", outputs())
    edited = msgspec.structs.replace(other, metrics=other.metrics | {name: other.metrics[name] - change})
    pair = compare(results.folder, reference, edited)
    assert failing(pair) == failed
    assert ("altered" in messages(pair, "metrics")) == bool(failed)


@pytest.mark.parametrize("name", ["pixel_ok", "pixel_nok", "pixel_acc", "pixel_auc_binary"])
@pytest.mark.parametrize(("change", "failed"), [(0.0, set()), (2e-9, {"metrics"})])
def test_a_decision_metric_that_does_not_follow_from_its_own_maps_fails_too(
    results: Results, name: str, change: float, failed: set[str]
) -> None:
    base, rules = outputs(), metrics.PixelDecisions(opening_radius=1, only_defective=True)
    thresholds = msgspec.structs.replace(THRESHOLDS, pixel=0.2)
    reference, other = (
        results.add(backend, base, thresholds=thresholds, pixel_decisions=rules)
        for backend in ("reference", "other")
    )
    decided = metrics.decision_metrics(base.maps, base.masks, base.labels, 0.2, rules).values
    right = msgspec.structs.replace(reference, metrics=reference.metrics | decided)
    claims = other.metrics | decided | {name: decided[name] + change}
    pair = compare(results.folder, right, msgspec.structs.replace(other, metrics=claims))
    assert failing(pair) == failed
    assert (f"records {name}" in messages(pair, "metrics")) == bool(failed)


def test_a_recorded_value_of_an_undefined_metric_fails(results: Results) -> None:
    good = outputs(defective=0)
    reference, other = results.add("reference", good), results.add("other", good)
    claims = other.metrics | {"image_auroc": 1.0}
    edited = (msgspec.structs.replace(record, metrics=claims) for record in (reference, other))
    assert failing(compare(results.folder, *edited)) == {"metrics"}


def test_without_a_margin_a_pair_of_equal_scores_has_its_bound_and_no_verdict(results: Results) -> None:
    pair = results.compared(outputs(), outputs())
    image = change(pair, "image_auroc")
    assert isinstance(image.interval, Interval)
    assert image.interval.low < 0 < image.interval.high
    assert (image.non_inferior, change(pair, "aupro").interval) == (None, None)


def test_pixel_metrics_that_change_have_intervals(results: Results) -> None:
    pair = results.compared(noisy(0, 0.1), noisy(0, 0.0))
    for name in ("pixel_auroc", "aupro"):
        metric = change(pair, name)
        assert isinstance(metric.interval, Interval)
        assert metric.interval.estimate == pytest.approx(metric.other - metric.reference, abs=1e-12)
        assert metric.interval.high < 0


@pytest.mark.parametrize(("margin", "verdict"), [(0.2, "passed"), (0.001, "not measured")])
def test_a_margin_that_the_images_cannot_rule_out_is_not_measured(
    results: Results, margin: float, verdict: str
) -> None:
    limits = Limits(margin=margin, profile="int8")
    one, two = results.add("reference", noisy(1, 0)), results.add("other", noisy(1, 0))
    pair = compare(results.folder, one, two, limits=limits)
    assert change(pair, "image_auroc").non_inferior == verdict
    assert level(pair, "metrics").verdict == verdict
    assert pair.verdict == verdict
    assert level(pair, "metrics").tolerance["margin"] == margin
    text = "\n".join(level(pair, "metrics").messages)
    assert ("image AUROC is not shown to lose less than the margin of 0.001" in text) == (verdict != "passed")


def test_a_loss_beyond_the_margin_fails_and_a_gain_does_not(results: Results) -> None:
    better, worse = noisy(2, 1.0), noisy(2, 0)
    loose = Limits(margin=1e-4, profile="int8")
    one, two = results.add("reference", better), results.add("other", worse)
    lost = compare(results.folder, one, two, limits=loose)
    assert change(lost, "pixel_auroc").non_inferior == "failed"
    assert "pixel AUROC loses more than the margin of 0.0001" in "\n".join(level(lost, "metrics").messages)
    gained = compare(results.folder, two, one, limits=loose)
    assert change(gained, "pixel_auroc").non_inferior == "passed"


def test_the_margin_never_makes_a_failed_level_pass(results: Results) -> None:
    one, two = results.add("reference", noisy(3, 1.0)), results.add("other", noisy(3, 0.9))
    pair = compare(results.folder, one, two, limits=Limits(margin=0.9))
    assert {metric.non_inferior for metric in pair.metrics} == {"passed"}
    assert level(pair, "metrics").verdict == "failed"


@pytest.mark.parametrize("how", ["evidence", "shape", "masks", "nan"])
def test_without_two_comparable_maps_a_margin_is_not_measured(results: Results, how: str) -> None:
    base = outputs()
    one, two = results.add("reference", base), results.add("other", base)
    if how == "evidence":
        two = msgspec.structs.replace(two, evidence=None)
    else:
        maps, masks = base.maps.copy(), base.masks.copy()
        if how == "shape":
            maps, masks = maps[:, 1:], masks[:, 1:]
        elif how == "masks":
            masks[5, 3, 3] = True
        else:
            maps[0, 0, 0] = np.nan
        arrays = EvidenceArrays(maps=maps, masks=masks, frames=frames(base)[:, : maps.shape[1]])
        evidence = record.write_evidence(results.folder, two.case, two.inputs_sha256, arrays)
        two = msgspec.structs.replace(two, evidence=evidence)
    pair = compare(results.folder, one, two, limits=Limits(margin=0.5))
    metric = change(pair, "aupro")
    assert isinstance(metric.interval, NoInterval)
    assert metric.non_inferior == "not measured"
    assert pair.verdict != "passed"
    assert "no interval: " in "\n".join(level(pair, "metrics").messages)
