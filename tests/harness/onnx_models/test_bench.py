"""ONNX models from elsewhere, measured like our own: inputs, outputs and records."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import msgspec
import numpy as np
import pytest
from PIL import Image

pytest.importorskip("onnx", reason="onnx, which builds the models, is not installed")

from harness import datasets, metrics, parity
from harness.datasets.images import read_image
from harness.records import record
from harness.records.record import Record
from harness.types import AnyArray, Float32
from tests.conftest import Tiny
from tests.harness.onnx_models.conftest import Measure
from tests.harness.onnx_models.models import (
    DEVIATION,
    FLOAT,
    LARGEST,
    LEVEL,
    MAP,
    SCORE,
    UINT8,
    Toy,
    as_anomalib,
    expected_maps,
    node,
)

UNIT = "range=unit"


def pictures(tiny: Tiny, side: int = 32) -> AnyArray:
    """(N, side, side, 3) RGB: the test images, resized to twice the side and then to the side."""
    images = [read_image(sample.path) for sample in datasets.load_category(tiny.data, "widget").test]
    doubled = [
        cv2.resize(sample, (2 * side, 2 * side), interpolation=cv2.INTER_LINEAR_EXACT) for sample in images
    ]
    small = [cv2.resize(sample, (side, side), interpolation=cv2.INTER_LINEAR_EXACT) for sample in doubled]
    return np.stack(small)[..., ::-1]


def unit(tiny: Tiny) -> Float32:
    """(N, 3, 32, 32) in [0, 1]."""
    return np.ascontiguousarray(pictures(tiny).transpose(0, 3, 1, 2)).astype(np.float32) / np.float32(255)


def maps(measured: Record, tmp_path: Path) -> Float32:
    arrays = record.read_evidence(tmp_path / "results", measured)
    assert arrays is not None
    return arrays.maps


def scores(measured: Record) -> list[float]:
    return [image.score for image in measured.images]


def test_maps_and_scores_are_the_models_own(measure: Measure, tiny: Tiny, tmp_path: Path) -> None:
    measured = measure(Toy().write(tmp_path / "model.onnx"), UNIT, batch_size=3)
    expected = expected_maps(unit(tiny))
    assert np.allclose(maps(measured, tmp_path), expected, atol=1e-6)
    assert np.allclose(scores(measured), expected.max(axis=(1, 2)), atol=1e-6)
    labels = np.array([image.label for image in measured.images])
    right = metrics.image_metrics(np.array(scores(measured)), labels)
    assert measured.metrics["image_auroc"] == right.values["image_auroc"]


def test_the_record_names_the_file_and_its_description(measure: Measure, tmp_path: Path) -> None:
    path = Toy(external="weights.bin").write(tmp_path / "model.onnx")
    measured = measure(path, UNIT, "name=toy", "image_threshold=0.25")
    assert (measured.case.detector, measured.case.backbone, measured.case.variant) == ("onnx", "toy", "onnx")
    assert measured.model_sha256 == _sha256(path)
    assert measured.model_bytes == path.stat().st_size + 4
    assert measured.thresholds.image == 0.25
    assert measured.thresholds.pixel is None
    assert measured.fit is not None
    how = measured.fit.settings["how"]
    assert (how["range"], how["map"], how["colour"]) == (
        "declared",
        "its name",
        "assumed: no ONNX file says it",
    )


def _sha256(path: Path) -> str:
    import hashlib

    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_another_file_or_description_is_another_detector(measure: Measure, tmp_path: Path) -> None:
    path = Toy().write(tmp_path / "model.onnx")
    other = Toy(constants={"level": np.array([0.5], np.float32)}).write(tmp_path / "b" / "model.onnx")
    measured = [
        measure(path, UNIT),
        measure(other, UNIT),
        measure(path, UNIT, "image_threshold=0.1"),
        measure(path, "range=imagenet"),
    ]
    assert len({sample.detector_sha256 for sample in measured}) == 4
    assert measure(path, UNIT).detector_sha256 == measured[0].detector_sha256


def test_other_external_data_make_another_detector(measure: Measure, tmp_path: Path) -> None:
    paths = [
        Toy(external="w.bin", constants={"level": np.array([level], np.float32)}).write(
            tmp_path / str(level) / "model.onnx"
        )
        for level in (0.25, 0.5)
    ]
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert len({measure(path, UNIT).detector_sha256 for path in paths}) == 2


@pytest.mark.parametrize(
    ("declared", "factor"),
    [((UNIT,), 1.0), (("range=byte",), 255.0), (("range=unit", "mean=0", "std=0.5"), 2.0)],
)
def test_pixel_values_come_in_the_declared_range(
    declared: Sequence[str], factor: float, measure: Measure, tiny: Tiny, tmp_path: Path
) -> None:
    path = Toy(constants={"level": np.zeros(1, np.float32)}).write(tmp_path / "model.onnx")
    expected = unit(tiny).mean(axis=1) * factor
    assert np.allclose(maps(measure(path, *declared), tmp_path), expected, rtol=1e-5)


@pytest.mark.parametrize(("colour", "channel"), [("RGB", 0), ("BGR", 2)])
def test_channels_come_in_the_declared_order(
    colour: str, channel: int, measure: Measure, tiny: Tiny, tmp_path: Path
) -> None:
    nodes = [node("Gather", "input first", "anomaly_map", axis=1)]
    path = Toy(nodes=nodes, outputs=[MAP], constants={"first": np.array([0], np.int64)}).write(
        tmp_path / "m.onnx"
    )
    with pytest.raises(Exception, match="cuts or pads"):  # a Gather may be a crop
        measure(path, UNIT)
    split = [node("Relu", "input", "same"), node("Gather", "same first", "anomaly_map", axis=1)]
    path = Toy(nodes=split, outputs=[MAP], constants={"first": np.array([0], np.int64)}).write(
        tmp_path / "n.onnx"
    )
    measured = measure(path, UNIT, f"colour={colour}")
    assert np.array_equal(maps(measured, tmp_path), unit(tiny)[:, channel])


def test_uint8_channels_last_needs_no_declaration(measure: Measure, tiny: Tiny, tmp_path: Path) -> None:
    nodes = [
        node("Cast", "input", "float", to=FLOAT),
        node("ReduceMean", "float", "grey", axes=[3], keepdims=1),
        *DEVIATION[1:],
    ]
    toy = Toy(
        nodes=nodes,
        inputs=[("input", UINT8, ["n", 32, 32, 3])],
        outputs=[("anomaly_map", FLOAT, ["n", 32, 32, 1])],
    )
    expected = np.abs(pictures(tiny).astype(np.float32).mean(axis=3) - np.float32(LEVEL))
    measured = measure(toy.write(tmp_path / "model.onnx"))
    assert measured.input_stage == "resize"
    assert np.allclose(maps(measured, tmp_path), expected, rtol=1e-6)


def test_grey_pictures_of_one_channel_are_recognised(measure: Measure, tiny: Tiny, tmp_path: Path) -> None:
    toy = Toy(
        nodes=[node("Relu", "input", "map")],
        inputs=[("x", FLOAT, ["n", 1, 32, 32])],
        outputs=[("map", FLOAT, ["n", 1, 32, 32])],
    )
    nodes = [node("Relu", "x", "map")]
    measured = measure(
        Toy(nodes=nodes, inputs=toy.inputs, outputs=toy.outputs).write(tmp_path / "model.onnx"), UNIT
    )
    weights = np.array([0.299, 0.587, 0.114])
    assert np.allclose(maps(measured, tmp_path), pictures(tiny) @ weights / 255, atol=0.51 / 255)


def test_a_free_size_is_declared_with_a_crop(measure: Measure, tiny: Tiny, tmp_path: Path) -> None:
    toy = Toy(
        inputs=[("input", FLOAT, ["n", 3, "h", "w"])],
        outputs=[("anomaly_map", FLOAT, ["n", 1, "h", "w"])],
        nodes=DEVIATION,
    )
    measured = measure(toy.write(tmp_path / "model.onnx"), UNIT, "resize=32", "size=24x20")
    assert np.allclose(maps(measured, tmp_path), expected_maps(unit(tiny))[:, 4:28, 6:26], atol=1e-6)


@pytest.mark.parametrize("rows", [1, 3, 16])
@pytest.mark.parametrize("batch_size", [1, 4])
def test_a_fixed_batch_is_filled_up_and_changes_nothing(
    rows: int, batch_size: int, measure: Measure, tiny: Tiny, tmp_path: Path
) -> None:
    toy = Toy(
        inputs=[("input", FLOAT, [rows, 3, 32, 32])],
        outputs=[("anomaly_map", FLOAT, [rows, 1, 32, 32]), ("pred_score", FLOAT, [rows])],
    )
    measured = measure(toy.write(tmp_path / "model.onnx"), UNIT, batch_size=batch_size)
    assert np.allclose(maps(measured, tmp_path), expected_maps(unit(tiny)), atol=1e-6)
    assert np.allclose(scores(measured), expected_maps(unit(tiny)).max(axis=(1, 2)), atol=1e-6)


def test_a_map_of_another_resolution_is_resized_bilinearly(
    measure: Measure, tiny: Tiny, tmp_path: Path
) -> None:
    nodes = [
        *DEVIATION[:2],
        node("Abs", "signed", "fine"),
        node("AveragePool", "fine", "anomaly_map", kernel_shape=[4, 4], strides=[4, 4]),
    ]
    path = Toy(nodes=nodes, outputs=[("anomaly_map", FLOAT, ["n", 1, 8, 8])]).write(tmp_path / "model.onnx")
    measured = measure(path, UNIT)
    small = expected_maps(unit(tiny)).reshape(8, 8, 4, 8, 4).mean(axis=(2, 4))
    expected = [cv2.resize(sample, (32, 32), interpolation=cv2.INTER_LINEAR) for sample in small]
    assert np.allclose(maps(measured, tmp_path), expected, atol=1e-6)
    assert np.allclose(
        scores(measured), small.max(axis=(1, 2)), atol=1e-6
    )  # of the map as the model gives it


def test_a_map_alone_gives_its_largest_value_as_the_score(
    measure: Measure, tiny: Tiny, tmp_path: Path
) -> None:
    measured = measure(Toy(nodes=DEVIATION, outputs=[MAP]).write(tmp_path / "model.onnx"), UNIT)
    assert np.allclose(scores(measured), expected_maps(unit(tiny)).max(axis=(1, 2)), atol=1e-6)
    assert not measured.undefined


def test_a_score_alone_leaves_pixel_metrics_undefined(measure: Measure, tmp_path: Path) -> None:
    measured = measure(_score_alone(tmp_path), UNIT)
    pixel = ("pixel_auroc", "aupro", "pixel_ap", "pixel_f1_max")
    assert measured.undefined == dict.fromkeys(pixel, "the detector gives a score per image and no map")
    assert "image_auroc" in measured.metrics
    assert maps(measured, tmp_path).shape == (8, 0, 0)
    assert record.read(record.path_of(tmp_path / "results", measured)) == measured


def _score_alone(tmp_path: Path) -> Path:
    toy = Toy(nodes=[*DEVIATION, *LARGEST], outputs=[("pred_score", FLOAT, ["n"])])
    return toy.write(tmp_path / "model.onnx")


def again(measured: Record, folder: Path) -> Record:
    """A copy of the record under another backend's name."""
    case = msgspec.structs.replace(measured.case, backend="onnxruntime-gpu")
    arrays = record.read_evidence(folder, measured)
    assert arrays is not None
    digest = measured.inputs_sha256[::-1]
    evidence = record.write_evidence(folder, case, digest, arrays)
    other = msgspec.structs.replace(measured, case=case, inputs_sha256=digest, evidence=evidence)
    record.write(folder, other)
    return other


