"""What a graph determines about its description, and what stays open."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx", reason="onnx, which builds the models, is not installed")

from harness import onnx_models
from harness.detector import artifact
from harness.detector.artifact import TensorSpec
from harness.detector.preprocess import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Colour,
    Crop,
    Decode,
    Layout,
    Normalise,
    Resize,
    Scale,
)
from harness.errors import ArtifactError, UsageError
from harness.onnx_models import check
from harness.onnx_models.description import Description
from harness.onnx_models.recognise import draft
from harness.types import AnyArray
from tests.harness.onnx_models.models import (
    BOOL,
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
    return onnx_models.recognise(onnx_models.read_graph(toy.write(tmp_path / "model.onnx")))


def test_anomalib_of_a_fixed_size(tmp_path: Path) -> None:
    description = recognised(as_anomalib(), tmp_path)
    assert (description.layout, description.size, description.colour, description.range) == (
        "NCHW",
        (32, 32),
        "RGB",
        "unit",
    )
    assert description.interpolation == "pil_bilinear"
    assert (description.map, description.score) == ("anomaly_map", "pred_score")
    assert (description.image_threshold, description.pixel_threshold) == (0.5, 0.5)
    assert description.how["image_threshold"] == "the graph's own: its 'pred_label' is pred_score > 0.5"


def test_anomalib_with_a_free_size_has_the_size_to_which_its_graph_resizes(tmp_path: Path) -> None:
    assert recognised(as_anomalib(resizes_to=24), tmp_path).size == (24, 24)


def test_the_size_that_the_graph_resizes_to_is_height_and_width(tmp_path: Path) -> None:
    toy = as_anomalib(resizes_to=32)
    constants = {**toy.constants, "target": np.array([24, 40], np.int64)}
    assert recognised(dataclasses.replace(toy, constants=constants), tmp_path).size == (24, 40)


def first_nodes(*nodes: Any, **changes: Any) -> Toy:
    """An export of anomalib that first applies `nodes` to the picture, from `input` to `normal`."""
    toy = as_anomalib(normalises=False)
    rest = [node("ReduceMean", "normal", "grey", axes=[1], keepdims=1), *toy.nodes[1:]]
    return dataclasses.replace(toy, nodes=[*nodes, *rest], **changes)


@pytest.mark.parametrize(
    "nodes",
    [
        [node("Sub", "input mean", "normal")],
        [node("Div", "input std", "normal")],
        [
            node("Sub", "input mean", "shifted"),
            node("Div", "shifted std", "aside"),
            node("Mul", "shifted shifted", "normal"),
        ],
        [
            node("Sub", "input mean", "a"),
            node("Div", "input std", "b"),
            node("Add", "a b", "normal"),
        ],
    ],
)
def test_nodes_that_do_not_normalise_the_picture_leave_the_range_open(
    nodes: list[Any], tmp_path: Path
) -> None:
    assert recognised(first_nodes(*nodes), tmp_path).range is None


def test_only_both_outputs_of_anomalib_determine_the_range(tmp_path: Path) -> None:
    toy = as_anomalib()
    score = dataclasses.replace(toy, outputs=[toy.outputs[0]])
    assert recognised(score, tmp_path).range is None


def test_bytes_that_the_graph_normalises_have_no_range(tmp_path: Path) -> None:
    cast, *rest = node("Cast", "input", "float", to=FLOAT), node("Sub", "float mean", "shifted")
    toy = first_nodes(
        cast, *rest, node("Div", "shifted std", "normal"), inputs=[("input", UINT8, PICTURE[2])]
    )
    graph = onnx_models.read_graph(toy.write(tmp_path / "model.onnx"))
    assert onnx_models.recognise(graph).range is None
    check.require(graph, onnx_models.recognise(graph))


def test_anomalib_without_its_pre_processor_leaves_the_range_open(tmp_path: Path) -> None:
    description = recognised(as_anomalib(normalises=False), tmp_path)
    assert description.range is None
    assert description.image_threshold == 0.5


def test_a_sensitivity_of_its_own_moves_the_threshold(tmp_path: Path) -> None:
    toy = as_anomalib()
    constants = {**toy.constants, "half": np.array(0.25, np.float32)}
    moved = Toy(nodes=toy.nodes, inputs=toy.inputs, outputs=toy.outputs, constants=constants)
    assert recognised(moved, tmp_path).image_threshold == 0.25


def test_a_comparison_of_something_else_is_no_threshold(tmp_path: Path) -> None:
    nodes = [*DEVIATION, *LARGEST, node("Greater", "grey level", "bright")]
    toy = Toy(nodes=nodes, outputs=[MAP, ("pred_score", FLOAT, ["n"]), ("bright", 9, ["n", 1, 32, 32])])
    assert recognised(toy, tmp_path).pixel_threshold is None


HALF = np.array(0.5, np.float32)


@pytest.mark.parametrize(
    ("nodes", "half"),
    [
        ([node("Less", "pred_score half", "label")], HALF),
        ([node("Greater", "half pred_score", "label")], HALF),
        ([node("Greater", "pred_score half", "inside"), node("Not", "inside", "label")], HALF),
        ([node("Greater", "pred_score half", "label")], np.array([0.5, 0.8], np.float32)),
        ([node("Greater", "pred_score half", "label"), node("Greater", "pred_score level", "severe")], HALF),
    ],
)
def test_another_or_a_second_decision_is_no_threshold(
    nodes: list[Any], half: AnyArray, tmp_path: Path
) -> None:
    outputs = [MAP, ("pred_score", FLOAT, ["n"]), ("label", BOOL, ["n"])]
    outputs += [("severe", BOOL, ["n"])] if len(nodes) > 1 and nodes[1].op_type == "Greater" else []
    toy = Toy(nodes=[*DEVIATION, *LARGEST, *nodes], outputs=outputs, constants={"half": half})
    assert recognised(toy, tmp_path).image_threshold is None


def deciding(first: float, second: float, tmp_path: Path) -> Description:
    nodes = [node("Greater", "pred_score a", "label"), node("Greater", "pred_score b", "severe")]
    outputs = [MAP, ("pred_score", FLOAT, ["n"]), ("label", BOOL, ["n"]), ("severe", BOOL, ["n"])]
    constants = {"a": np.array(first, np.float32), "b": np.array(second, np.float32)}
    return recognised(
        Toy(nodes=[*DEVIATION, *LARGEST, *nodes], outputs=outputs, constants=constants), tmp_path
    )


def test_two_decisions_at_the_same_threshold_are_one(tmp_path: Path) -> None:
    description = deciding(0.25, 0.25, tmp_path)
    assert (description.image_threshold, description.pixel_threshold) == (0.25, None)
    assert description.how["image_threshold"] == "the graph's own: its 'label' is pred_score > 0.25"


@pytest.mark.parametrize(
    ("thresholds", "why"),
    [
        ((0.5, 0.25), "several: 'label' at 0.5, 'severe' at 0.25; declare one"),
        ((0.25, np.nan), "several: 'label' at 0.25, 'severe' at nan; declare one"),
        ((np.inf, np.inf), "the graph's own is no number: 'label' at inf, 'severe' at inf"),
    ],
)
def test_an_ignored_threshold_of_the_graph_has_a_reason(
    thresholds: tuple[float, float], why: str, tmp_path: Path
) -> None:
    description = deciding(*thresholds, tmp_path)
    assert (description.image_threshold, description.how["image_threshold"]) == (None, why)
    assert "pixel_threshold" not in description.how


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_a_threshold_that_is_no_number_is_ignored(number: float, tmp_path: Path) -> None:
    toy = as_anomalib()
    constants = {**toy.constants, "half": np.array(number, np.float32)}
    description = recognised(dataclasses.replace(toy, constants=constants), tmp_path)
    assert (description.image_threshold, description.pixel_threshold) == (None, None)
    assert description.how["pixel_threshold"] == f"the graph's own is no number: 'pred_mask' at {number:g}"
    json.dumps(dict(description.how), allow_nan=False)


@pytest.mark.parametrize(
    "outputs",
    [
        [("heatmap", FLOAT, ["n", 1, 32, 32]), ("anomaly_map", FLOAT, ["n", 1, 32, 32])],
        [("anomaly_map", BOOL, ["n", 1, 32, 32])],
        [("a", FLOAT, ["n", 1, 32, 32]), ("b", FLOAT, ["n", 1]), ("c", FLOAT, ["n"]), ("d", FLOAT, ["n", 1])],
    ],
)
def test_ambiguous_outputs_stay_open(outputs: Any, tmp_path: Path) -> None:
    description = recognised(Toy(outputs=outputs), tmp_path)
    assert (description.map, description.score) == (None, None)


def test_a_map_by_shape_alone_is_marked(tmp_path: Path) -> None:
    nodes = [node("ReduceMean", "input", "y", axes=[1], keepdims=1)]
    description = recognised(Toy(nodes=nodes, outputs=[("y", FLOAT, ["n", 1, 32, 32])]), tmp_path)
    assert (description.map, description.how["map"]) == ("y", "its shape alone: one number per pixel")


def test_maps_without_channels_and_scores_are_recognised_by_shape(tmp_path: Path) -> None:
    outputs: Any = [("scores", BOOL, ["n"]), ("y", FLOAT, [1]), ("a", FLOAT, ["n", 1, 32, 32])]
    description = recognised(Toy(outputs=outputs), tmp_path)
    assert (description.map, description.score) == ("a", "y")
    graph = onnx_models.read_graph(Toy(outputs=[("b", FLOAT, ["n", 32, 32])]).write(tmp_path / "b.onnx"))
    declared = onnx_models.declare(onnx_models.recognise(graph), ["range=unit", "map=b"])
    check.require(graph, declared)


def test_two_maps_without_names_stay_open(tmp_path: Path) -> None:
    nodes = [node("ReduceMean", "input", "a", axes=[1], keepdims=1), node("Relu", "a", "b")]
    toy = Toy(nodes=nodes, outputs=[(name, FLOAT, ["n", 1, 32, 32]) for name in "ab"])
    path = toy.write(tmp_path / "model.onnx")
    graph = onnx_models.read_graph(path)
    (question,) = check.open_questions(
        graph, onnx_models.declare(onnx_models.recognise(graph), ["range=unit"])
    )
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
def test_a_clear_input_determines_layout_size_and_channels(
    shape: list[int | str],
    layout: str | None,
    size: tuple[int, int] | None,
    colour: str | None,
    tmp_path: Path,
) -> None:
    description = recognised(Toy(inputs=[("input", FLOAT, shape)]), tmp_path)
    assert (description.layout, description.size, description.colour, description.range) == (
        layout,
        size,
        colour,
        None,
    )


def test_metadata_of_the_file_may_declare(tmp_path: Path) -> None:
    description = recognised(
        Toy(metadata={"harness.range": "imagenet", "size": "99", "harness.image_threshold": "3"}), tmp_path
    )
    assert (description.range, description.image_threshold, description.size) == ("imagenet", 3.0, (32, 32))
    assert description.how["range"] == "the file's metadata"


BAD = [
    ({"range": "rubbish"}, "range=unit", "'harness.range' is 'rubbish': Invalid enum value"),
    ({"image_threshold": "nan"}, "image_threshold=1", "'harness.image_threshold' is 'nan': Expected `float"),
    ({"name": "a\x1b[2Jb"}, "name=mine", r"'harness.name' is 'a\\x1b\[2Jb': name"),
    ({"std": "0"}, "std=1", "'harness.std' is '0': Expected `float` > 0"),
]


@pytest.mark.parametrize(("metadata", "declared", "why"), BAD)
def test_impossible_metadata_are_refused_with_file_and_key_unless_declared(
    metadata: dict[str, str], declared: str, why: str, tmp_path: Path
) -> None:
    toy = Toy(metadata={f"harness.{key}": value for key, value in metadata.items()})
    graph = onnx_models.read_graph(toy.write(tmp_path / "model.onnx"))
    with pytest.raises(ArtifactError, match=f"model.onnx: its metadata {why}"):
        onnx_models.recognise(graph, ["colour=BGR"])
    (field,) = metadata
    assert onnx_models.recognise(graph, [declared]).how[field] == "declared"


@pytest.mark.parametrize(("second", "colour"), [("GREY", None), ("BGR", "BGR")])
def test_repeated_metadata_must_agree(second: str, colour: str | None, tmp_path: Path) -> None:
    path = Toy(metadata={"harness.colour": second}).write(tmp_path / "model.onnx")
    path.write_bytes(path.read_bytes() + _entry("harness.colour", "BGR"))
    graph = onnx_models.read_graph(path)
    if colour is None:
        with pytest.raises(ArtifactError, match=r"'harness.colour' is there twice, and differs"):
            onnx_models.recognise(graph)
    else:
        assert onnx_models.recognise(graph).colour == colour
    assert onnx_models.recognise(graph, ["colour=RGB"]).colour == "RGB"


def _entry(key: str, value: str) -> bytes:
    """Add one entry to the metadata in a model's file."""
    fields = [bytes([number << 3 | 2, len(text)]) + text.encode() for number, text in ((1, key), (2, value))]
    return bytes([14 << 3 | 2, len(b"".join(fields))]) + b"".join(fields)


