"""Protocols of the original scripts: Pillow's interpolations, and rules for masks."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness import cli, registry, storage
from harness.datasets import read_mask
from harness.detector.preprocess import Decode, Interpolation, Preprocessor, Resize, standard_steps
from harness.parity import compare
from harness.records import record
from harness.run import pipeline, plan
from harness.types import AnyArray, Bool, MaskResize, UInt8
from tests.conftest import Tiny
from tests.harness.record_factory import Results, outputs

RULES: tuple[MaskResize, ...] = ("nearest", "bilinear_truncated", "area_truncated", "dilated")


def noise(*shape: int) -> UInt8:
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def resized(image: UInt8, height: int, width: int, interpolation: Interpolation) -> UInt8:
    steps = (Decode(), Resize(height=height, width=width, interpolation=interpolation))
    frame = Preprocessor(steps, until="resize").frame(image)
    return frame[:, :, 0] if image.ndim == 2 else frame


def mask_of(mask: AnyArray, size: int, crop: int, rule: MaskResize) -> list[list[int]]:
    result, _ = Preprocessor(standard_steps(size, crop)).mask(mask.astype(np.bool_), rule)
    assert result.dtype == np.bool_
    rows: list[list[int]] = result.astype(int).tolist()
    return rows


# --- Pillow's interpolations ------------------------------------------------------------------------------------------


def weights(source: int, target: int, kernel: str) -> AnyArray:
    """Pillow's resampling along one axis as a matrix: the kernel widened by the reduction, cut off, normalised."""
    scale = source / target
    widened = max(scale, 1.0)
    reach = 1.0 if kernel == "pil_bilinear" else 3.0
    centres = (np.arange(target) + 0.5) * scale
    low = np.maximum((centres - reach * widened + 0.5).astype(int), 0)
    high = np.minimum((centres + reach * widened + 0.5).astype(int), source)
    distance = (np.arange(source)[None] + 0.5 - centres[:, None]) / widened
    inside = (np.arange(source) >= low[:, None]) & (np.arange(source) < high[:, None])
    if kernel == "pil_bilinear":
        values = np.maximum(1 - np.abs(distance), 0)
    else:
        values = np.where(np.abs(distance) < 3, np.sinc(distance) * np.sinc(distance / 3), 0)
    values = np.where(inside, values, 0)
    return np.asarray(values / values.sum(axis=1, keepdims=True))


def along(matrix: AnyArray, image: AnyArray, axis: int) -> AnyArray:
    """One pass, in whole grey values."""
    moved = np.moveaxis(np.tensordot(matrix, image.astype(float), (1, axis)), 0, axis)
    return np.asarray(np.floor(moved + 0.5).clip(0, 255))


@pytest.mark.parametrize("kernel", ["pil_bilinear", "pil_lanczos"])
@pytest.mark.parametrize(
    ("source", "target"), [((90, 60), (30, 40)), ((50, 70), (21, 33)), ((20, 30), (40, 45))]
)
@pytest.mark.parametrize("channels", [(), (3,)])
def test_an_image_is_resampled_as_pillow_does_it(
    kernel: Interpolation, source: tuple[int, int], target: tuple[int, int], channels: tuple[int, ...]
) -> None:
    image = noise(*source, *channels)
    rows, columns = (weights(*pair, kernel) for pair in zip(source, target, strict=True))
    by_rows_first = along(columns, along(rows, image, 0), 1)
    by_columns_first = along(rows, along(columns, image, 1), 0)
    result = resized(
        image, *target, kernel
    )  # which comes first depends on the version, and matters where values clip
    assert min(np.abs(result - expected).max() for expected in (by_rows_first, by_columns_first)) <= 1


def test_pillows_bilinear_kernel_widens_with_the_reduction_and_opencvs_does_not() -> None:
    board = (np.indices((224, 224)).sum(axis=0) % 2 * 255).astype(np.uint8)
    assert resized(board, 32, 32, "pil_bilinear").std() < 2
    assert resized(board, 60, 60, "linear").std() > 30


