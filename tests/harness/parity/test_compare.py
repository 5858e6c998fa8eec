from __future__ import annotations

import dataclasses
import json
import re
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given as forall
from hypothesis import settings
from hypothesis import strategies as st
from scipy.stats import spearmanr

from harness import metrics, parity
from harness.errors import RecordError
from harness.parity import PairReport, Verdict, compare, overall, rank_correlation
from harness.records import record
from harness.records.record import Data, Device, Record
from tests.harness.record_factory import THRESHOLDS, Outputs, Results, images, outputs


def verdicts(pair: PairReport) -> dict[str, Verdict]:
    return {level.name: level.verdict for level in pair.levels}


def failing(pair: PairReport) -> set[str]:
    return {name for name, verdict in verdicts(pair).items() if verdict == "failed"}


def messages(pair: PairReport, level: str) -> str:
    return "\n".join(line for found in pair.levels if found.name == level for line in found.messages)


def numbers(pair: PairReport, level: str) -> dict[str, float | int | None]:
    return next(found.numbers for found in pair.levels if found.name == level)


def with_score(given: Outputs, index: int, score: float) -> Outputs:
    scores = given.scores.copy()
    scores[index] = score
    return dataclasses.replace(given, scores=scores)


def with_pixel(given: Outputs, place: tuple[int, ...], value: float) -> Outputs:
    maps = given.maps.copy()
    maps[place] = value
    return dataclasses.replace(given, maps=maps)


def rows(width: int) -> Outputs:
    """Two good and two defective images of one row, `2 * width` pixels of either kind, perfectly separated."""
    maps = np.linspace(1, 3, 4 * width, dtype=np.float32).reshape(4, 1, width)
    masks = np.repeat([False, True], 2)[:, None, None] & np.ones(maps.shape, np.bool_)
    return dataclasses.replace(outputs(good=2, defective=2), maps=maps, masks=masks)


# Verdicts.


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ([], "not measured"),
        (["passed"], "passed"),
        (["passed", "not measured"], "not measured"),
        (["not measured", "failed", "passed"], "failed"),
    ],
)
def test_failed_beats_not_measured_beats_passed(found: list[Verdict], expected: Verdict) -> None:
    assert overall(found) == expected


def test_equal_outputs_of_two_backends_pass_on_every_level(results: Results) -> None:
    pair = results.compared(outputs(), outputs())
    assert pair.verdict == "passed"
    assert verdicts(pair) == dict.fromkeys((name for name in parity.LEVELS if name != "tensors"), "passed")
    assert set(pair.left_out) == {"tensors"}
    assert numbers(pair, "scores")["rank_correlation"] == 1.0
    assert (pair.good, pair.defective, pair.flips) == (4, 4, ())


# Tolerances: just under passes, just over fails, and nothing else does.


@pytest.mark.parametrize(
    ("change", "failed"), [(0.999e-3, set()), (1.001e-3, {"scores"}), (-1.001e-3, {"scores"})]
)
def test_a_score_may_change_by_a_thousandth_of_the_range_of_good_scores(
    results: Results, change: float, failed: set[str]
) -> None:
    given = outputs()
    pair = results.compared(given, with_score(given, 6, given.scores[6] + change))
    assert failing(pair) == failed
    assert pair.verdict == ("failed" if failed else "passed")
    assert numbers(pair, "scores")["tolerance_needed"] == pytest.approx(abs(change))
    assert numbers(pair, "scores")["mean_difference"] == pytest.approx(abs(change) / 8)


def test_the_range_is_of_the_references_good_scores_alone(results: Results) -> None:
    given = outputs()
    wider = dataclasses.replace(
        given, scores=np.where(given.labels == 0, given.scores * 3 - 3, given.scores + 5)
    )
    assert numbers(results.compared(given, wider), "scores")["range_of_good_scores"] == 1.0
    assert numbers(results.compared(wider, given), "scores")["range_of_good_scores"] == 3.0


@pytest.mark.parametrize(("change", "failed"), [(0.999e-3, set()), (1.001e-3, {"maps"}), (1.0, {"maps"})])
def test_a_map_value_may_change_by_a_thousandth_of_the_same_range(
    results: Results, change: float, failed: set[str]
) -> None:
    given = outputs()
    highest = np.unravel_index(np.argmax(given.maps), given.maps.shape)
    pair = results.compared(given, with_pixel(given, tuple(map(int, highest)), given.maps.max() + change))
    assert failing(pair) == failed
    assert numbers(pair, "maps")["largest_difference"] == pytest.approx(change, rel=1e-3)
    assert numbers(pair, "maps")["mean_difference"] == pytest.approx(change / given.maps.size, rel=1e-3)


