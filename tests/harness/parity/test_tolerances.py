"""The table of tolerances, and the profile that judges a pair."""

from __future__ import annotations

import dataclasses
import itertools
import json

import pytest

from harness import parity
from harness.contracts import DeviceReport
from harness.parity import (
    PROFILES,
    Limits,
    compare,
)
from harness.parity.tolerances import precision_of, profile_of, search_tolerance
from tests.harness.parity.pairs import (
    level,
    with_score,
)
from tests.harness.record_factory import Results, outputs


@pytest.mark.parametrize("order", [("onnx-fp32", "onnx-int8"), ("onnx-int8", "onnx-fp32")])
def test_the_profile_is_that_of_the_looser_variant_in_either_order(
    results: Results, order: tuple[str, str]
) -> None:
    one, two = (results.add("a", outputs(), case={"variant": name}, model_sha256=name) for name in order)
    assert profile_of(one, two, outputs={}).name == "int8"


def device(**options: str) -> DeviceReport:
    return DeviceReport(device="npu", runtime={}, options=options, simulated=False)


@pytest.mark.parametrize(
    ("variant", "options", "name"),
    [
        ("onnx-fp32", {}, "float32"),
        ("onnx-fp32-head", {}, "float32"),
        ("onnx-fp16", {}, "float16"),
        ("onnx-bf16", {}, "bfloat16"),
        ("onnx-int8", {}, "int8"),
        ("om-force_fp16-ascend310-cann7.0-b1", {}, "float16"),
        ("om-force_fp16-ascend310-cann7.0-gears1-4-aipp-simulated", {}, "float16"),
        ("om-must_keep_origin_dtype-ascend310-cann7.0-b1", {}, "float32"),
        ("om-must_keep_origin_dtype-ascend310-cann7.0-b1-out16", {"output_type": "FP16"}, "float16"),
        ("om-force_fp32-ascend310-cann7.0-b1", {}, "float16"),
        ("om-allow_mix_precision_bf16-x-cann8.0-b1", {}, "bfloat16"),
        ("mindir-fp32", {"precision_mode": "enforce_fp16"}, "float16"),
        ("mindir-fp32", {"precision_mode": "enforce_origin"}, "float32"),
        (
            "mindir-fp32",
            {"precision_mode": "default of MindSpore Lite 1 (float16), cannot be asked for"},
            "float16",
        ),
        ("onnx-fp32", {"precision_mode_v2": "fp16"}, "float16"),
        ("onnx-fp32", {"precision_mode_v2": "origin"}, "float32"),
        ("onnx-fp32", {"precision": "f32"}, "float32"),
        ("onnx-fp32", {"precision": "bf16", "precision_asked": "OpenVINO's own choice"}, "bfloat16"),
        ("onnx-fp32", {"precision": "f16"}, "float16"),
        ("onnx-fp32", {"nodes": "fp16"}, "float32"),
        ("mine", {}, "float32"),
        ("enforced-fp16ish", {}, "float32"),
    ],
)
def test_the_precision_is_read_from_variant_and_device(
    results: Results, variant: str, options: dict[str, str], name: str
) -> None:
    record = results.add("other", outputs(), case={"variant": variant}, device=device(**options))
    assert precision_of(record)[0] == name
    assert ("names no precision" in precision_of(record)[1]) == (variant in ("mine", "enforced-fp16ish"))


@pytest.mark.parametrize("side", [0, 1])
def test_the_looser_of_the_two_precisions_judges(results: Results, side: int) -> None:
    variants = ["onnx-fp32", "onnx-fp32"]
    variants[side] = "om-force_fp16-ascend310"
    one, two = (
        results.add(name, outputs(), case={"variant": variant})
        for name, variant in zip(("reference", "other"), variants, strict=True)
    )
    profile = compare(results.folder, one, two).profile
    assert (profile.name, profile.tolerances) == ("float16", PROFILES["float16"])
    assert profile.why == f"{('reference', 'other')[side]}: force_fp16"


HALF = {"variant": "om-force_fp16-ascend310"}


def test_a_float16_pair_shows_the_verdict_by_float32_too(results: Results) -> None:
    results.add("reference", outputs())
    results.add("other", with_score(outputs(), 6, outputs().scores[6] + 1.5e-3), case=HALF)
    report = parity.parity(results.folder, reference="reference")
    (pair,) = report.pairs
    assert (pair.verdict, pair.float32["scores"], pair.float32["maps"]) == ("passed", "failed", "passed")
    text = "\n".join(parity.lines(report))
    assert "tolerances of float16 (other: force_fp16)" in text
    assert "by the tolerances of float32: failed (scores)" in text
    document = json.loads(json.dumps(report.to_json(), allow_nan=False))["pairs"][0]
    assert document["profile"]["name"] == "float16"
    assert document["float32"]["scores"] == "failed"


def test_a_float32_pair_has_no_second_verdict(results: Results) -> None:
    pair = results.compared(outputs(), outputs())
    assert (pair.profile.name, pair.float32) == ("float32", {})


def test_a_requested_profile_judges_and_the_other_is_named(results: Results) -> None:
    one = results.add("reference", outputs())
    two = results.add("other", with_score(outputs(), 6, outputs().scores[6] + 1.5e-3), case=HALF)
    strict = compare(results.folder, one, two, limits=Limits(profile="float32"))
    assert (strict.verdict, strict.float32) == ("failed", {})
    assert strict.profile.why == "as requested; the records name float16 (other: force_fp16)"
    assert compare(results.folder, one, two, limits=Limits(profile="float16")).profile.why == "as requested"


@pytest.mark.parametrize("name", ["float32", "float16", "bfloat16", "int8"])
@pytest.mark.parametrize(("share", "verdict"), [(0.99, "passed"), (1.01, "failed")])
def test_a_profile_sets_the_tolerance_of_scores(
    results: Results, name: str, share: float, verdict: str
) -> None:
    moved = with_score(outputs(), 6, outputs().scores[6] + share * PROFILES[name].score)
    one, two = results.add("reference", outputs()), results.add("other", moved)
    assert level(compare(results.folder, one, two, limits=Limits(profile=name)), "scores").verdict == verdict


def test_profiles_grow_looser_in_every_tolerance() -> None:
    rows = [dataclasses.astuple(profile) for profile in PROFILES.values()]
    for tighter, looser in itertools.pairwise(rows):
        assert all(one <= two for one, two in zip(tighter, looser, strict=True) if isinstance(one, float))


def test_inside_a_graph_only_fp32_is_held_to_float32s_tolerance_and_all_others_to_float16s() -> None:
    precisions = ("fp32", "fp16", "force_fp16", "bf16", "int8")
    assert [search_tolerance(name) for name in precisions] == [1e-4, 1e-2, 1e-2, 1e-2, 1e-2]
