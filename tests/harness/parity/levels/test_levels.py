"""Profiles, structural similarity, how far frames differ, and intervals with a margin."""

from __future__ import annotations

import dataclasses
import itertools
import json
from pathlib import Path

import msgspec
import numpy as np
import pytest

from harness import parity
from harness.cli import main
from harness.metrics.intervals import Interval, NoInterval
from harness.parity import PROFILES, LevelReport, Limits, MetricChange, PairReport, compare
from harness.parity.levels.maps import WINDOW, structural_similarity
from harness.parity.tolerances import precision_of
from harness.records import record
from harness.records.record import Device, EvidenceArrays, Record
from harness.types import AnyArray
from tests.harness.record_factory import Outputs, Results, frames, outputs


def level(pair: PairReport, name: str) -> LevelReport:
    return next(found for found in pair.levels if found.name == name)


def change(pair: PairReport, name: str) -> MetricChange:
    return next(found for found in pair.metrics if found.name == name)


def scored(given: Outputs, index: int, score: float) -> Outputs:
    scores = given.scores.copy()
    scores[index] = score
    return dataclasses.replace(given, scores=scores)


# Profiles.


def device(**options: str) -> Device:
    return Device(device="npu", runtime={}, options=options, simulated=False)


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
def test_the_precision_is_what_variant_and_device_say(
    results: Results, variant: str, options: dict[str, str], name: str
) -> None:
    made = results.add("other", outputs(), case={"variant": variant}, device=device(**options))
    assert precision_of(made)[0] == name
    assert ("names no precision" in precision_of(made)[1]) == (variant in ("mine", "enforced-fp16ish"))


@pytest.mark.parametrize("side", [0, 1])
def test_the_looser_precision_of_the_two_sides_is_taken(results: Results, side: int) -> None:
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


def test_a_float16_pair_says_what_float32_would_have_said(results: Results) -> None:
    results.add("reference", outputs())
    results.add("other", scored(outputs(), 6, outputs().scores[6] + 1.5e-3), case=HALF)
    report = parity.parity(results.folder, reference="reference")
    (pair,) = report.pairs
    assert (pair.verdict, pair.float32["scores"], pair.float32["maps"]) == ("passed", "failed", "passed")
    text = "\n".join(parity.lines(report))
    assert "tolerances of float16 (other: force_fp16)" in text
    assert "by the tolerances of float32: failed (scores)" in text
    document = json.loads(json.dumps(report.to_json(), allow_nan=False))["pairs"][0]
    assert document["profile"]["name"] == "float16"
    assert document["float32"]["scores"] == "failed"


def test_a_float32_pair_has_nothing_else_to_say(results: Results) -> None:
    pair = results.compared(outputs(), outputs())
    assert (pair.profile.name, pair.float32) == ("float32", {})


def test_a_profile_asked_for_is_taken_and_the_other_named(results: Results) -> None:
    one = results.add("reference", outputs())
    two = results.add("other", scored(outputs(), 6, outputs().scores[6] + 1.5e-3), case=HALF)
    strict = compare(results.folder, one, two, limits=Limits(profile="float32"))
    assert (strict.verdict, strict.float32) == ("failed", {})
    assert strict.profile.why == "as requested; the records name float16 (other: force_fp16)"
    assert compare(results.folder, one, two, limits=Limits(profile="float16")).profile.why == "as requested"


@pytest.mark.parametrize("name", ["float32", "float16", "bfloat16", "int8"])
@pytest.mark.parametrize(("share", "verdict"), [(0.99, "passed"), (1.01, "failed")])
def test_a_profile_sets_the_tolerance_of_scores(
    results: Results, name: str, share: float, verdict: str
) -> None:
    moved = scored(outputs(), 6, outputs().scores[6] + share * PROFILES[name].score)
    one, two = results.add("reference", outputs()), results.add("other", moved)
    assert level(compare(results.folder, one, two, limits=Limits(profile=name)), "scores").verdict == verdict