def test_a_draft_leaves_out_impossible_metadata_with_a_reason(tmp_path: Path) -> None:
    toy = Toy(metadata={"harness.sise": "3", "harness.range": "percent", "harness.colour": "BGR"})
    drafted, wrong = draft(onnx_models.read_graph(toy.write(tmp_path / "model.onnx")))
    assert (drafted.range, drafted.colour, drafted.how["colour"]) == (None, "BGR", "the file's metadata")
    assert "range" not in drafted.how
    assert [question.partition(":")[0] for question in wrong] == [
        "its metadata 'harness.sise' is '3'",
        "its metadata 'harness.range' is 'percent'",
    ]
    assert "did you mean 'size' or 'resize'?" in wrong[0]


def test_declarations_become_preprocessing_steps(tmp_path: Path) -> None:
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
    assert onnx_models.declare(drafted, declared).steps() == (
        Decode(),
        Colour(order="BGR"),
        Resize(height=40, width=44, interpolation="area"),
        Crop(height=32, width=32),
        Scale(divisor=255.0),
        Normalise(mean=(0.1, 0.2, 0.3), std=(0.5, 0.5, 0.5)),
        Layout(order="NCHW"),
    )


def test_imagenets_range_is_its_mean_and_deviation(tmp_path: Path) -> None:
    steps = onnx_models.declare(recognised(Toy(), tmp_path), ["range=imagenet"]).steps()
    assert steps[-3:-1] == (Scale(divisor=255.0), Normalise(mean=IMAGENET_MEAN, std=IMAGENET_STD))


