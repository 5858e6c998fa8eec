"""Several variants of one backend, compared with one of them."""

from __future__ import annotations

import dataclasses
from typing import Any

import msgspec
import numpy as np
import pytest

from harness import parity
from harness.parity import text
from harness.parity.tolerances import profile_of
from harness.records.record import Data, Source
from tests.harness.record_factory import Results, images, outputs


def three(results: Results) -> None:
    given = outputs()
    for variant in ("onnx-fp32", "onnx-fp16", "onnx-int8"):
        results.add("onnxruntime-cpu", given, case={"variant": variant}, model_sha256=variant)
    results.add("mindspore-cpu", given, case={"variant": "mindir-fp32"})


def test_a_reference_with_a_variant_is_compared_with_the_backends_others_too(results: Results) -> None:
    three(results)
    report = parity.parity(results.folder, reference="onnxruntime-cpu:onnx-fp32")
    assert [(pair.other.runner, pair.other.variant, pair.profile.name) for pair in report.pairs] == [
        ("mindspore-cpu", "mindir-fp32", "float32"),
        ("onnxruntime-cpu", "onnx-fp16", "float16"),
        ("onnxruntime-cpu", "onnx-int8", "int8"),
    ]
    assert {pair.reference.variant for pair in report.pairs} == {"onnx-fp32"}
    assert (report.verdict, report.reasons) == ("passed", ())


def test_a_reference_in_several_precisions_has_to_be_named(results: Results) -> None:
    three(results)
    report = parity.parity(results.folder, reference="onnxruntime-cpu")
    assert (report.verdict, report.pairs) == ("not measured", ())
    (reason,) = report.reasons
    assert "several precisions (onnx-fp32, onnx-fp16, onnx-int8)" in reason
    assert "--reference onnxruntime-cpu:onnx-fp32" in reason


def test_a_reference_without_a_variant_is_compared_with_all_of_other_backends(results: Results) -> None:
    three(results)
    report = parity.parity(results.folder, reference="mindspore-cpu")
    assert [pair.other.variant for pair in report.pairs] == ["onnx-fp16", "onnx-fp32", "onnx-int8"]


def test_a_precision_of_another_detector_leaves_no_doubt(results: Results) -> None:
    given = outputs()
    results.add("onnxruntime-cpu", given, case={"variant": "onnx-int8"}, detector_sha256="an older one")
    results.add("onnxruntime-cpu", given, case={"variant": "onnx-fp32"})
    results.add("mindspore-cpu", given, case={"variant": "mindir-fp32"})
    (pair,) = parity.parity(results.folder, reference="onnxruntime-cpu").pairs
    assert pair.reference.variant == "onnx-fp32"


def test_variants_of_one_backend_alone_are_compared_where_one_is_named(results: Results) -> None:
    for variant in ("onnx-fp32", "onnx-int8"):
        results.add("onnxruntime-cpu", outputs(), case={"variant": variant})
    (reason,) = parity.parity(results.folder, reference="onnxruntime-cpu").reasons
    assert (
        "or name one of its variants (onnx-fp32, onnx-int8): --reference onnxruntime-cpu:onnx-fp32" in reason
    )


def test_a_variant_that_lacks_a_category_is_noticed_beside_another_that_has_it(results: Results) -> None:
    for category in ("bottle", "cable"):
        for backend in ("reference", "board"):
            results.add(backend, outputs(), case={"category": category})
    results.add("board", outputs(), case={"variant": "om-fp16"})
    report = parity.parity(results.folder, reference="reference")
    assert report.verdict == "not measured"
    assert "reference has records of cable and board:om-fp16 has none" in report.reasons[0]


@pytest.mark.parametrize(
    "newer",
    [
        {"detector_sha256": "another"},
        {"detector_sha256": "another", "status": "failed", "reason": "why", "data": None},
        {
            "data": Data(fingerprint="other images", good=4, defective=4, masks_cut=0, masks_emptied=0),
            "images": tuple(msgspec.structs.replace(image, stages={}) for image in images(outputs())),
        },
    ],
)
def test_agreement_with_an_older_detector_is_not_agreement_with_the_newest(
    results: Results, newer: dict[str, Any]
) -> None:
    results.add("reference", outputs(), finished="2025-01-01T00:00:00+00:00")
    results.add("board", outputs(), finished="2025-01-02T00:00:00+00:00")
    assert parity.parity(results.folder, reference="reference").verdict == "passed"
    # Another digest of inputs, as another detector or other data give it.
    results.add("reference", outputs(), finished="2025-01-03T00:00:00+00:00", model_sha256="new", **newer)
    report = parity.parity(results.folder, reference="reference")
    assert [pair.verdict for pair in report.pairs] == ["passed"]
    assert report.verdict == "not measured"
    assert "reference's newest record of bottle is of detector" in report.reasons[0]
    assert report.reasons[0].endswith("and board has no record of these: bench it too")