# With n good and n defective images, two pairs that change places are worth 2 / n²: 0.98e-4 and 1.01e-4.
@pytest.mark.parametrize(("count", "failed"), [(143, set()), (140, {"metrics"})])
def test_image_auroc_may_change_by_a_ten_thousandth(results: Results, count: int, failed: set[str]) -> None:
    given = outputs(good=count, defective=count, side=4)
    above, below = (
        with_score(with_score(given, count, value), count + 1, value) for value in (2.0002, 1.9998)
    )
    pair = results.compared(above, below)
    assert failing(pair) == failed
    assert ("image AUROC changes" in messages(pair, "metrics")) == bool(failed)
    assert numbers(pair, "metrics")["image_auroc"] == pytest.approx(2 / count**2)


def test_one_pair_of_near_images_may_change_its_order_however_few_there_are(results: Results) -> None:
    given = outputs(good=4, defective=5)
    pair = results.compared(with_score(given, 4, 2.0002), with_score(given, 4, 1.9998))
    assert pair.verdict == "passed"
    assert numbers(pair, "metrics")["image_auroc"] == pytest.approx(1 / 20)
    far = results.compared(with_score(given, 4, 2.1), with_score(given, 4, 1.9998))
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


@pytest.mark.parametrize(("score", "other"), [(2.5009, 2.49999), (2.4991, 2.50001), (2.5, 2.5000001)])
def test_a_flip_within_tolerance_of_the_threshold_is_a_warning(
    results: Results, score: float, other: float
) -> None:
    pair = results.compared(with_score(outputs(), 4, score), with_score(outputs(), 4, other))
    assert pair.verdict == "passed"
    assert messages(pair, "decisions").startswith("warning")
    (flip,) = pair.flips
    assert (flip.image, flip.label, flip.tolerated) == ("test/crack/004.png", 1, True)
    assert flip.margin == pytest.approx(abs(score - 2.5))


@pytest.mark.parametrize(("score", "other"), [(2.5011, 2.4999), (2.4989, 2.5001), (2.6, 2.4)])
def test_a_flip_beyond_tolerance_fails_and_names_the_image(
    results: Results, score: float, other: float
) -> None:
    pair = results.compared(with_score(outputs(), 4, score), with_score(outputs(), 4, other))
    assert verdicts(pair)["decisions"] == "failed"
    assert "test/crack/004.png (defective) flips" in messages(pair, "decisions")
    assert not pair.flips[0].tolerated


def test_one_tolerated_flip_does_not_excuse_another(results: Results) -> None:
    before, after = (
        with_score(with_score(outputs(), 4, one), 5, two) for one, two in ((2.5001, 2.6), (2.4999, 2.4))
    )
    pair = results.compared(before, after)
    assert [flip.tolerated for flip in pair.flips] == [True, False]
    assert verdicts(pair)["decisions"] == "failed"


def test_an_image_that_scores_the_threshold_is_called_good_on_both_sides(results: Results) -> None:
    assert results.compared(with_score(outputs(), 4, 2.5), with_score(outputs(), 4, 2.4999)).flips == ()


# Inputs.


def with_stages(given: Record, changed: dict[int, dict[str, str]]) -> Record:
    return msgspec.structs.replace(
        given,
        images=tuple(
            msgspec.structs.replace(image, stages=image.stages | changed.get(index, {}))
            for index, image in enumerate(given.images)
        ),
    )


def test_inputs_that_differ_fail_and_say_where_it_began_for_each_image(results: Results) -> None:
    reference, other = results.add("reference", outputs()), results.add("other", outputs())
    later = {"frame": "changed", "input": "changed"}
    pair = compare(
        results.folder, reference, with_stages(other, {0: {"input": "x"}} | dict.fromkeys(range(1, 8), later))
    )
    assert failing(pair) == {"inputs"}
    assert "first differ at input: 1 of 8 images (test/good/000.png)" in messages(pair, "inputs")
    assert "first differ at frame: 7 of 8 images (test/good/001.png" in messages(pair, "inputs")
    assert "(test/good/000.png)\nby how much is unknown: the frames in the evidence are equal" in messages(
        pair, "inputs"
    )
    assert "and 2 more" in messages(pair, "inputs")