@pytest.mark.parametrize(
    ("declared", "why"),
    [
        (["range=unit", "mean=0", "std=0"], r"--set std=0: Expected `float` > 0"),
        (["range=unit", "mean=0", "std=1,1,-1"], r"--set std=1,1,-1: Expected `float` > 0"),
        (["size"], "--set size: expected NAME=VALUE"),
        (["sise=3"], "unknown declaration 'sise'; did you mean 'size'?"),
        (["size=3", "size=4"], "--set size is given twice"),
        (["size=wide"], "--set size=wide: Expected"),
        (["size=0"], "--set size=0: Expected `int` >= 1"),
        (["range=percent"], "--set range=percent: .*; one of byte, unit, imagenet$"),
        (["colour=bgr"], "--set colour=bgr: .*; one of RGB, BGR, GREY$"),
        (["interpolation=best"], "--set interpolation=best: .*; one of pyramid, .*pil_lanczos$"),
        (["name=two\nlines"], r"--set 'name=two\\nlines': name .* is not one line of printable characters"),
        (["name= "], "is not one line of printable characters"),
        (["mean=1,2"], "--set mean=1,2: Expected `array` of length 3"),
        (["image_threshold=high"], "--set image_threshold=high: Expected `float"),
        (["image_threshold=nan"], "--set image_threshold=nan: Expected `float"),
        (["range=unit", "mean=inf", "std=1"], "--set mean=inf: Expected"),
        (["schema=2"], "unknown declaration"),
        (["model_sha256=0"], "unknown declaration"),
    ],
)
def test_a_wrong_declaration_is_refused(declared: list[str], why: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=why):
        onnx_models.declare(recognised(Toy(), tmp_path), declared)