def verdicts(measured: Record, folder: Path) -> dict[str, tuple[str, tuple[str, ...]]]:
    other = again(measured, folder)
    pair = parity.compare(folder, measured, other)
    return {
        "pair": (pair.verdict, ()),
        **{level.name: (level.verdict, level.messages) for level in pair.levels},
    }


def test_parity_compares_it_like_our_own(measure: Measure, tmp_path: Path) -> None:
    measured = measure(Toy().write(tmp_path / "model.onnx"), UNIT, "image_threshold=0.2")
    assert {
        name: verdict for name, (verdict, _) in verdicts(measured, tmp_path / "results").items()
    } == dict.fromkeys(("pair", "inputs", "scores", "maps", "decisions", "metrics"), "passed")


def test_without_a_threshold_decisions_are_not_measured(measure: Measure, tmp_path: Path) -> None:
    measured = measure(Toy().write(tmp_path / "model.onnx"), UNIT)
    level = verdicts(measured, tmp_path / "results")
    assert level["pair"][0] == level["decisions"][0] == "not measured"
    assert level["decisions"][1][0].startswith("no threshold is known")
    assert (level["maps"][0], level["scores"][0]) == ("passed", "passed")


def test_without_maps_the_level_of_maps_is_not_measured(measure: Measure, tmp_path: Path) -> None:
    measured = measure(_score_alone(tmp_path), UNIT, "image_threshold=0.2")
    level = verdicts(measured, tmp_path / "results")
    assert level["pair"][0] == level["maps"][0] == level["metrics"][0] == "not measured"
    assert level["maps"][1] == ("the detector gives a score per image and no map",)
    assert (level["scores"][0], level["decisions"][0]) == ("passed", "passed")


