"""Models from elsewhere, measured as our own are: what goes in, what comes out, what the record says."""

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
    """(N, side, side, 3) RGB: the test images squashed by halving twice the smallest double, then once."""
    images = [read_image(sample.path) for sample in datasets.load_category(tiny.data, "widget").test]
    doubled = [
        cv2.resize(item, (2 * side, 2 * side), interpolation=cv2.INTER_LINEAR_EXACT) for item in images
    ]
    small = [cv2.resize(item, (side, side), interpolation=cv2.INTER_LINEAR_EXACT) for item in doubled]
    return np.stack(small)[..., ::-1]


def unit(tiny: Tiny) -> Float32:
    """(N, 3, 32, 32) in [0, 1]."""
    return np.ascontiguousarray(pictures(tiny).transpose(0, 3, 1, 2)).astype(np.float32) / np.float32(255)


def maps(made: Record, tmp_path: Path) -> Float32:
    arrays = record.read_evidence(tmp_path / "results", made)
    assert arrays is not None
    return arrays.maps


def scores(made: Record) -> list[float]:
    return [image.score for image in made.images]


def test_maps_and_scores_are_the_models_own(measure: Measure, tiny: Tiny, tmp_path: Path) -> None:
    made = measure(Toy().write(tmp_path / "model.onnx"), UNIT, batch_size=3)
    wanted = expected_maps(unit(tiny))
    assert np.allclose(maps(made, tmp_path), wanted, atol=1e-6)
    assert np.allclose(scores(made), wanted.max(axis=(1, 2)), atol=1e-6)
    labels = np.array([image.label for image in made.images])
    right = metrics.image_metrics(np.array(scores(made)), labels)
    assert made.metrics["image_auroc"] == right.values["image_auroc"]


def test_the_record_says_which_file_and_how_it_was_described(measure: Measure, tmp_path: Path) -> None:
    path = Toy(external="weights.bin").write(tmp_path / "model.onnx")
    made = measure(path, UNIT, "name=toy", "image_threshold=0.25")
    assert (made.case.detector, made.case.backbone, made.case.variant) == ("onnx", "toy", "onnx")
    assert made.model_sha256 == _sha256(path)
    assert made.model_bytes == path.stat().st_size + 4
    assert made.thresholds.image == 0.25
    assert made.thresholds.pixel is None
    assert made.fit is not None
    how = made.fit.settings["how"]
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
    made = [
        measure(path, UNIT),
        measure(other, UNIT),
        measure(path, UNIT, "image_threshold=0.1"),
        measure(path, "range=imagenet"),
    ]
    assert len({item.detector_sha256 for item in made}) == 4
    assert measure(path, UNIT).detector_sha256 == made[0].detector_sha256


def test_external_data_alone_makes_another_detector(measure: Measure, tmp_path: Path) -> None:
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
    wanted = unit(tiny).mean(axis=1) * factor
    assert np.allclose(maps(measure(path, *declared), tmp_path), wanted, rtol=1e-5)


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
    made = measure(path, UNIT, f"colour={colour}")
    assert np.array_equal(maps(made, tmp_path), unit(tiny)[:, channel])


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
    wanted = np.abs(pictures(tiny).astype(np.float32).mean(axis=3) - np.float32(LEVEL))
    made = measure(toy.write(tmp_path / "model.onnx"))
    assert made.input_stage == "resize"
    assert np.allclose(maps(made, tmp_path), wanted, rtol=1e-6)


def test_grey_pictures_of_one_channel_are_recognised(measure: Measure, tiny: Tiny, tmp_path: Path) -> None:
    toy = Toy(
        nodes=[node("Relu", "input", "map")],
        inputs=[("x", FLOAT, ["n", 1, 32, 32])],
        outputs=[("map", FLOAT, ["n", 1, 32, 32])],
    )
    nodes = [node("Relu", "x", "map")]
    made = measure(
        Toy(nodes=nodes, inputs=toy.inputs, outputs=toy.outputs).write(tmp_path / "model.onnx"), UNIT
    )
    weights = np.array([0.299, 0.587, 0.114])
    assert np.allclose(maps(made, tmp_path), pictures(tiny) @ weights / 255, atol=0.51 / 255)


def test_a_free_size_is_taken_as_declared_with_a_crop(measure: Measure, tiny: Tiny, tmp_path: Path) -> None:
    toy = Toy(
        inputs=[("input", FLOAT, ["n", 3, "h", "w"])],
        outputs=[("anomaly_map", FLOAT, ["n", 1, "h", "w"])],
        nodes=DEVIATION,
    )
    made = measure(toy.write(tmp_path / "model.onnx"), UNIT, "resize=32", "size=24x20")
    assert np.allclose(maps(made, tmp_path), expected_maps(unit(tiny))[:, 4:28, 6:26], atol=1e-6)


@pytest.mark.parametrize("rows", [1, 3, 16])
@pytest.mark.parametrize("batch_size", [1, 4])
def test_a_fixed_batch_is_filled_up_and_changes_nothing(
    rows: int, batch_size: int, measure: Measure, tiny: Tiny, tmp_path: Path
) -> None:
    toy = Toy(
        inputs=[("input", FLOAT, [rows, 3, 32, 32])],
        outputs=[("anomaly_map", FLOAT, [rows, 1, 32, 32]), ("pred_score", FLOAT, [rows])],
    )
    made = measure(toy.write(tmp_path / "model.onnx"), UNIT, batch_size=batch_size)
    assert np.allclose(maps(made, tmp_path), expected_maps(unit(tiny)), atol=1e-6)
    assert np.allclose(scores(made), expected_maps(unit(tiny)).max(axis=(1, 2)), atol=1e-6)