@pytest.mark.parametrize(
    ("declared", "why"),
    [
        (["range=unit", "mean=0"], "mean and std go together"),
        (["range=unit", "std=0.5"], "mean and std go together"),
        (["range=byte", "mean=0", "std=1"], "they need range=unit"),
        (["range=unit", "resize=20", "size=32"], "size 32x32 cannot be cut from resize 20x20"),
        (["range=unit", "resize=20x40", "size=32"], "size 32x32 cannot be cut from resize 20x40"),
        (["range=unit", "resize=40x20", "size=32"], "size 32x32 cannot be cut from resize 40x20"),
        (["range=unit", "score=anomaly_map"], "one output cannot be both"),
        (["range=unit", "layout=NHWC"], r"NHWC 'input' float32 \(\?, 3, 32, 32\) has 32 channels"),
    ],
)
def test_a_description_that_contradicts_itself_is_refused(
    declared: list[str], why: str, tmp_path: Path
) -> None:
    graph = onnx_models.read_graph(Toy().write(tmp_path / "model.onnx"))
    with pytest.raises(ArtifactError, match=why):
        check.require(graph, onnx_models.declare(onnx_models.recognise(graph), declared))


def test_a_range_for_bytes_is_refused(tmp_path: Path) -> None:
    graph = onnx_models.read_graph(Toy(inputs=[("input", UINT8, PICTURE[2])]).write(tmp_path / "model.onnx"))
    check.require(graph, onnx_models.recognise(graph))
    with pytest.raises(ArtifactError, match="takes pixel values as they are: leave range out"):
        check.require(graph, onnx_models.declare(onnx_models.recognise(graph), ["range=unit"]))