def test_a_difference_that_never_reaches_the_network_is_a_warning(results: Results) -> None:
    reference, other = results.add("reference", outputs()), results.add("other", outputs())
    pair = compare(results.folder, reference, with_stages(other, {0: {"decode": "changed"}}))
    assert pair.verdict == "passed"
    assert "warning" in messages(pair, "inputs")


def test_inputs_without_a_digest_are_not_measured(results: Results) -> None:
    bare = tuple(msgspec.structs.replace(image, stages={}) for image in images(outputs()))
    reference, other = (results.add(name, outputs(), images=bare) for name in ("reference", "other"))
    pair = compare(results.folder, reference, other)
    assert (pair.verdict, verdicts(pair)["inputs"]) == ("not measured", "not measured")


@pytest.mark.parametrize(("digest", "verdict"), [("input 3", "passed"), ("changed", "failed")])
def test_the_input_alone_decides_where_a_side_knows_no_stage_before_it(
    results: Results, digest: str, verdict: str
) -> None:
    given = list(images(outputs()))
    given[3] = msgspec.structs.replace(given[3], stages={"input": digest})
    reference, other = (
        results.add("reference", outputs()),
        results.add("other", outputs(), images=tuple(given)),
    )
    pair = compare(results.folder, reference, other)
    assert verdicts(pair)["inputs"] == verdict
    assert "compared by the input alone" in messages(pair, "inputs")
    assert ("first differ at input: 1 of 8" in messages(pair, "inputs")) == (verdict == "failed")


@pytest.mark.parametrize(
    ("stages", "verdict"),
    [
        ({"input": "x"}, "passed"),
        ({"frame": "x", "input": "x"}, "failed"),
        ({"decode": "x", "frame": "x", "input": "x"}, "failed"),
    ],
)
def test_the_frame_decides_where_one_network_takes_over_earlier(
    results: Results, stages: dict[str, str], verdict: str
) -> None:
    reference, other = results.add("reference", outputs()), results.add("other", outputs())
    reference = msgspec.structs.replace(reference, input_stage="layout")
    other = with_stages(msgspec.structs.replace(other, input_stage="crop"), dict.fromkeys(range(8), stages))
    pair = compare(results.folder, reference, other)
    assert verdicts(pair)["inputs"] == verdict
    assert "reference preprocesses up to layout and other preprocesses up to crop" in messages(pair, "inputs")


def test_a_network_that_takes_over_earlier_is_not_measured_without_frames(results: Results) -> None:
    bare = tuple(msgspec.structs.replace(image, stages={"input": "x"}) for image in images(outputs()))
    reference, other = results.add("reference", outputs()), results.add("other", outputs(), images=bare)
    reference = msgspec.structs.replace(reference, input_stage="layout")
    pair = compare(results.folder, reference, msgspec.structs.replace(other, input_stage="crop"))
    assert verdicts(pair)["inputs"] == "not measured"
    assert "without the digest of the frame: 8 of 8" in messages(pair, "inputs")


def test_sides_of_one_backend_are_told_apart_by_what_they_took_from_files(results: Results) -> None:
    for source in (None, "inputs 12", "inputs 34"):
        results.add("onnxruntime-cpu", outputs(), case={"source": source})
    report = parity.parity(results.folder, reference="onnxruntime-cpu")
    names = [pair.other.runner for pair in report.pairs]
    assert names == ["onnxruntime-cpu (inputs 12)", "onnxruntime-cpu (inputs 34)"]


def test_other_ground_truth_fails(results: Results) -> None:
    given = outputs()
    masks = given.masks.copy()
    masks[5, 3, 3] = True
    pair = results.compared(given, dataclasses.replace(given, masks=masks))
    assert "inputs" in failing(pair)
    assert "test/crack/005.png" in messages(pair, "inputs")


# Refusals: never passed.


