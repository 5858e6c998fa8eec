from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from harness import parity, storage
from harness.detector.artifact import TensorSpec, Variant
from harness.errors import HarnessError, RecordError, UsageError
from harness.metrics.differences import relative_difference
from harness.parity import LevelReport, Limits, PairReport, TensorDifference, compare
from harness.records import outputs, record
from harness.records.record import Record, Source, StoredOutputs
from harness.types import AnyArray
from tests.harness.record_factory import Results
from tests.harness.record_factory import outputs as plain

IMAGES = 8


Arrays = dict[str, AnyArray]
NOTHING = Limits()


def keep(
    results: Results,
    base: Record,
    arrays: Arrays,
    *,
    rows: list[int] | None = None,
    contains: tuple[str, ...] = (),
) -> Record:
    """Save outputs beside a record."""
    name = record.outputs_name(base.case, base.inputs_sha256)
    path = results.folder / name
    with path.open("wb") as file:
        writer = outputs.Writer(file, rows or [1] * IMAGES)
        writer.add({output: array.astype(np.float32) for output, array in arrays.items()}, None)
        writer.finish()
    described = Variant(
        id=base.case.variant,
        format="onnx",
        precision="fp32",
        input=TensorSpec(name="image", dtype="float32", shape=(None, 3, 6, 6)),
        input_stage="layout",
        outputs=(),
        files={"model.onnx": base.model_sha256},
        contains=contains,
        agreement={},
    )
    stored = StoredOutputs(file=name, sha256=storage.sha256_of_file(path), variant=described)
    kept_record = msgspec.structs.replace(base, outputs=stored)
    record.write(results.folder, kept_record)
    return kept_record


def pair_of(
    results: Results,
    reference: Arrays | None,
    other: Arrays | None,
    limits: Limits = NOTHING,
    **changes: Any,
) -> PairReport:
    sides = [results.add("reference", plain()), results.add("other", plain(), **changes)]
    for index, arrays in enumerate((reference, other)):
        if arrays is not None:
            sides[index] = keep(results, sides[index], arrays)
    return compare(results.folder, *sides, limits=limits)


def level(pair: PairReport) -> LevelReport:
    return next(report for report in pair.levels if report.name == "tensors")


def only(pair: PairReport) -> TensorDifference:
    (difference,) = pair.tensors
    return difference


def features() -> AnyArray:
    """Return (8, 3) values; the largest is 2, and the sum of the squares is 24."""
    values = np.zeros((IMAGES, 3))
    values[:, 0] = 1
    values[4:, :] = [2, 0, 0]
    values[:4, 1] = -1
    return values


# The numbers.


def test_equal_outputs_need_no_tolerance(results: Results) -> None:
    pair = pair_of(results, {"features": features()}, {"features": features()})
    assert (pair.verdict, level(pair).verdict) == ("passed", "passed")
    assert pair.left_out == {}
    difference = only(pair)
    assert (difference.largest, difference.mean, difference.relative_l2, difference.tolerance_needed) == (
        0,
        0,
        0,
        0,
    )
    assert difference.cosine == pytest.approx(1, abs=1e-15)
    assert difference.values == 24


def test_the_errors_equal_those_computed_by_hand(results: Results) -> None:
    moved = features()
    moved[2, 0] += 0.25  # from 1
    moved[5, 0] -= 0.5  # from 2
    moved[6, 2] += 0.125  # from 0, which has no relative error
    difference = only(pair_of(results, {"features": features()}, {"features": moved}))
    assert (difference.largest, difference.image) == (0.5, "test/crack/005.png")
    assert difference.mean == pytest.approx(0.875 / 24)
    assert difference.largest_relative == pytest.approx(0.25)
    assert difference.mean_relative == pytest.approx(0.5 / 12)  # 12 values are not 0
    squares = 0.25**2 + 0.5**2 + 0.125**2
    assert difference.relative_l2 == pytest.approx((squares / 24) ** 0.5)
    other = 24 + (1.25**2 - 1) + (1.5**2 - 4) + 0.125**2
    assert difference.cosine == pytest.approx((24 + 0.25 - 1) / (24 * other) ** 0.5)
    assert difference.tolerance_needed == pytest.approx(0.25)  # 0.5 of the largest value, 2


def test_the_l2_error_is_the_tolerance_needed_if_one_value_is_huge(results: Results) -> None:
    one = np.ones((IMAGES, 1000))
    one[0, 0] = 100.0
    two = one * 0.9
    two[0, 0] = 100.0
    difference = only(pair_of(results, {"features": one}, {"features": two}))
    assert difference.relative_l2 == difference.tolerance_needed
    assert difference.relative_l2 == pytest.approx((7999 * 0.01 / (7999 + 10000)) ** 0.5, rel=1e-5)