@pytest.mark.parametrize("operator", ["Slice", "Pad", "CenterCropPad", "Gather"])
def test_a_graph_that_cuts_the_picture_may_have_a_score_but_no_map(operator: str, tmp_path: Path) -> None:
    cut = [node(operator, "input sizes", "cut"), node("ReduceMean", "cut", "grey", axes=[1], keepdims=1)]
    toy = Toy(nodes=[*cut, *DEVIATION[1:], *LARGEST], opset=18)  # never run
    score = dataclasses.replace(toy, outputs=[("pred_score", FLOAT, ["n"])])
    graph = onnx_models.read_graph(score.write(tmp_path / "score.onnx"))
    check.require(graph, onnx_models.declare(onnx_models.recognise(graph), ["range=unit"]))
    graph = onnx_models.read_graph(toy.write(tmp_path / "map.onnx"))
    with pytest.raises(ArtifactError, match=rf"cuts or pads the picture itself \({operator}\)"):
        check.require(graph, onnx_models.declare(onnx_models.recognise(graph), ["range=unit"]))


def test_decisions_of_any_shape_are_neither_map_nor_score(tmp_path: Path) -> None:
    unknown: Any = ("mask", BOOL, None)  # the file does not even say the rank
    graph = onnx_models.read_graph(Toy(outputs=[unknown, MAP]).write(tmp_path / "model.onnx"))
    drafted = onnx_models.declare(onnx_models.recognise(graph), ["range=unit"])
    for field in ("map", "score"):
        with pytest.raises(ArtifactError, match=rf"its {field} is 'mask' bool \(\?\), expected float"):
            check.require(graph, onnx_models.declare(drafted, [f"{field}=mask"]))