ONE = images(outputs())[0]
OTHER_PIXELS = msgspec.structs.replace(ONE, stages=ONE.stages | {"decode": "others"})
UNKNOWN_PIXELS = msgspec.structs.replace(ONE, stages={"input": ONE.stages["input"]})
OTHER_DATA = Data(fingerprint="9" * 64, good=4, defective=4, masks_cut=0, masks_emptied=0)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"detector_sha256": "b" * 64}, "different detectors .*dddddddddddd and bbbbbbbbbbbb"),
        ({"thresholds": msgspec.structs.replace(THRESHOLDS, image=2.6)}, "different thresholds"),
        ({"case": {"mask_threshold": 64}}, "mask threshold 127 and 64"),
        ({"case": {"mask_resize": "dilated"}}, "mask resize nearest and dilated"),
        ({"status": "failed", "reason": "killed by signal 9"}, "other failed: killed by signal 9"),
        ({"status": "skipped", "reason": "no such device"}, "other skipped: no such device"),
        ({"data": None}, "without test images"),
        ({"images": ()}, "without test images"),
        ({"images": images(outputs())[1:]}, "8 and 7 images.*only one record has test/good/000.png"),
        ({"images": images(outputs())[::-1]}, "another order"),
        ({"images": (msgspec.structs.replace(ONE, name="x.png"),)}, "no test image in common"),
        (
            {"images": (msgspec.structs.replace(ONE, label=1), *images(outputs())[1:])},
            "labels.*test/good/000.png",
        ),
        (
            {"data": OTHER_DATA, "images": (OTHER_PIXELS, *images(outputs())[1:])},
            "under the same names .*ffffffffffff and 999999999999",
        ),
        (
            {"data": OTHER_DATA, "images": (UNKNOWN_PIXELS, *images(outputs())[1:])},
            "under the same names .*ffffffffffff and 999999999999",
        ),
    ],
)
def test_what_is_not_the_same_detector_on_the_same_images_is_refused(
    results: Results, changes: dict[str, Any], reason: str
) -> None:
    pair = results.compared(outputs(), outputs(), **changes)
    assert (pair.verdict, pair.levels) == ("not measured", ())
    assert pair.reason is not None
    assert re.search(reason, pair.reason)


def test_images_whose_pixels_neither_side_knows_are_not_taken_for_the_same(results: Results) -> None:
    bare = tuple(msgspec.structs.replace(image, stages={}) for image in images(outputs()))
    one = results.add("one", outputs(), images=bare)
    two = results.add("two", outputs(), images=bare, data=OTHER_DATA)
    pair = compare(results.folder, one, two)
    assert pair.verdict == "not measured"
    assert "different test images under the same names" in str(pair.reason)


def test_good_and_defective_images_are_counted(results: Results) -> None:
    given = outputs(good=3, defective=5)
    pair = results.compared(given, given)
    assert (pair.good, pair.defective) == (3, 5)


def test_images_that_are_only_encoded_otherwise_are_compared(results: Results) -> None:
    pair = results.compared(outputs(), outputs(), data=OTHER_DATA)
    assert pair.verdict == "passed"
    assert "the files of the test images or masks differ, the decoded pixels do not" in pair.notes[-1]


def test_other_masks_beside_images_encoded_otherwise_fail(results: Results) -> None:
    given = outputs()
    masks = given.masks.copy()
    masks[5, 3, 3] = True
    pair = results.compared(given, dataclasses.replace(given, masks=masks), data=OTHER_DATA)
    assert "inputs" in failing(pair)


def test_a_reference_that_failed_is_refused(results: Results) -> None:
    reference = results.add("reference", outputs(), status="failed", reason="out of memory")
    pair = compare(results.folder, reference, results.add("other", outputs()))
    assert (pair.verdict, pair.reason) == ("not measured", "reference failed: out of memory")


def test_labels_other_than_good_and_defective_are_refused(results: Results) -> None:
    odd = (msgspec.structs.replace(ONE, label=2), *images(outputs())[1:])
    reference, other = (results.add(name, outputs(), images=odd) for name in ("reference", "other"))
    assert compare(results.folder, reference, other).verdict == "not measured"


def test_a_record_is_not_compared_with_itself(results: Results) -> None:
    only = results.add("reference", outputs())
    pair = compare(results.folder, only, only)
    assert pair.verdict == "not measured"
    assert "itself" in str(pair.reason)


# What cannot be measured, and what is not a number.