@pytest.mark.parametrize(("change", "verdict"), [(1.98e-4, "passed"), (2.02e-4, "failed")])
def test_an_output_may_change_by_a_ten_thousandth_of_its_largest_value(
    results: Results, change: float, verdict: str
) -> None:
    moved = features()
    moved[0, 2] = change
    pair = pair_of(results, {"features": features()}, {"features": moved})
    assert level(pair).verdict == pair.verdict == verdict
    assert level(pair).tolerance == {"features": 1e-4}
    assert level(pair).numbers["tolerance_needed"] == pytest.approx(change / 2)
    assert any("test/good/000.png" in line for line in level(pair).messages) == (verdict == "failed")


def test_every_output_is_judged_and_the_worst_leads(results: Results) -> None:
    one = {"a": features(), "b": features(), "c": features()}
    two = {"a": features() * 1.5, "b": features(), "c": features() * 1.25}
    report = level(pair_of(results, one, two))
    assert report.verdict == "failed"
    assert [message[0] for message in report.messages] == ["a", "c"]
    assert report.numbers["tolerance_needed"] == pytest.approx(0.5)


def test_images_of_several_rows_are_compared_row_by_row(results: Results) -> None:
    rows = [2, 1, 1, 1, 1, 1, 1, 3]
    one = np.arange(11.0)[:, None]
    two = one.copy()
    two[9] += 1
    sides = [results.add(name, plain()) for name in ("reference", "other")]
    saved = [
        keep(results, side, {"f": array}, rows=rows) for side, array in zip(sides, (one, two), strict=True)
    ]
    assert only(compare(results.folder, *saved)).image == "test/crack/007.png"
    saved[1] = keep(results, sides[1], {"f": one}, rows=rows[::-1])
    pair = compare(results.folder, *saved)
    assert level(pair).verdict == "failed"
    assert "11 rows of 8 images" in level(pair).messages[0]


# Values that are not finite, and outputs that cannot be compared.


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("sides", [1, 2])
def test_a_value_that_is_not_finite_fails_even_if_both_records_agree(
    results: Results, value: float, sides: int
) -> None:
    broken = features()
    broken[3, 1] = value
    pair = pair_of(
        results, {"f": broken if sides == 2 else features()}, {"f": broken}, Limits(profile="int8")
    )
    difference = only(pair)
    assert (level(pair).verdict, pair.verdict) == ("failed", "failed")
    assert difference.not_finite == (sides - 1, 1)
    assert (difference.largest, difference.tolerance_needed, difference.image) == (
        None,
        None,
        "test/good/003.png",
    )
    assert "NaN or infinite" in level(pair).messages[0]
    json.dumps(msgspec.to_builtins(pair), allow_nan=False)


def test_an_output_that_is_all_zero_on_the_reference_passes_only_if_it_is_all_zero(results: Results) -> None:
    nothing = np.zeros((IMAGES, 2))
    assert pair_of(results, {"f": nothing}, {"f": nothing}).verdict == "passed"
    pair = pair_of(results, {"f": nothing}, {"f": nothing + 1e-30}, Limits(profile="int8"))
    assert (level(pair).verdict, only(pair).tolerance_needed) == ("failed", None)
    assert (only(pair).cosine, only(pair).largest_relative) == (None, None)


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"g": features()}, "f .*on reference and g .*on other"),
        ({"f": features(), "g": features()}, "on other"),
        ({"f": features()[:, :2]}, r"f \(3,\) on reference and f \(2,\) on other"),
        ({"f": features()[:, :, None]}, r"f \(3, 1\) on other"),
    ],
)
def test_outputs_of_other_names_or_shapes_fail(results: Results, other: Arrays, words: str) -> None:
    pair = pair_of(results, {"f": features()}, other)
    assert level(pair).verdict == "failed"
    (message,) = level(pair).messages
    assert re.search(words, message)


@pytest.mark.parametrize("lacking", ["reference", "other"])
def test_outputs_saved_for_one_record_alone_are_not_measured_and_count(
    results: Results, lacking: str
) -> None:
    saved = {"f": features()}
    pair = pair_of(results, None if lacking == "reference" else saved, None if lacking == "other" else saved)
    assert (level(pair).verdict, pair.verdict) == ("not measured", "not measured")
    assert level(pair).messages == (
        f"{lacking} saved no outputs, the other record has some: bench it with --save-outputs",
    )


def outputs_path(results: Results, backend: str) -> Path:
    (path,) = (results.folder / "evidence").glob(f"*_{backend}_*.outputs.safetensors")
    return path


@pytest.mark.parametrize("missing", [("reference",), ("other",), ("reference", "other")])
def test_missing_files_of_outputs_are_not_measured_and_count(
    results: Results, missing: tuple[str, ...]
) -> None:
    pair_of(results, {"f": features()}, {"f": features()})
    for backend in missing:
        outputs_path(results, backend).unlink()
    (pair,) = parity.parity(results.folder, reference="reference").pairs
    assert pair.verdict == level(pair).verdict == "not measured"
    assert len(level(pair).messages) == len(missing)


def test_altered_outputs_are_an_error(results: Results) -> None:
    pair_of(results, {"f": features()}, {"f": features()})
    with outputs_path(results, "other").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x7f")
    with pytest.raises(RecordError, match="altered"):
        parity.parity(results.folder, reference="reference")