def test_a_record_without_maps_cannot_hide_pixel_metrics(measure: Measure, tmp_path: Path) -> None:
    measured = measure(_score_alone(tmp_path), UNIT, "image_threshold=0.2")
    claims = msgspec.structs.replace(measured, metrics=measured.metrics | {"pixel_auroc": 1.0})
    other = again(claims, tmp_path / "results")
    pair = parity.compare(tmp_path / "results", claims, other)
    assert pair.verdict == "failed"


def test_an_export_of_anomalib_needs_nothing_but_the_data(
    measure: Measure, tiny: Tiny, tmp_path: Path
) -> None:
    measured = measure(as_anomalib(resizes_to=32).write(tmp_path / "model.onnx"))
    files = [sample.path for sample in datasets.load_category(tiny.data, "widget").test]
    kernel = Image.Resampling.BILINEAR
    small = [np.asarray(Image.open(path).convert("RGB").resize((32, 32), kernel)) for path in files]
    shown = np.stack(small).transpose(0, 3, 1, 2).astype(np.float32) / np.float32(255)
    expected = expected_maps((shown - np.float32(0.25)) / np.float32(0.5))
    assert np.allclose(maps(measured, tmp_path), expected, atol=1e-6)
    assert (measured.thresholds.image, measured.thresholds.pixel) == (0.5, 0.5)
    assert SCORE[0] == "pred_score"
    assert np.allclose(scores(measured), expected.max(axis=(1, 2)), atol=1e-6)
