"""Which records may be compared, and what a comparison holds besides its levels."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import msgspec
import numpy as np
import pytest

from harness import parity
from harness.errors import RecordError
from harness.parity import (
    Verdict,
    compare,
    overall,
)
from harness.records.record import Data
from tests.harness.parity.pairs import (
    failing,
    numbers,
    verdicts,
)
from tests.harness.record_factory import THRESHOLDS, Results, images, outputs


@pytest.mark.parametrize(
    ("verdicts_", "expected"),
    [
        ([], "not measured"),
        (["passed"], "passed"),
        (["passed", "not measured"], "not measured"),
        (["not measured", "failed", "passed"], "failed"),
    ],
)
def test_failed_beats_not_measured_beats_passed(verdicts_: list[Verdict], expected: Verdict) -> None:
    assert overall(verdicts_) == expected


def test_equal_outputs_of_two_backends_pass_on_every_level(results: Results) -> None:
    pair = results.compared(outputs(), outputs())
    assert pair.verdict == "passed"
    assert verdicts(pair) == dict.fromkeys((name for name in parity.LEVELS if name != "tensors"), "passed")
    assert set(pair.left_out) == {"tensors"}
    assert numbers(pair, "scores")["rank_correlation"] == 1.0
    assert (pair.good, pair.defective, pair.flips) == (4, 4, ())


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
def test_records_that_differ_in_detector_or_images_are_refused(
    results: Results, changes: dict[str, Any], reason: str
) -> None:
    pair = results.compared(outputs(), outputs(), **changes)
    assert (pair.verdict, pair.levels) == ("not measured", ())
    assert pair.reason is not None
    assert re.search(reason, pair.reason)


def test_images_without_pixel_digests_do_not_count_as_equal(results: Results) -> None:
    bare = tuple(msgspec.structs.replace(image, stages={}) for image in images(outputs()))
    one = results.add("one", outputs(), images=bare)
    two = results.add("two", outputs(), images=bare, data=OTHER_DATA)
    pair = compare(results.folder, one, two)
    assert pair.verdict == "not measured"
    assert "different test images under the same names" in str(pair.reason)


def test_good_and_defective_images_are_counted(results: Results) -> None:
    base = outputs(good=3, defective=5)
    pair = results.compared(base, base)
    assert (pair.good, pair.defective) == (3, 5)


def test_images_that_differ_only_in_their_encoding_are_compared(results: Results) -> None:
    pair = results.compared(outputs(), outputs(), data=OTHER_DATA)
    assert pair.verdict == "passed"
    assert "the files of the test images or masks differ, the decoded pixels do not" in pair.notes[-1]


def test_different_masks_with_images_that_differ_in_encoding_fail(results: Results) -> None:
    base = outputs()
    masks = base.masks.copy()
    masks[5, 3, 3] = True
    pair = results.compared(base, dataclasses.replace(base, masks=masks), data=OTHER_DATA)
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


def test_altered_evidence_is_an_error(results: Results) -> None:
    reference, other = results.add("reference", outputs()), results.add("other", outputs())
    assert other.evidence is not None
    with (results.folder / other.evidence.file).open("ab") as file:
        file.write(b"\0")
    with pytest.raises(RecordError, match="altered"):
        compare(results.folder, reference, other)


def test_the_five_largest_differences_are_of_scores_and_maps_alike(results: Results) -> None:
    base = outputs()
    scores, maps = base.scores.copy(), base.maps.copy()
    scores[[1, 6]] += [0.05, 0.03]
    maps[[2, 6, 7], 0, 0] += np.array([0.04, 0.01, 0.02], np.float32)
    pair = results.compared(base, dataclasses.replace(base, scores=scores, maps=maps))
    numbers_ = [difference.image[-7:-4] for difference in pair.largest]
    assert numbers_ == ["001", "002", "006", "007", "000"]
    assert pair.largest[2].score == pytest.approx(0.03)
    assert pair.largest[2].map == pytest.approx(0.01, rel=1e-5)