def test_profiles_grow_looser_in_every_tolerance() -> None:
    rows = [dataclasses.astuple(profile) for profile in PROFILES.values()]
    for tighter, looser in itertools.pairwise(rows):
        assert all(one <= two for one, two in zip(tighter, looser, strict=True) if isinstance(one, float))


# Structural similarity.


def slow_similarity(one: AnyArray, two: AnyArray) -> float:
    """Every window of Wang et al. 2004 on its own; both maps are scaled to [0, 1] already."""
    offsets = np.arange(WINDOW) - WINDOW // 2
    gauss = np.exp(-(offsets**2) / (2 * 1.5**2))
    weights = np.outer(gauss, gauss) / gauss.sum() ** 2
    found = []
    for row in range(one.shape[0] - WINDOW + 1):
        for column in range(one.shape[1] - WINDOW + 1):
            a, b = (values[row : row + WINDOW, column : column + WINDOW] for values in (one, two))
            mean_a, mean_b = (weights * a).sum(), (weights * b).sum()
            var_a, var_b = (weights * (a - mean_a) ** 2).sum(), (weights * (b - mean_b) ** 2).sum()
            both = (weights * (a - mean_a) * (b - mean_b)).sum()
            top = (2 * mean_a * mean_b + 1e-4) * (2 * both + 9e-4)
            found.append(top / ((mean_a**2 + mean_b**2 + 1e-4) * (var_a + var_b + 9e-4)))
    return float(np.mean(found))


def test_structural_similarity_is_that_of_every_window_on_its_own() -> None:
    random = np.random.default_rng(0)
    one = random.random((2, 14, 12)).astype(np.float32) * 8 - 3
    two = one + random.normal(size=one.shape).astype(np.float32)
    found = structural_similarity(one, two)
    assert found is not None
    low, high = float(one.min()), float(one.max())
    for index in range(2):
        scaled = ((values[index].astype(np.float64) - low) / (high - low) for values in (one, two))
        assert found[index] == pytest.approx(slow_similarity(*scaled), abs=1e-9)


def test_structural_similarity_is_1_of_equal_maps_and_does_not_depend_on_the_unit() -> None:
    random = np.random.default_rng(1)
    one, two = random.random((2, 3, 16, 16)).astype(np.float32)
    assert structural_similarity(one, one) == pytest.approx(np.ones(3))
    plain, scaled = structural_similarity(one, two), structural_similarity(one * 64 - 32, two * 64 - 32)
    assert plain is not None
    assert scaled == pytest.approx(plain, abs=1e-5)
    assert (plain < 0.5).all()


@pytest.mark.parametrize("maps", [np.zeros((2, 16, 16), np.float32), np.eye(10, dtype=np.float32)[None]])
def test_structural_similarity_of_flat_or_small_maps_is_undefined(maps: AnyArray) -> None:
    assert structural_similarity(maps, maps) is None


def test_the_level_of_maps_names_the_image_of_the_lowest_similarity(results: Results) -> None:
    given = outputs(side=16)
    maps = given.maps.copy()
    maps[5] = maps[5][::-1]
    found = level(results.compared(given, dataclasses.replace(given, maps=maps)), "maps")
    assert found.images["lowest_similarity"] == "test/crack/005.png"
    lowest = found.numbers["lowest_similarity"]
    assert lowest is not None
    assert lowest < 0.5
    assert "lowest_similarity" not in level(results.compared(outputs(), outputs()), "maps").numbers


# By how much the inputs differ.