# --- masks ------------------------------------------------------------------------------------------------------------

BLOCK = np.zeros((8, 8))
BLOCK[2:8, 2:8] = 1
"""Lies on the grid of 4 x 4 pixels of two."""


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("nearest", ["0000", "0111", "0111", "0111"]),
        (
            "bilinear_truncated",
            ["0000", "0000", "0011", "0011"],
        ),  # the kernel reaches one pixel beyond the two
        ("area_truncated", ["0000", "0111", "0111", "0111"]),
        ("dilated", ["0000", "0111", "0111", "0111"]),
    ],
)
def test_a_defect_on_the_grid(rule: MaskResize, expected: list[str]) -> None:
    assert mask_of(BLOCK, 4, 4, rule) == [[int(cell) for cell in row] for row in expected]


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("nearest", ["1110", "1110", "1110", "0000"]),
        ("bilinear_truncated", ["0000", "0100", "0000", "0000"]),
        ("area_truncated", ["0000", "0110", "0110", "0000"]),
        ("dilated", ["1110", "1110", "1110", "0000"]),
    ],
)
def test_a_defect_one_pixel_off_the_grid(rule: MaskResize, expected: list[str]) -> None:
    mask = np.zeros((8, 8))
    mask[1:6, 1:6] = 1
    assert mask_of(mask, 4, 4, rule) == [[int(cell) for cell in row] for row in expected]


def test_masks_that_are_not_resized_are_equal_under_every_rule() -> None:
    mask = noise(6, 6) > 127
    assert [mask_of(mask, 6, 6, rule) for rule in RULES] == [mask.astype(int).tolist()] * 4


@settings(deadline=None, max_examples=40)
@given(source=st.integers(9, 40), size=st.integers(4, 9), seed=st.integers(0, 99))
def test_truncated_masks_lie_within_dilated_ones_and_full_masks_stay_full(
    source: int, size: int, seed: int
) -> None:
    blobs = cv2.GaussianBlur(
        np.random.default_rng(seed).random((source, source)).astype(np.float32), (0, 0), 2
    )
    mask: Bool = blobs > 0.5
    ready = Preprocessor(standard_steps(size, size))
    result = {rule: ready.mask(mask, rule)[0] for rule in RULES}
    assert not (result["area_truncated"] & ~result["nearest"]).any()
    assert not (result["bilinear_truncated"] & ~result["dilated"]).any()
    for rule in RULES:
        assert ready.mask(np.ones_like(mask), rule)[0].all()
        assert not ready.mask(np.zeros_like(mask), rule)[0].any()


def test_a_dilated_mask_covers_the_full_image_and_the_others_the_crop() -> None:
    mask = np.zeros((8, 8))
    mask[0, 0] = 1
    assert mask_of(mask, 8, 4, "nearest") == [[0] * 4] * 4
    assert mask_of(mask, 8, 4, "dilated") == [[1, 0, 0, 0], [0] * 4, [0] * 4, [0] * 4]


@pytest.mark.parametrize(
    ("rule", "cut"),
    [("nearest", True), ("bilinear_truncated", True), ("area_truncated", True), ("dilated", False)],
)
def test_pixels_lost_in_a_crop_are_reported(rule: MaskResize, cut: bool) -> None:  # noqa: FBT001 - a table
    mask = np.ones((16, 16), np.bool_)
    assert Preprocessor(standard_steps(8, 4)).mask(mask, rule)[1] == cut


def test_a_mask_without_any_geometry_stays_as_it_is() -> None:
    mask = noise(5, 7) > 127
    for rule in RULES:
        np.testing.assert_array_equal(Preprocessor((Decode(),), until="decode").mask(mask, rule)[0], mask)


# --- records ----------------------------------------------------------------------------------------------------------


