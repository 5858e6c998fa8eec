"""The level of inputs."""

from __future__ import annotations

import dataclasses

import msgspec
import pytest

from harness.parity import (
    compare,
)
from harness.records import record
from harness.records.record import EvidenceArrays, Record
from harness.types import AnyArray
from tests.harness.parity.pairs import (
    failing,
    level,
    messages,
    verdicts,
    with_stages,
)
from tests.harness.record_factory import Results, frames, images, outputs


def test_inputs_that_differ_fail_and_name_the_first_difference_of_each_image(results: Results) -> None:
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
def test_the_input_alone_decides_if_a_record_lacks_the_digests_before_it(
    results: Results, digest: str, verdict: str
) -> None:
    base = list(images(outputs()))
    base[3] = msgspec.structs.replace(base[3], stages={"input": digest})
    reference, other = (
        results.add("reference", outputs()),
        results.add("other", outputs(), images=tuple(base)),
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
def test_the_frame_decides_if_one_network_does_more_of_the_preprocessing(
    results: Results, stages: dict[str, str], verdict: str
) -> None:
    reference, other = results.add("reference", outputs()), results.add("other", outputs())
    reference = msgspec.structs.replace(reference, input_stage="layout")
    other = with_stages(msgspec.structs.replace(other, input_stage="crop"), dict.fromkeys(range(8), stages))
    pair = compare(results.folder, reference, other)
    assert verdicts(pair)["inputs"] == verdict
    assert "reference preprocesses up to layout and other preprocesses up to crop" in messages(pair, "inputs")


def test_a_network_that_preprocesses_itself_is_not_measured_without_frames(results: Results) -> None:
    bare = tuple(msgspec.structs.replace(image, stages={"input": "x"}) for image in images(outputs()))
    reference, other = results.add("reference", outputs()), results.add("other", outputs(), images=bare)
    reference = msgspec.structs.replace(reference, input_stage="layout")
    pair = compare(results.folder, reference, msgspec.structs.replace(other, input_stage="crop"))
    assert verdicts(pair)["inputs"] == "not measured"
    assert "without the digest of the frame: 8 of 8" in messages(pair, "inputs")


def test_different_ground_truth_fails(results: Results) -> None:
    base = outputs()
    masks = base.masks.copy()
    masks[5, 3, 3] = True
    pair = results.compared(base, dataclasses.replace(base, masks=masks))
    assert "inputs" in failing(pair)
    assert "test/crack/005.png" in messages(pair, "inputs")


def with_frames(results: Results, base: Record, changed: AnyArray, *stages: str) -> Record:
    """Return the record with other frames; the images whose frame changes also have other digests of `stages`."""
    differ = (changed != frames(outputs())).reshape(len(changed), -1).any(axis=1)
    arrays = record.read_evidence(results.folder, base)
    assert arrays is not None
    arrays = EvidenceArrays(maps=arrays.maps, masks=arrays.masks, frames=changed)
    images = tuple(
        msgspec.structs.replace(image, stages=image.stages | dict.fromkeys(stages if apart else (), "x"))
        for image, apart in zip(base.images, differ, strict=True)
    )
    evidence = record.write_evidence(results.folder, base.case, base.inputs_sha256, arrays)
    return msgspec.structs.replace(base, images=images, evidence=evidence)


def test_the_size_of_a_difference_of_frames_is_reported(results: Results) -> None:
    one, two = results.add("reference", outputs()), results.add("other", outputs())
    changed = frames(outputs())
    changed[1, 0, 0, 0] += 30
    changed[1, 0, 1, :] -= 3
    changed[4, :, :, 2] += 1
    other = with_frames(results, two, changed, "frame", "input")
    report = level(compare(results.folder, one, other), "inputs")
    assert report.verdict == "failed"
    assert report.numbers["largest_grey_difference"] == 30
    assert report.numbers["mean_grey_difference"] == pytest.approx((30 + 9 + 36) / (2 * 36 * 3))
    assert report.numbers["share_of_pixels"] == pytest.approx((2 + 36) / (2 * 36))
    assert report.images["largest_grey_difference"] == "test/good/001.png"
    assert "the frames differ by 30 of 255 grey values at most" in "\n".join(report.messages)


def test_darker_frames_differ_as_much_as_brighter_ones(results: Results) -> None:
    one, two = results.add("reference", outputs()), results.add("other", outputs())
    changed = frames(outputs())
    changed[0] = 0  # from 100
    other = with_frames(results, two, changed, "frame", "input")
    assert level(compare(results.folder, one, other), "inputs").numbers["largest_grey_difference"] == 100


def test_the_size_of_a_difference_of_the_input_alone_is_reported_as_unknown(results: Results) -> None:
    one, two = results.add("reference", outputs()), results.add("other", outputs())
    images = tuple(
        msgspec.structs.replace(image, stages=image.stages | {"input": "x"}) for image in two.images
    )
    report = level(compare(results.folder, one, msgspec.structs.replace(two, images=images)), "inputs")
    assert "by how much is unknown: the evidence holds frames, and not" in "\n".join(report.messages)
    assert "largest_grey_difference" not in report.numbers


def test_missing_frames_are_reported(results: Results) -> None:
    one, two = results.add("reference", outputs()), results.add("other", outputs())
    changed = frames(outputs())
    changed[0] += 1
    other = with_frames(results, two, changed, "frame", "input")
    report = level(compare(results.folder, one, msgspec.structs.replace(other, evidence=None)), "inputs")
    assert "is unknown: the frames in the evidence are missing" in "\n".join(report.messages)


def test_equal_inputs_report_no_size_of_a_difference(results: Results) -> None:
    assert level(results.compared(outputs(), outputs()), "inputs").messages == ()