def test_a_replay_of_one_side_is_no_other_side(results: Results) -> None:
    results.add("board", outputs())
    source = Source(record_sha256="1" * 64, made_by="board")
    results.add("replay", outputs(), case={"source": "board"}, source=source)
    for reference, other in (("board", "replay (board)"), ("replay (board)", "board")):
        report = parity.parity(results.folder, reference=reference)
        assert (report.verdict, report.pairs) == ("not measured", ())
        assert report.reasons[-1] == f"{other} is left out: it and the reference share the outputs of one run"
    results.add("reference", outputs())
    assert parity.parity(results.folder, reference="reference").verdict == "passed"
    report = parity.parity(results.folder, reference="board")
    assert (report.verdict, [pair.other.runner for pair in report.pairs]) == ("passed", ["reference"])
    assert "replay (board) is left out" in report.pairs[0].notes[-1]


def test_several_precisions_of_the_reference_over_the_categories_are_asked_about(results: Results) -> None:
    for category, variant in (("gadget", "onnx-fp32"), ("widget", "onnx-fp16")):
        results.add("reference", outputs(), case={"category": category, "variant": variant})
        results.add("board", outputs(), case={"category": category})
    report = parity.parity(results.folder, reference="reference")
    assert report.verdict == "not measured"
    assert "records of gadget, widget in several precisions (onnx-fp32, onnx-fp16)" in report.reasons[0]


@pytest.mark.parametrize("variant", ["onnx-fp32", "onnx-fp16", "onnx-int8"])
@pytest.mark.parametrize(("above", "verdict"), [(0.0009, "passed"), (0.0011, "failed")])
def test_no_precision_excuses_a_flip_further_off_than_float32s_tolerance(
    results: Results, variant: str, above: float, verdict: str
) -> None:
    given = outputs()  # of a range of 1, threshold 2.5
    given.scores[4] = 2.5 + above
    moved = dataclasses.replace(given, scores=given.scores.copy())
    moved.scores[4] = 2.4999
    results.add("reference", given)
    results.add("board", moved, case={"variant": variant})
    (pair,) = parity.parity(results.folder, reference="reference").pairs
    (decisions,) = [level for level in pair.levels if level.name == "decisions"]
    assert (decisions.verdict, decisions.numbers["flips"]) == (verdict, 1)


def test_a_variant_nobody_benched_is_not_measured_and_the_others_are_listed(results: Results) -> None:
    three(results)
    report = parity.parity(results.folder, reference="onnxruntime-cpu:onnx-fp64")
    assert report.verdict == "not measured"
    assert "no record of the reference onnxruntime-cpu:onnx-fp64" in report.reasons[0]
    assert "onnxruntime-cpu:onnx-int8" in report.reasons[0]


def test_a_variant_that_lacks_a_category_keeps_parity_from_passing(results: Results) -> None:
    three(results)
    for variant in ("onnx-fp32", "onnx-fp16"):
        results.add(
            "onnxruntime-cpu", outputs(), case={"variant": variant, "category": "cable"}, model_sha256=variant
        )
    reasons = parity.parity(results.folder, reference="onnxruntime-cpu:onnx-fp32").reasons
    assert any("onnxruntime-cpu:onnx-int8 has none" in reason and "cable" in reason for reason in reasons)


@pytest.mark.parametrize("order", [("onnx-fp32", "onnx-int8"), ("onnx-int8", "onnx-fp32")])
def test_the_profile_is_of_the_looser_variant_whichever_side_it_is_on(
    results: Results, order: tuple[str, str]
) -> None:
    one, two = (results.add("a", outputs(), case={"variant": name}, model_sha256=name) for name in order)
    assert profile_of(one, two, outputs={}).name == "int8"


def test_a_source_with_a_colon_is_no_variant(results: Results) -> None:
    results.add("board", outputs(), case={"source": "run: two"})
    results.add("other", outputs())
    report = parity.parity(results.folder, reference="board (run: two)")
    assert [pair.other.runner for pair in report.pairs] == ["other"]


def test_messages_tell_the_variants_of_one_backend_apart(results: Results) -> None:
    given = outputs()
    results.add("a", given, case={"variant": "onnx-fp32"})
    wrong = np.where(given.maps > 0.5, np.nan, given.maps).astype(np.float32)
    results.add(
        "a",
        outputs().__class__(scores=given.scores, labels=given.labels, maps=wrong, masks=given.masks),
        case={"variant": "onnx-int8"},
        model_sha256="f" * 64,
    )
    lines = text.lines(parity.parity(results.folder, reference="a:onnx-fp32"))
    assert any("a (onnx-int8)" in line and "NaN" in line for line in lines)