def test_the_rule_decides_the_ground_truth_of_the_record(tiny: Tiny, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    masks: dict[str, Bool] = {}
    for rule in RULES:
        (job,) = plan.plan(tiny.request(tmp_path, mask_resize=rule)).jobs
        session = registry.backend("onnxruntime-cpu").open(job.artifact, job.variant, threads=1)
        measured = pipeline.run(job, session, load_ms=0.0, advance=list[int]().append)
        evidence = record.read_evidence(tmp_path, measured)
        assert evidence is not None
        assert measured.case.mask_resize == rule
        masks[rule] = evidence.masks
        ready = Preprocessor(job.artifact.manifest.preprocessing)
        for sample, framed in zip(job.category.test, evidence.masks, strict=True):
            if sample.mask_path is not None:
                np.testing.assert_array_equal(framed, ready.mask(read_mask(sample.mask_path), rule)[0])
    assert not (masks["dilated"] == masks["nearest"]).all()
    assert len(record.latest(record.read_all(tmp_path))) == 4


def test_masks_that_a_rule_empties_are_counted_in_the_table(results: Results) -> None:
    from harness import tables
    from harness.records.record import Data

    data = Data(fingerprint="f", good=4, defective=4, masks_cut=0, masks_emptied=3)
    measured = results.add("ort", outputs(), data=data, case={"mask_resize": "area_truncated"})
    (table,) = tables.tables([measured])
    assert table.rows[0].note == "resizing empties 3 of 4 masks"


def test_records_with_different_mask_rules_have_no_parity(results: Results) -> None:
    pair = results.compared(outputs(), outputs(), case={"mask_resize": "dilated"})
    assert pair.verdict == "not measured"
    assert pair.reason == (
        "different ground truth (mask resize nearest and dilated): bench both with one --mask-resize"
    )


def test_a_suite_and_other_records_of_one_detector_are_not_paired(results: Results) -> None:
    from harness import parity

    results.add("reference", outputs())
    results.add("other", outputs(), case={"suite": "padim"})
    report = parity.parity(results.folder, reference="reference")
    assert report.verdict == "not measured"
    assert report.pairs == ()
    assert any("(suite padim): no record of the reference" in reason for reason in report.reasons)


def test_records_from_before_suites_are_still_read(results: Results) -> None:
    measured = results.add("ort", outputs())
    (path,) = results.folder.glob("*.json")
    document = json.loads(path.read_text())
    for name in ("mask_resize", "suite"):
        del document["case"][name]
    assert not {"fit", "training"} & document.keys()
    del document["record_sha256"]
    path.write_text(json.dumps(document | {"record_sha256": storage.sha256_of_json(document)}))
    assert record.read_all(results.folder) == (measured,)


def test_bench_reads_the_mask_rule_from_the_command_line(tiny: Tiny, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    where = [str(tiny.artifact), "--data", str(tiny.data), "--out", str(tmp_path / "out")]
    arguments = [
        "bench",
        *where,
        "--backend",
        "onnxruntime-cpu",
        "--threads",
        "1",
        "--mask-resize",
        "dilated",
    ]
    assert cli.main([*arguments, "--mask-threshold", "0"]) == 0
    (measured,) = record.read_all(tmp_path / "out")
    assert (measured.case.mask_resize, measured.case.mask_threshold) == ("dilated", 0)
    shutil.rmtree(tmp_path / "out")
    assert cli.main(arguments[:-2]) == 0
    (measured,) = record.read_all(tmp_path / "out")
    assert (measured.case.mask_resize, measured.case.mask_threshold) == ("nearest", 127)


def test_records_with_equal_mask_rules_are_compared(results: Results) -> None:
    case = {"mask_resize": "dilated"}
    reference, other = (results.add(name, outputs(), case=case) for name in ("reference", "other"))
    assert compare(results.folder, reference, other).verdict == "passed"
