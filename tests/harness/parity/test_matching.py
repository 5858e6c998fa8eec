"""Which records are paired, and which gaps keep parity from passing."""

from __future__ import annotations

import re
from typing import Any

import msgspec
import pytest

from harness import parity
from harness.errors import RecordError
from harness.records.record import Data, Source
from tests.harness.parity.pairs import (
    with_score,
)
from tests.harness.record_factory import Results, images, outputs


def test_records_of_one_backend_with_different_sources_are_compared(results: Results) -> None:
    for source in (None, "inputs 12", "inputs 34"):
        results.add("onnxruntime-cpu", outputs(), case={"source": source})
    report = parity.parity(results.folder, reference="onnxruntime-cpu")
    names = [pair.other.runner for pair in report.pairs]
    assert names == ["onnxruntime-cpu (inputs 12)", "onnxruntime-cpu (inputs 34)"]


def test_every_other_backend_is_compared_with_the_reference_of_its_category(results: Results) -> None:
    for category in ("bottle", "cable"):
        for backend in ("reference", "a", "b"):
            results.add(backend, outputs(), case={"category": category})
    report = parity.parity(results.folder, reference="reference")
    compared = {(pair.other.category, pair.other.backend, pair.reference.category) for pair in report.pairs}
    assert compared == {
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
def test_a_category_of_only_one_backend_is_listed_and_keeps_parity_from_passing(
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


def test_different_detectors_and_data_sets_are_not_compared_with_each_other(results: Results) -> None:
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


def test_a_reference_of_the_same_setting_is_preferred_to_a_newer_one(results: Results) -> None:
    results.add("reference", outputs(), case={"batch_size": 4}, finished="2025-01-01T00:00:01+00:00")
    results.add("reference", outputs(), case={"batch_size": 1}, finished="2025-01-02T00:00:01+00:00")
    results.add("other", outputs(), case={"batch_size": 4})
    (pair,) = parity.parity(results.folder, reference="reference").pairs
    assert (pair.reference.batch_size, pair.notes) == (4, ())


def test_without_the_same_setting_the_newest_measured_reference_is_used_and_named(results: Results) -> None:
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


def test_an_older_record_of_another_model_file_is_reported_as_superseded(results: Results) -> None:
    results.add("reference", outputs())
    results.add("other", outputs(), model_sha256="bad", finished="2025-01-01T00:00:00+00:00")
    results.add("other", outputs(), model_sha256="good", finished="2026-01-01T00:00:00+00:00")
    report = parity.parity(results.folder, reference="reference")
    assert any("is superseded" in note for note in report.pairs[0].notes)


def test_records_of_another_detector_do_not_supersede_this_ones(results: Results) -> None:
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


def three(results: Results) -> None:
    base = outputs()
    for variant in ("onnx-fp32", "onnx-fp16", "onnx-int8"):
        results.add("onnxruntime-cpu", base, case={"variant": variant}, model_sha256=variant)
    results.add("mindspore-cpu", base, case={"variant": "mindir-fp32"})


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


def test_a_precision_of_another_detector_is_not_ambiguous(results: Results) -> None:
    base = outputs()
    results.add("onnxruntime-cpu", base, case={"variant": "onnx-int8"}, detector_sha256="an older one")
    results.add("onnxruntime-cpu", base, case={"variant": "onnx-fp32"})
    results.add("mindspore-cpu", base, case={"variant": "mindir-fp32"})
    (pair,) = parity.parity(results.folder, reference="onnxruntime-cpu").pairs
    assert pair.reference.variant == "onnx-fp32"


def test_variants_of_one_backend_alone_are_compared_if_one_is_named(results: Results) -> None:
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
    # Another model, so that the digest of the case's inputs changes as with another detector or other data.
    results.add("reference", outputs(), finished="2025-01-03T00:00:00+00:00", model_sha256="new", **newer)
    report = parity.parity(results.folder, reference="reference")
    assert [pair.verdict for pair in report.pairs] == ["passed"]
    assert report.verdict == "not measured"
    assert "reference's newest record of bottle is of detector" in report.reasons[0]
    assert report.reasons[0].endswith("and board has no record of these: bench it too")


def test_a_replay_of_the_reference_is_not_a_candidate(results: Results) -> None:
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


def test_a_reference_in_several_precisions_over_the_categories_has_to_be_named(results: Results) -> None:
    for category, variant in (("gadget", "onnx-fp32"), ("widget", "onnx-fp16")):
        results.add("reference", outputs(), case={"category": category, "variant": variant})
        results.add("board", outputs(), case={"category": category})
    report = parity.parity(results.folder, reference="reference")
    assert report.verdict == "not measured"
    assert "records of gadget, widget in several precisions (onnx-fp32, onnx-fp16)" in report.reasons[0]


def test_a_variant_without_records_is_not_measured_and_the_others_are_listed(results: Results) -> None:
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


def test_a_source_with_a_colon_is_not_a_variant(results: Results) -> None:
    results.add("board", outputs(), case={"source": "run: two"})
    results.add("other", outputs())
    report = parity.parity(results.folder, reference="board (run: two)")
    assert [pair.other.runner for pair in report.pairs] == ["other"]