@pytest.mark.parametrize("missing", ["reference", "other"])
def test_maps_without_evidence_are_not_measured(results: Results, missing: str) -> None:
    reference, other = results.add("reference", outputs()), results.add("other", outputs())
    gone = {"reference": reference, "other": other}[missing].evidence
    assert gone is not None
    (results.folder / gone.file).unlink()
    pair = compare(results.folder, reference, other)
    assert pair.verdict == "not measured"
    assert {name for name, verdict in verdicts(pair).items() if verdict != "passed"} == {"maps"}
    assert f"evidence of {missing} is missing" in messages(pair, "maps")


def test_altered_evidence_is_an_error(results: Results) -> None:
    reference, other = results.add("reference", outputs()), results.add("other", outputs())
    assert other.evidence is not None
    with (results.folder / other.evidence.file).open("ab") as file:
        file.write(b"\0")
    with pytest.raises(RecordError, match="altered"):
        compare(results.folder, reference, other)


@pytest.mark.parametrize("scores", [[3, 3.1, 3.2, 3.3], [1, 1, 3, 3.1]])
def test_without_a_range_of_good_scores_nothing_is_near_or_far(results: Results, scores: list[float]) -> None:
    labels = np.array([1, 1, 1, 1] if scores[0] == 3 else [0, 0, 1, 1])
    given = dataclasses.replace(outputs(good=2, defective=2), scores=np.array(scores), labels=labels)
    pair = results.compared(given, given)
    assert pair.verdict == "not measured"
    assert verdicts(pair)["scores"] == verdicts(pair)["maps"] == "not measured"
    assert "no scale" in messages(pair, "scores")


def test_without_a_range_no_flip_is_tolerated(results: Results) -> None:
    given = dataclasses.replace(outputs(good=2, defective=2), scores=np.array([1, 1, 2.5000001, 3]))
    assert failing(results.compared(given, with_score(given, 2, 2.4999999))) == {"decisions"}


def test_a_metric_undefined_on_both_sides_is_not_measured_with_its_reason(results: Results) -> None:
    pair = results.compared(outputs(defective=0), outputs(defective=0))
    assert (pair.verdict, verdicts(pair)["metrics"]) == ("not measured", "not measured")
    assert "image AUROC is undefined: reference: all 4 test images are good" in messages(pair, "metrics")


def test_a_metric_undefined_on_one_side_fails(results: Results) -> None:
    reference, other = results.add("reference", outputs()), results.add("other", outputs(), evidence=None)
    kept = {name: value for name, value in other.metrics.items() if name != "pixel_auroc"}
    other = msgspec.structs.replace(other, metrics=kept, undefined={"pixel_auroc": "lost"})
    pair = compare(results.folder, reference, other)
    assert failing(pair) == {"metrics"}
    assert "pixel AUROC is undefined: other: lost" in messages(pair, "metrics")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_map_that_is_not_finite_fails_even_where_both_sides_agree(results: Results, value: float) -> None:
    broken = with_pixel(outputs(), (2, 1, 1), value)
    pair = results.compared(broken, broken)
    assert "maps" in failing(pair)
    assert "maps of other are NaN or infinite: 1 of 8 images (test/good/002.png)" in messages(pair, "maps")
    assert pair.largest[0].image == "test/good/002.png"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e308])
def test_scores_that_are_not_finite_fail_even_where_both_sides_agree(results: Results, value: float) -> None:
    records = [results.add(name, outputs()) for name in ("reference", "other")]
    odd = msgspec.structs.replace(records[0].images[3], score=value)
    one, two = (
        msgspec.structs.replace(made, images=(*made.images[:3], odd, *made.images[4:])) for made in records
    )
    pair = compare(results.folder, one, two)
    assert (pair.verdict, failing(pair)) == ("failed", {"scores"})
    assert verdicts(pair)["decisions"] == "not measured"
    json.dumps(msgspec.to_builtins(pair), allow_nan=False)


def test_differences_near_the_end_of_float32_stay_finite(results: Results) -> None:
    far = float(np.finfo(np.float32).max)
    pair = results.compared(with_pixel(outputs(), (0, 0, 0), far), with_pixel(outputs(), (0, 0, 0), -far))
    assert numbers(pair, "maps")["largest_difference"] == 2 * far