def with_frames(results: Results, made: Record, changed: AnyArray, *stages: str) -> Record:
    """The record with other frames, on those images whose frame changes also under other digests."""
    differ = (changed != frames(outputs())).reshape(len(changed), -1).any(axis=1)
    arrays = record.read_evidence(results.folder, made)
    assert arrays is not None
    arrays = EvidenceArrays(maps=arrays.maps, masks=arrays.masks, frames=changed)
    images = tuple(
        msgspec.structs.replace(image, stages=image.stages | dict.fromkeys(stages if apart else (), "x"))
        for image, apart in zip(made.images, differ, strict=True)
    )
    evidence = record.write_evidence(results.folder, made.case, made.inputs_sha256, arrays)
    return msgspec.structs.replace(made, images=images, evidence=evidence)


def test_frames_that_differ_say_by_how_much(results: Results) -> None:
    one, two = results.add("reference", outputs()), results.add("other", outputs())
    changed = frames(outputs())
    changed[1, 0, 0, 0] += 30
    changed[1, 0, 1, :] -= 3
    changed[4, :, :, 2] += 1
    other = with_frames(results, two, changed, "frame", "input")
    found = level(compare(results.folder, one, other), "inputs")
    assert found.verdict == "failed"
    assert found.numbers["largest_grey_difference"] == 30
    assert found.numbers["mean_grey_difference"] == pytest.approx((30 + 9 + 36) / (2 * 36 * 3))
    assert found.numbers["share_of_pixels"] == pytest.approx((2 + 36) / (2 * 36))
    assert found.images["largest_grey_difference"] == "test/good/001.png"
    assert "the frames differ by 30 of 255 grey values at most" in "\n".join(found.messages)


def test_darker_frames_differ_as_much_as_brighter_ones(results: Results) -> None:
    one, two = results.add("reference", outputs()), results.add("other", outputs())
    changed = frames(outputs())
    changed[0] = 0  # from 100
    other = with_frames(results, two, changed, "frame", "input")
    assert level(compare(results.folder, one, other), "inputs").numbers["largest_grey_difference"] == 100


def test_where_only_the_input_differs_it_is_said_that_nothing_tells_by_how_much(results: Results) -> None:
    one, two = results.add("reference", outputs()), results.add("other", outputs())
    images = tuple(
        msgspec.structs.replace(image, stages=image.stages | {"input": "x"}) for image in two.images
    )
    found = level(compare(results.folder, one, msgspec.structs.replace(two, images=images)), "inputs")
    assert "by how much is unknown: the evidence holds frames, and not" in "\n".join(found.messages)
    assert "largest_grey_difference" not in found.numbers


def test_frames_that_are_missing_are_said_to_be(results: Results) -> None:
    one, two = results.add("reference", outputs()), results.add("other", outputs())
    changed = frames(outputs())
    changed[0] += 1
    other = with_frames(results, two, changed, "frame", "input")
    found = level(compare(results.folder, one, msgspec.structs.replace(other, evidence=None)), "inputs")
    assert "is unknown: the frames in the evidence are missing" in "\n".join(found.messages)


def test_equal_inputs_say_nothing_of_how_much(results: Results) -> None:
    assert level(results.compared(outputs(), outputs()), "inputs").messages == ()


# Intervals and the margin.


def noisy(seed: int, shift: float, count: int = 60) -> Outputs:
    """Overlapping scores and maps of `count` good and `count` defective images."""
    random = np.random.default_rng(seed)
    given = outputs(good=count, defective=count)
    scores = (
        random.normal(size=2 * count) + given.labels * 2 + shift * given.labels * random.random(2 * count)
    )
    return dataclasses.replace(given, scores=scores, maps=given.maps + given.masks * np.float32(0.5 + shift))


def test_without_a_margin_a_pair_of_equal_scores_has_its_bound_and_no_verdict(results: Results) -> None:
    pair = results.compared(outputs(), outputs())
    image = change(pair, "image_auroc")
    assert isinstance(image.interval, Interval)
    assert image.interval.low < 0 < image.interval.high
    assert (image.non_inferior, change(pair, "aupro").interval) == (None, None)