def test_a_map_of_another_resolution_is_resized_bilinearly(
    measure: Measure, tiny: Tiny, tmp_path: Path
) -> None:
    nodes = [
        *DEVIATION[:2],
        node("Abs", "signed", "fine"),
        node("AveragePool", "fine", "anomaly_map", kernel_shape=[4, 4], strides=[4, 4]),
    ]
    path = Toy(nodes=nodes, outputs=[("anomaly_map", FLOAT, ["n", 1, 8, 8])]).write(tmp_path / "model.onnx")
    made = measure(path, UNIT)
    small = expected_maps(unit(tiny)).reshape(8, 8, 4, 8, 4).mean(axis=(2, 4))
    wanted = [cv2.resize(item, (32, 32), interpolation=cv2.INTER_LINEAR) for item in small]
    assert np.allclose(maps(made, tmp_path), wanted, atol=1e-6)
    assert np.allclose(scores(made), small.max(axis=(1, 2)), atol=1e-6)  # of the map as the model gives it


def test_a_map_alone_gives_its_largest_value_as_the_score(
    measure: Measure, tiny: Tiny, tmp_path: Path
) -> None:
    made = measure(Toy(nodes=DEVIATION, outputs=[MAP]).write(tmp_path / "model.onnx"), UNIT)
    assert np.allclose(scores(made), expected_maps(unit(tiny)).max(axis=(1, 2)), atol=1e-6)
    assert not made.undefined


def test_a_score_alone_leaves_pixel_metrics_undefined(measure: Measure, tmp_path: Path) -> None:
    made = measure(_score_alone(tmp_path), UNIT)
    pixel = ("pixel_auroc", "aupro", "pixel_ap", "pixel_f1_max")
    assert made.undefined == dict.fromkeys(pixel, "the detector gives a score per image and no map")
    assert "image_auroc" in made.metrics
    assert maps(made, tmp_path).shape == (8, 0, 0)
    assert record.read(record.path_of(tmp_path / "results", made)) == made


def _score_alone(tmp_path: Path) -> Path:
    toy = Toy(nodes=[*DEVIATION, *LARGEST], outputs=[("pred_score", FLOAT, ["n"])])
    return toy.write(tmp_path / "model.onnx")


def again(made: Record, folder: Path) -> Record:
    """The same as if another backend had given it."""
    case = msgspec.structs.replace(made.case, backend="onnxruntime-gpu")
    arrays = record.read_evidence(folder, made)
    assert arrays is not None
    digest = made.inputs_sha256[::-1]
    evidence = record.write_evidence(folder, case, digest, arrays)
    other = msgspec.structs.replace(made, case=case, inputs_sha256=digest, evidence=evidence)
    record.write(folder, other)
    return other


def verdicts(made: Record, folder: Path) -> dict[str, tuple[str, tuple[str, ...]]]:
    other = again(made, folder)
    pair = parity.compare(folder, made, other)
    return {
        "pair": (pair.verdict, ()),
        **{level.name: (level.verdict, level.messages) for level in pair.levels},
    }


def test_parity_works_on_it_as_on_our_own(measure: Measure, tmp_path: Path) -> None:
    made = measure(Toy().write(tmp_path / "model.onnx"), UNIT, "image_threshold=0.2")
    assert {
        name: verdict for name, (verdict, _) in verdicts(made, tmp_path / "results").items()
    } == dict.fromkeys(("pair", "inputs", "scores", "maps", "decisions", "metrics"), "passed")


def test_without_a_threshold_decisions_are_not_measured(measure: Measure, tmp_path: Path) -> None:
    made = measure(Toy().write(tmp_path / "model.onnx"), UNIT)
    found = verdicts(made, tmp_path / "results")
    assert found["pair"][0] == found["decisions"][0] == "not measured"
    assert found["decisions"][1][0].startswith("no threshold is known")
    assert (found["maps"][0], found["scores"][0]) == ("passed", "passed")


def test_without_maps_the_level_of_maps_is_not_measured(measure: Measure, tmp_path: Path) -> None:
    made = measure(_score_alone(tmp_path), UNIT, "image_threshold=0.2")
    found = verdicts(made, tmp_path / "results")
    assert found["pair"][0] == found["maps"][0] == found["metrics"][0] == "not measured"
    assert found["maps"][1] == ("the detector gives a score per image and no map",)
    assert (found["scores"][0], found["decisions"][0]) == ("passed", "passed")


def test_a_record_without_maps_cannot_hide_pixel_metrics(measure: Measure, tmp_path: Path) -> None:
    made = measure(_score_alone(tmp_path), UNIT, "image_threshold=0.2")
    claims = msgspec.structs.replace(made, metrics=made.metrics | {"pixel_auroc": 1.0})
    other = again(claims, tmp_path / "results")
    pair = parity.compare(tmp_path / "results", claims, other)
    assert pair.verdict == "failed"


def test_an_export_of_anomalib_needs_nothing_but_the_data(
    measure: Measure, tiny: Tiny, tmp_path: Path
) -> None:
    made = measure(as_anomalib(resizes_to=32).write(tmp_path / "model.onnx"))
    files = [sample.path for sample in datasets.load_category(tiny.data, "widget").test]
    kernel = Image.Resampling.BILINEAR
    small = [np.asarray(Image.open(path).convert("RGB").resize((32, 32), kernel)) for path in files]
    shown = np.stack(small).transpose(0, 3, 1, 2).astype(np.float32) / np.float32(255)
    wanted = expected_maps((shown - np.float32(0.25)) / np.float32(0.5))
    assert np.allclose(maps(made, tmp_path), wanted, atol=1e-6)
    assert (made.thresholds.image, made.thresholds.pixel) == (0.5, 0.5)
    assert SCORE[0] == "pred_score"
    assert np.allclose(scores(made), wanted.max(axis=(1, 2)), atol=1e-6)