def test_maps_of_another_shape_fail(results: Results) -> None:
    pair = results.compared(outputs(side=6), outputs(side=8))
    assert "maps" in failing(pair)
    assert "(8, 6, 6) on reference and (8, 8, 8) on other" in messages(pair, "maps")


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
    given, rules = outputs(), metrics.PixelDecisions(opening_radius=1, only_defective=True)
    thresholds = msgspec.structs.replace(THRESHOLDS, pixel=0.2)
    reference, other = (
        results.add(backend, given, thresholds=thresholds, pixel_decisions=rules)
        for backend in ("reference", "other")
    )
    decided = metrics.decision_metrics(given.maps, given.masks, given.labels, 0.2, rules).values
    right = msgspec.structs.replace(reference, metrics=reference.metrics | decided)
    claims = other.metrics | decided | {name: decided[name] + change}
    pair = compare(results.folder, right, msgspec.structs.replace(other, metrics=claims))
    assert failing(pair) == failed
    assert (f"records {name}" in messages(pair, "metrics")) == bool(failed)


def test_a_metric_recorded_where_it_is_undefined_fails(results: Results) -> None:
    good = outputs(defective=0)
    reference, other = results.add("reference", good), results.add("other", good)
    claims = other.metrics | {"image_auroc": 1.0}
    edited = (msgspec.structs.replace(item, metrics=claims) for item in (reference, other))
    assert failing(compare(results.folder, *edited)) == {"metrics"}


# Rank correlation and the largest differences.

TIED = st.lists(st.tuples(st.integers(-3, 3), st.integers(-3, 3)), min_size=2, max_size=30)


@settings(deadline=None)
@forall(TIED)
def test_rank_correlation_is_spearmans_with_ties(pairs: list[tuple[int, int]]) -> None:
    first, second = np.array(pairs, np.float64).T
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        assert rank_correlation(first, second) is None
    else:
        assert rank_correlation(first, second) == pytest.approx(spearmanr(first, second).statistic, abs=1e-12)


def test_rank_correlation_of_scores_is_absent_with_its_reason_when_they_are_constant(
    results: Results,
) -> None:
    flat = dataclasses.replace(outputs(), scores=np.full(8, 1.5))
    pair = results.compared(outputs(), flat)
    assert numbers(pair, "scores")["rank_correlation"] is None
    assert "rank correlation undefined" in messages(pair, "scores")


def test_the_five_largest_differences_count_scores_and_maps_alike(results: Results) -> None:
    given = outputs()
    scores, maps = given.scores.copy(), given.maps.copy()
    scores[[1, 6]] += [0.05, 0.03]
    maps[[2, 6, 7], 0, 0] += np.array([0.04, 0.01, 0.02], np.float32)
    pair = results.compared(given, dataclasses.replace(given, scores=scores, maps=maps))
    found = [difference.image[-7:-4] for difference in pair.largest]
    assert found == ["001", "002", "006", "007", "000"]
    assert pair.largest[2].score == pytest.approx(0.03)
    assert pair.largest[2].map == pytest.approx(0.01, rel=1e-5)


# Which records are compared with which.


def test_every_other_backend_is_compared_with_the_reference_of_its_category(results: Results) -> None:
    for category in ("bottle", "cable"):
        for backend in ("reference", "a", "b"):
            results.add(backend, outputs(), case={"category": category})
    report = parity.parity(results.folder, reference="reference")
    found = {(pair.other.category, pair.other.backend, pair.reference.category) for pair in report.pairs}
    assert found == {
        (category, backend, category) for category in ("bottle", "cable") for backend in ("a", "b")
    }
    assert len(report.pairs) == 4
    assert (report.verdict, report.reasons) == ("passed", ())


@pytest.mark.parametrize(
    ("backends", "reason"),
    [
        (["a", "b"], "padim resnet18 on mvtec: no record of the reference reference .there are: a, b."),
        (["reference"], "padim resnet18 on mvtec: only reference has records"),
    ],
)
def test_nothing_compared_is_not_measured(results: Results, backends: list[str], reason: str) -> None:
    for backend in backends:
        results.add(backend, outputs())
    report = parity.parity(results.folder, reference="reference")
    assert (report.verdict, report.pairs) == ("not measured", ())
    assert re.match(reason, report.reasons[0])


def test_no_records_are_not_measured(results: Results) -> None:
    report = parity.parity(results.folder, reference="reference", records=())
    assert (report.verdict, report.reasons) == ("not measured", ("there are no records",))
    with pytest.raises(RecordError, match="no records here"):
        parity.parity(results.folder, reference="reference")