def test_pixel_metrics_that_change_have_intervals(results: Results) -> None:
    pair = results.compared(noisy(0, 0.1), noisy(0, 0.0))
    for name in ("pixel_auroc", "aupro"):
        found = change(pair, name)
        assert isinstance(found.interval, Interval)
        assert found.interval.estimate == pytest.approx(found.other - found.reference, abs=1e-12)
        assert found.interval.high < 0


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
    assert {found.non_inferior for found in pair.metrics} == {"passed"}
    assert level(pair, "metrics").verdict == "failed"


@pytest.mark.parametrize("how", ["evidence", "shape", "masks", "nan"])
def test_without_two_maps_to_draw_from_a_margin_is_not_measured(results: Results, how: str) -> None:
    given = outputs()
    one, two = results.add("reference", given), results.add("other", given)
    if how == "evidence":
        two = msgspec.structs.replace(two, evidence=None)
    else:
        maps, masks = given.maps.copy(), given.masks.copy()
        if how == "shape":
            maps, masks = maps[:, 1:], masks[:, 1:]
        elif how == "masks":
            masks[5, 3, 3] = True
        else:
            maps[0, 0, 0] = np.nan
        arrays = EvidenceArrays(maps=maps, masks=masks, frames=frames(given)[:, : maps.shape[1]])
        evidence = record.write_evidence(results.folder, two.case, two.inputs_sha256, arrays)
        two = msgspec.structs.replace(two, evidence=evidence)
    pair = compare(results.folder, one, two, limits=Limits(margin=0.5))
    found = change(pair, "aupro")
    assert isinstance(found.interval, NoInterval)
    assert found.non_inferior == "not measured"
    assert pair.verdict != "passed"
    assert "no interval: " in "\n".join(level(pair, "metrics").messages)


def test_the_lines_tell_the_interval_of_what_changes(results: Results) -> None:
    results.add("reference", noisy(4, 0.1))
    results.add("other", noisy(4, 0.0))
    text = "\n".join(parity.lines(parity.parity(results.folder, reference="reference")))
    assert "pixel AUROC 0." in text
    assert "95% interval -" in text
    assert "percentile bootstrap of 2000 resamples" in text


# The command line.


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--margin", "1"], "not a number from 0 to below 1"),
        (["--margin", "nan"], "not a number"),
        (["--margin", "-0.1"], "not a number"),
        (["--tolerance", "1e-3"], "not OUTPUT=SHARE"),
        (["--tolerance", "a=inf"], "not a number"),
        (["--tolerance", "a=x"], "not a number"),
        (["--tolerance", "a=0.1", "--tolerance", "a=0.2"], "names an output twice"),
        (["--tolerance", "a=0.1"], "no outputs were compared"),
        (["--profile", "fp16"], "invalid choice"),
        (["--sign", "page.pdf"], "ends in .html or .md"),
    ],
)
def test_wrong_use_is_refused_with_its_reason(
    results: Results, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    results.compared(outputs(), outputs())
    asked = ["parity", "--results", str(results.folder), "--reference", "reference", *arguments]
    try:
        code = main(asked)
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else -1
    assert code == 2
    assert words in capsys.readouterr().err


def test_profile_and_margin_reach_the_report_from_the_command_line(
    results: Results, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results.compared(outputs(), scored(outputs(), 6, outputs().scores[6] + 1.5e-3))
    asked = ["parity", "--results", str(results.folder), "--reference", "reference", "--json"]
    assert main(asked) == 1
    capsys.readouterr()
    page = tmp_path / "page.md"
    assert main([*asked, "--profile", "float16", "--sign", str(page)]) == 0
    assert json.loads(capsys.readouterr().out)["pairs"][0]["profile"]["name"] == "float16"
    assert page.read_text().startswith("# Parity passed\n")
    assert main([*asked, "--profile", "float16", "--margin", "0.01"]) == 3
    assert json.loads(capsys.readouterr().out)["pairs"][0]["metrics"][0]["non_inferior"] == "not measured"