def test_a_pixel_threshold_needs_a_map(tmp_path: Path) -> None:
    toy = Toy(outputs=[("pred_score", FLOAT, ["n"])])
    graph = onnx_models.read_graph(toy.write(tmp_path / "model.onnx"))
    with pytest.raises(ArtifactError, match="without a map there are no pixels to decide"):
        check.require(
            graph, onnx_models.declare(onnx_models.recognise(graph), ["range=unit", "pixel_threshold=1"])
        )


def test_a_manifest_is_read_as_it_was_written(tmp_path: Path) -> None:
    drafted = onnx_models.declare(recognised(as_anomalib(), tmp_path), ["image_threshold=0.75", "name=mine"])
    onnx_models.write(tmp_path / "m.json", drafted)
    assert onnx_models.read(tmp_path / "m.json") == drafted


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"sise": 3}, "sise"),
        ({"schema": 2}, "schema 2"),
        ({"layout": "HWC"}, "layout"),
        ({"std": [0, 1, 1]}, r"\$.std"),
        ({"name": "a\nb"}, r"name 'a\\nb' is not one line"),
        ({"name": ""}, "name '' is not one line"),
    ],
)
def test_a_manifest_is_read_strictly(change: dict[str, object], why: str, tmp_path: Path) -> None:
    onnx_models.write(tmp_path / "m.json", recognised(Toy(), tmp_path))
    document = json.loads((tmp_path / "m.json").read_bytes()) | change
    (tmp_path / "m.json").write_text(json.dumps(document))
    with pytest.raises(ArtifactError, match=why):
        onnx_models.read(tmp_path / "m.json")


@pytest.mark.parametrize(
    ("shape", "declared", "expected"),
    [
        (["n", 3, 32, 48], [], (None, 3, 32, 48)),
        (["n", 32, 48, 3], [], (None, 32, 48, 3)),
        (["n", 32, 48, 1], [], (None, 32, 48, 1)),
        ([4, 1, 32, 48], [], (4, 1, 32, 48)),
        (["n", "c", "h", "w"], ["layout=NHWC", "size=24x20", "colour=GREY"], (None, 24, 20, 1)),
    ],
)
def test_an_artifact_of_a_model_from_elsewhere_follows_its_description_and_claims_no_precision(
    shape: list[int | str], declared: list[str], expected: tuple[int | None, ...], tmp_path: Path
) -> None:
    toy = Toy(
        inputs=[("input", FLOAT, shape)], outputs=[("pred_score", FLOAT, ["n"]), ("else", FLOAT, ["n", 7])]
    )
    graph = onnx_models.read_graph(toy.write(tmp_path / "model.onnx"))
    described = onnx_models.declare(onnx_models.recognise(graph), ["range=unit", *declared])
    (variant,) = artifact.read(
        onnx_models.adopt(graph, described, "widget", tmp_path / "out")
    ).manifest.variants
    assert variant.input == TensorSpec(name="input", dtype="float32", shape=expected)
    assert variant.outputs == (TensorSpec(name="pred_score", dtype="float32", shape=(None,)),)
    assert variant.precision == "unknown"


def test_a_manifest_of_another_model_is_refused(tmp_path: Path) -> None:
    drafted = onnx_models.declare(recognised(Toy(), tmp_path), ["range=unit"])
    other = onnx_models.read_graph(Toy(opset=12).write(tmp_path / "other.onnx"))
    with pytest.raises(ArtifactError, match="the manifest describes another model"):
        onnx_models.adopt(other, drafted, "widget", tmp_path / "out")