@pytest.mark.parametrize(("having", "lacking"), [("reference", "other"), ("other", "reference")])
def test_a_category_only_one_backend_has_is_listed_and_keeps_parity_from_passing(
    results: Results, having: str, lacking: str
) -> None:
    results.add("reference", outputs())
    results.add("other", outputs())
    results.add(having, outputs(), case={"category": "cable"})
    report = parity.parity(results.folder, reference="reference")
    assert [pair.verdict for pair in report.pairs] == ["passed"]
    assert report.verdict == "not measured"
    assert report.reasons == (
        f"padim resnet18 on mvtec: {having} has records of cable and {lacking} has none",
    )


def test_other_detectors_and_data_sets_are_not_compared_with_each_other(results: Results) -> None:
    results.add("reference", outputs(), case={"dataset": "mvtec"})
    results.add("other", outputs(), case={"dataset": "tiles"})
    report = parity.parity(results.folder, reference="reference")
    assert (report.verdict, report.pairs, len(report.reasons)) == ("not measured", (), 2)


def test_a_failed_case_keeps_parity_from_passing_and_a_failed_level_beats_it(results: Results) -> None:
    results.add("reference", outputs())
    results.add("dead", outputs(), status="failed", reason="killed by signal 9")
    assert parity.parity(results.folder, reference="reference").verdict == "not measured"
    results.add("wrong", with_score(outputs(), 6, 5.0))
    assert parity.parity(results.folder, reference="reference").verdict == "failed"


def test_the_reference_of_the_same_setting_is_taken_before_a_newer_one(results: Results) -> None:
    results.add("reference", outputs(), case={"batch_size": 4}, finished="2025-01-01T00:00:01+00:00")
    results.add("reference", outputs(), case={"batch_size": 1}, finished="2025-01-02T00:00:01+00:00")
    results.add("other", outputs(), case={"batch_size": 4})
    (pair,) = parity.parity(results.folder, reference="reference").pairs
    assert (pair.reference.batch_size, pair.notes) == (4, ())


def test_without_the_same_setting_the_newest_measured_reference_is_taken_and_named(results: Results) -> None:
    for size, status in ((1, "measured"), (2, "measured"), (4, "failed")):
        finished = f"2025-01-0{size}T00:00:00+00:00"
        results.add(
            "reference", outputs(), case={"batch_size": size}, finished=finished, status=status, reason="why"
        )
    results.add("other", outputs(), case={"batch_size": 8})
    (pair,) = parity.parity(results.folder, reference="reference").pairs
    assert (pair.verdict, pair.reference.batch_size) == ("passed", 2)
    assert "no record of batch 8 and 1 threads" in pair.notes[0]
    assert "batch 2" in pair.notes[0]


def test_a_reference_with_as_many_threads_is_preferred_to_a_newer_one(results: Results) -> None:
    for threads in (4, 2, 1):
        finished = f"2025-01-0{5 - threads}T00:00:00+00:00"
        results.add("reference", outputs(), case={"threads": threads}, finished=finished)
    results.add("other", outputs(), case={"threads": 2})
    (pair,) = parity.parity(results.folder, reference="reference").pairs
    assert (pair.reference.threads, pair.notes) == (2, ())


def test_a_choice_among_references_of_the_same_setting_is_named(results: Results) -> None:
    for day, variant in ((1, "mindir-fp32"), (2, "onnx-fp32")):
        results.add(
            "reference", outputs(), case={"variant": variant}, finished=f"2025-01-0{day}T00:00:00+00:00"
        )
    results.add("other", outputs())
    (pair,) = parity.parity(results.folder, reference="reference").pairs
    assert pair.reference.variant == "onnx-fp32"
    assert "2 such records" in pair.notes[0]


def test_a_reference_with_the_same_mask_threshold_is_preferred(results: Results) -> None:
    results.add("reference", outputs(), case={"mask_threshold": 64}, finished="2025-01-03T00:00:00+00:00")
    results.add("reference", outputs())
    results.add("other", outputs())
    assert parity.parity(results.folder, reference="reference").verdict == "passed"


# What is printed.


