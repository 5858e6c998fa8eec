"""What a graph tells of itself, and what it is never taken to tell."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnx", reason="onnx, which builds the models, is not installed")

from harness import foreign
from harness.errors import ArtifactError, UsageError
from harness.foreign import check
from harness.foreign.description import Description
from harness.preprocess import Colour, Crop, Decode, Layout, Normalise, Resize, Scale
from tests.harness.foreign.models import (
    DEVIATION,
    FLOAT,
    LARGEST,
    MAP,
    PICTURE,
    UINT8,
    Toy,
    as_anomalib,
    node,
)


def recognised(toy: Toy, tmp_path: Path) -> Description:
    return foreign.recognise(foreign.read_graph(toy.write(tmp_path / "model.onnx")))


def test_anomalib_of_a_fixed_size(tmp_path: Path) -> None:
    found = recognised(as_anomalib(), tmp_path)
    assert (found.layout, found.size, found.colour, found.range) == ("NCHW", (32, 32), "RGB", "unit")
    assert found.interpolation == "pil_bilinear"
    assert (found.map, found.score) == ("anomaly_map", "pred_score")
    assert (found.image_threshold, found.pixel_threshold) == (0.5, 0.5)
    assert found.how["image_threshold"] == "the graph's own: its 'pred_label' is pred_score > 0.5"


def test_anomalib_of_a_free_size_is_fed_what_its_graph_resizes_to(tmp_path: Path) -> None:
    assert recognised(as_anomalib(resizes_to=24), tmp_path).size == (24, 24)


def test_anomalib_without_its_pre_processor_leaves_the_range_open(tmp_path: Path) -> None:
    found = recognised(as_anomalib(normalises=False), tmp_path)
    assert found.range is None
    assert found.image_threshold == 0.5


def test_a_sensitivity_of_its_own_moves_the_threshold(tmp_path: Path) -> None:
    toy = as_anomalib()
    constants = {**toy.constants, "half": np.array(0.25, np.float32)}
    moved = Toy(nodes=toy.nodes, inputs=toy.inputs, outputs=toy.outputs, constants=constants)
    assert recognised(moved, tmp_path).image_threshold == 0.25


def test_a_comparison_of_something_else_is_no_threshold(tmp_path: Path) -> None:
    nodes = [*DEVIATION, *LARGEST, node("Greater", "grey level", "bright")]
    toy = Toy(nodes=nodes, outputs=[MAP, ("pred_score", FLOAT, ["n"]), ("bright", 9, ["n", 1, 32, 32])])
    assert recognised(toy, tmp_path).pixel_threshold is None


def test_an_output_that_is_a_map_by_shape_alone_is_said_to_be_so(tmp_path: Path) -> None:
    nodes = [node("ReduceMean", "input", "y", axes=[1], keepdims=1)]
    found = recognised(Toy(nodes=nodes, outputs=[("y", FLOAT, ["n", 1, 32, 32])]), tmp_path)
    assert (found.map, found.how["map"]) == ("y", "its shape alone: one number per pixel")


def test_two_maps_without_names_are_not_guessed_at(tmp_path: Path) -> None:
    nodes = [node("ReduceMean", "input", "a", axes=[1], keepdims=1), node("Relu", "a", "b")]
    toy = Toy(nodes=nodes, outputs=[(name, FLOAT, ["n", 1, 32, 32]) for name in "ab"])
    path = toy.write(tmp_path / "model.onnx")
    graph = foreign.read_graph(path)
    (question,) = check.open_questions(graph, foreign.declare(foreign.recognise(graph), ["range=unit"]))
    assert question.endswith("declare --set map=a or --set map=b")


def test_tokens_of_a_transformer_are_no_map(tmp_path: Path) -> None:
    toy = Toy(nodes=[node("Relu", "input", "tokens")], outputs=[("tokens", FLOAT, ["n", 197, 768])])
    assert recognised(toy, tmp_path).map is None


@pytest.mark.parametrize(
    ("shape", "layout", "size", "colour"),
    [
        (["n", 3, 32, 48], "NCHW", (32, 48), "RGB"),
        (["n", 32, 48, 3], "NHWC", (32, 48), "RGB"),
        (["n", 32, 48, 1], "NHWC", (32, 48), "GREY"),
        (["n", 3, "h", "w"], "NCHW", None, "RGB"),
        (["n", "c", "h", "w"], None, None, None),
        ([2, 3, 3, 3], None, None, None),
    ],
)
def test_the_input_tells_layout_size_and_channels_where_it_is_clear(
    shape: list[int | str],
    layout: str | None,
    size: tuple[int, int] | None,
    colour: str | None,
    tmp_path: Path,
) -> None:
    found = recognised(Toy(inputs=[("input", FLOAT, shape)]), tmp_path)
    assert (found.layout, found.size, found.colour, found.range) == (layout, size, colour, None)


def test_metadata_of_the_file_may_declare(tmp_path: Path) -> None:
    found = recognised(
        Toy(metadata={"harness.range": "imagenet", "size": "99", "harness.image_threshold": "3"}), tmp_path
    )
    assert (found.range, found.image_threshold, found.size) == ("imagenet", 3.0, (32, 32))
    assert found.how["range"] == "the file's metadata"


def test_declarations_become_the_steps_of_the_host(tmp_path: Path) -> None:
    drafted = recognised(Toy(), tmp_path)
    declared = [
        "resize=40x44",
        "size=32",
        "range=unit",
        "mean=0.1,0.2,0.3",
        "std=0.5",
        "colour=BGR",
        "interpolation=area",
    ]
    assert foreign.declare(drafted, declared).steps() == (
        Decode(),
        Colour(order="BGR"),
        Resize(height=40, width=44, interpolation="area"),
        Crop(height=32, width=32),
        Scale(divisor=255.0),
        Normalise(mean=(0.1, 0.2, 0.3), std=(0.5, 0.5, 0.5)),
        Layout(order="NCHW"),
    )


@pytest.mark.parametrize(
    ("declared", "why"),
    [
        (["size"], "--set size: expected NAME=VALUE"),
        (["sise=3"], "unknown declaration 'sise'; did you mean 'size'?"),
        (["size=3", "size=4"], "--set size is given twice"),
        (["size=wide"], r"\$.size"),
        (["size=0"], r"\$.size"),
        (["range=percent"], r"\$.range"),
        (["mean=1,2"], r"\$.mean"),
        (["image_threshold=high"], r"\$.image_threshold"),
        (["image_threshold=nan"], r"\$.image_threshold"),
        (["range=unit", "mean=inf", "std=1"], r"\$.mean"),
        (["schema=2"], "unknown declaration"),
        (["model_sha256=0"], "unknown declaration"),
    ],
)
def test_a_wrong_declaration_is_refused(declared: list[str], why: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=why):
        foreign.declare(recognised(Toy(), tmp_path), declared)


@pytest.mark.parametrize(
    ("declared", "why"),
    [
        (["range=unit", "mean=0"], "mean and std go together"),
        (["range=unit", "std=0.5"], "mean and std go together"),
        (["range=byte", "mean=0", "std=1"], "they need range=unit"),
        (["range=unit", "resize=20", "size=32"], "size 32x32 cannot be cut from resize 20x20"),
        (["range=unit", "score=anomaly_map"], "one output cannot be both"),
        (["range=unit", "layout=NHWC"], r"NHWC 'input' float32 \(\?, 3, 32, 32\) has 32 channels"),
    ],
)
def test_a_description_that_contradicts_itself_is_refused(
    declared: list[str], why: str, tmp_path: Path
) -> None:
    graph = foreign.read_graph(Toy().write(tmp_path / "model.onnx"))
    with pytest.raises(ArtifactError, match=why):
        check.require(graph, foreign.declare(foreign.recognise(graph), declared))


def test_a_range_for_bytes_is_refused(tmp_path: Path) -> None:
    graph = foreign.read_graph(Toy(inputs=[("input", UINT8, PICTURE[2])]).write(tmp_path / "model.onnx"))
    check.require(graph, foreign.recognise(graph))
    with pytest.raises(ArtifactError, match="takes pixel values as they are: leave range out"):
        check.require(graph, foreign.declare(foreign.recognise(graph), ["range=unit"]))


def test_a_pixel_threshold_needs_a_map(tmp_path: Path) -> None:
    toy = Toy(outputs=[("pred_score", FLOAT, ["n"])])
    graph = foreign.read_graph(toy.write(tmp_path / "model.onnx"))
    with pytest.raises(ArtifactError, match="without a map there are no pixels to decide"):
        check.require(graph, foreign.declare(foreign.recognise(graph), ["range=unit", "pixel_threshold=1"]))


def test_a_manifest_comes_back_as_it_was_written(tmp_path: Path) -> None:
    drafted = foreign.declare(recognised(as_anomalib(), tmp_path), ["image_threshold=0.75", "name=mine"])
    foreign.write(tmp_path / "m.json", drafted)
    assert foreign.read(tmp_path / "m.json") == drafted


@pytest.mark.parametrize(
    ("change", "why"), [({"sise": 3}, "sise"), ({"schema": 2}, "schema 2"), ({"layout": "HWC"}, "layout")]
)
def test_a_manifest_is_read_strictly(change: dict[str, object], why: str, tmp_path: Path) -> None:
    foreign.write(tmp_path / "m.json", recognised(Toy(), tmp_path))
    document = json.loads((tmp_path / "m.json").read_bytes()) | change
    (tmp_path / "m.json").write_text(json.dumps(document))
    with pytest.raises(ArtifactError, match=why):
        foreign.read(tmp_path / "m.json")


def test_a_manifest_of_another_model_is_refused(tmp_path: Path) -> None:
    drafted = foreign.declare(recognised(Toy(), tmp_path), ["range=unit"])
    other = foreign.read_graph(Toy(opset=12).write(tmp_path / "other.onnx"))
    with pytest.raises(ArtifactError, match="the manifest is of another model"):
        foreign.adopt(other, drafted, "widget", tmp_path / "out")