# Pairs for which the level was not requested.


def test_without_saved_outputs_the_level_is_left_out_with_its_reason(results: Results) -> None:
    pair = pair_of(results, None, None)
    assert pair.verdict == "passed"
    assert "no outputs were saved" in pair.left_out["tensors"]
    text = "\n".join(parity.lines(parity.parity(results.folder, reference="reference")))
    assert "not saved" in text
    assert "tensors: left out and not counted: no outputs" in text


FILES = Source(outputs_sha256="1" * 64)


@pytest.mark.parametrize(
    ("saved", "words"),
    [
        ((True, False), "other replayed saved outputs and saves none"),
        ((False, True), "reference saved no outputs (those of other came as files)"),
        ((False, False), "no outputs were saved"),
    ],
)
def test_outputs_that_came_as_files_do_not_request_the_level(
    results: Results, saved: tuple[bool, bool], words: str
) -> None:
    one, two = ({"f": features()} if is_saved else None for is_saved in saved)
    pair = pair_of(results, one, two, source=FILES)
    assert pair.verdict == "passed"
    assert pair.left_out["tensors"].startswith(words)


def test_outputs_that_came_as_files_are_compared_with_saved_ones(results: Results) -> None:
    pair = pair_of(results, {"f": features()}, {"f": features() * 2}, source=FILES)
    assert level(pair).verdict == "failed"


def test_a_graph_with_its_head_and_one_without_share_no_outputs(results: Results) -> None:
    sides = [results.add(name, plain()) for name in ("reference", "other")]
    saved = [
        keep(results, sides[0], {"f": features()}),
        keep(results, sides[1], {"map": features()}, contains=("head",)),
    ]
    pair = compare(results.folder, *saved)
    assert pair.verdict == "passed"
    assert pair.left_out["tensors"] == "other has the head in its graph, so the networks share no outputs"
    saved[0] = keep(results, sides[0], {"map": features() * 2}, contains=("head",))
    assert level(compare(results.folder, *saved)).verdict == "failed"


# Tolerances of single outputs.


def test_a_tolerance_may_be_set_for_one_output(results: Results) -> None:
    one = {"a": features(), "b": features()}
    two = {"a": features() * 1.01, "b": features() * 1.00005}
    loose, tight = Limits(outputs={"a": 0.02}), Limits(outputs={"a": 0.02, "b": 1e-5})
    assert level(pair_of(results, one, two)).verdict == "failed"
    pair = pair_of(results, one, two, loose)
    assert level(pair).verdict == "passed"
    assert level(pair).tolerance == {"a": 0.02, "b": 1e-4}
    assert pair.float32["tensors"] == "failed"
    report = level(pair_of(results, one, two, tight))
    assert report.verdict == "failed"
    assert report.messages[0].startswith("b needs a tolerance of 5e-05, allowed 1e-05")
    assert report.numbers["tolerance_needed"] == pytest.approx(
        5e-5, rel=1e-2
    )  # 5 times b's tolerance; a needs half of its own


def test_with_a_tolerance_of_zero_only_equal_outputs_pass(results: Results) -> None:
    nothing = Limits(outputs={"f": 0.0})
    assert pair_of(results, {"f": features()}, {"f": features()}, nothing).verdict == "passed"
    assert pair_of(results, {"f": features()}, {"f": features() * 1.000001}, nothing).verdict == "failed"


def test_a_tolerance_for_an_output_that_no_pair_compared_is_refused(results: Results) -> None:
    pair_of(results, {"embedding": features()}, {"embedding": features()})
    with pytest.raises(HarnessError, match="embedding"):
        parity.parity(results.folder, reference="reference", limits=Limits(outputs={"embeding": 1e-3}))
    bare = dataclasses.replace(results, folder=results.folder / "bare")
    pair_of(bare, None, None)
    with pytest.raises(UsageError, match="no outputs were compared"):
        parity.parity(bare.folder, reference="reference", limits=Limits(outputs={"embedding": 1e-3}))


def test_the_tolerance_needed_is_the_relative_difference_of_all_images_together(results: Results) -> None:
    random = np.random.default_rng(3)
    one = random.normal(size=(IMAGES, 50)).astype(np.float32)
    two = one.copy()
    two[3, 7] += np.float32(0.5)
    difference = only(pair_of(results, {"f": one}, {"f": two}))
    assert difference.tolerance_needed == relative_difference(two, expected=one)
    assert difference.relative_l2 is not None
    assert difference.relative_l2 < relative_difference(two, expected=one)


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_the_tolerance_needed_does_not_depend_on_the_unit(results: Results, scale: float) -> None:
    one = np.random.default_rng(1).normal(size=(IMAGES, 50))
    two = one + np.random.default_rng(2).normal(size=one.shape) * 1e-3
    difference = only(pair_of(results, {"f": one * scale}, {"f": two * scale}))
    assert difference.tolerance_needed == pytest.approx(1e-3, rel=0.2)
    assert difference.cosine == pytest.approx(1, abs=1e-5)