def test_the_json_document_begins_with_the_verdict_and_holds_no_nan(results: Results) -> None:
    broken = with_pixel(outputs(defective=0), (1, 0, 0), np.nan)
    results.add("reference", broken)
    results.add("other", broken)
    report = parity.parity(results.folder, reference="reference")
    text = json.dumps(report.to_json(), allow_nan=False)
    assert text.startswith('{"verdict": "failed"')
    assert json.loads(text)["pairs"][0]["reference"]["backend"] == "reference"


def test_the_lines_say_what_was_compared_how_near_it_is_and_the_verdict_last(results: Results) -> None:
    given = with_score(outputs(), 4, 2.5009)
    results.add("reference", given)
    results.add("other", with_score(given, 4, 2.49999))
    simulated = Device(device="NPU", runtime={}, options={}, simulated=True)
    results.add("model", with_pixel(given, (0, 0, 0), 3.0), device=simulated)
    results.add("dead", outputs(), status="failed", reason="killed by signal 9")
    text = parity.lines(parity.parity(results.folder, reference="reference"))
    for expected in (
        "other (onnx-fp32, batch 1, 1 threads)",
        "model (SIMULATED, not hardware) (onnx-fp32",
        "≤ 1e-03",
        "✓ 9.1e-04",
        "test/crack/004.png (defective) flips: 2.5009 → 2.49999 at threshold 2.5",
        "not compared: dead failed: killed by signal 9",
        "maps: 1 of 8 images differ by more than 0.001, most test/good/000.png",
    ):
        assert any(expected in line for line in text), expected
    assert text[-1] == "parity failed: 1 of 3 comparisons with reference passed"


def test_levels_that_were_not_measured_are_marked_in_the_lines(results: Results) -> None:
    given = outputs(defective=0)
    bare = tuple(msgspec.structs.replace(image, stages={}) for image in images(given))
    results.add("reference", given, images=bare, evidence=None)
    results.add("other", given, images=bare, evidence=None)
    results.add("other", given, case={"category": "cable"})
    text = "\n".join(parity.lines(parity.parity(results.folder, reference="reference")))
    assert text.count("? –") == 3
    assert "not compared: padim resnet18 on mvtec: other has records of cable" in text
    assert text.endswith("parity not measured: 0 of 1 comparisons with reference passed, 1 could not be made")


def test_one_good_image_that_alone_widens_the_range_is_named(results: Results) -> None:
    wild = outputs()
    scores = wild.scores.copy()
    scores[0] = 40.0
    wide = dataclasses.replace(wild, scores=scores)
    pair = parity.compare(results.folder, results.add("reference", wide), results.add("other", wide))
    (level,) = (level for level in pair.levels if level.name == "scores")
    assert any("alone widens the range of good scores" in message for message in level.messages)
    (plain,) = (
        level
        for level in parity.compare(
            results.folder, results.add("reference", outputs()), results.add("third", outputs())
        ).levels
        if level.name == "scores"
    )
    assert not any("alone widens" in message for message in plain.messages)


def test_an_older_record_of_another_model_file_is_said_to_be_superseded(results: Results) -> None:
    results.add("reference", outputs())
    results.add("other", outputs(), model_sha256="bad", finished="2025-01-01T00:00:00+00:00")
    results.add("other", outputs(), model_sha256="good", finished="2026-01-01T00:00:00+00:00")
    report = parity.parity(results.folder, reference="reference")
    assert any("is superseded" in note for note in report.pairs[0].notes)


def test_records_of_another_detector_supersede_nothing_of_this_one(results: Results) -> None:
    results.add("reference", outputs())
    results.add("other", outputs())
    for day in (1, 2):
        finished = f"2025-01-0{day}T00:00:00+00:00"
        results.add(
            "other", outputs(), detector_sha256="b" * 64, model_sha256=f"{day}" * 64, finished=finished
        )
    pairs = parity.parity(results.folder, reference="reference").pairs
    (pair,) = [pair for pair in pairs if pair.verdict == "passed"]
    assert pair.notes == ()


def test_detectors_in_one_folder_are_compared_each_with_its_own_reference(results: Results) -> None:
    for detector in ("a" * 64, "b" * 64):
        for backend in ("reference", "other"):
            results.add(backend, outputs(), detector_sha256=detector)
    report = parity.parity(results.folder, reference="reference")
    assert [pair.verdict for pair in report.pairs] == ["passed", "passed"]
    assert {pair.detector_sha256 for pair in report.pairs} == {"a" * 64, "b" * 64}
