"""The refusal of each unsuitable or broken model: the table of docs/reference/onnx-models.md, row by row."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnx", reason="onnx, which builds the models, is not installed")

from harness import onnx_models
from harness.errors import ArtifactError, HarnessError
from harness.onnx_models.description import SETTABLE
from tests.harness.onnx_models.conftest import Measure
from tests.harness.onnx_models.models import (
    BOOL,
    DEVIATION,
    DOUBLE,
    FLOAT,
    HALF,
    LARGEST,
    MAP,
    PICTURE,
    SCORE,
    Toy,
    as_anomalib,
    node,
)

DOCUMENT = (Path(__file__).parents[3] / "docs" / "reference" / "onnx-models.md").read_text(encoding="utf-8")
UNIT = "range=unit"
HEAD = [node("GlobalAveragePool", "input", "pooled"), node("Flatten", "pooled", "flat")]


@dataclass(frozen=True, kw_only=True)
class Refused:
    toy: Toy
    declared: Sequence[str] = (UNIT,)
    why: str


REFUSED = {
    "classifier": Refused(
        toy=Toy(
            nodes=[*HEAD, node("MatMul", "flat weights", "logits")],
            outputs=[("logits", FLOAT, ["n", 1000])],
            constants={"weights": np.zeros((3, 1000), np.float32)},
        ),
        why="not an anomaly detector.*'logits' float32 .n?.*1000.*classifier",
    ),
    "autoencoder": Refused(
        toy=Toy(nodes=[node("Relu", "input", "again")], outputs=[("again", FLOAT, ["n", 3, 32, 32])]),
        why="not an anomaly detector.*as an autoencoder",
    ),
    "one number, unnamed": Refused(
        toy=Toy(nodes=[*HEAD, node("ReduceMean", "flat", "y", axes=[1])], outputs=[("y", FLOAT, ["n", 1])]),
        why="which output is map or score is not clear.*declare --set score=y",
    ),
    "decisions alone": Refused(
        toy=Toy(
            nodes=[*DEVIATION, *LARGEST, node("Greater", "anomaly_map level", "mask")],
            outputs=[("mask", BOOL, ["n", 1, 32, 32])],
        ),
        why="not an anomaly detector.*'mask' bool",
    ),
    "wrong rank": Refused(
        toy=Toy(
            nodes=[node("Relu", "input", "score")],
            inputs=[("input", FLOAT, ["n", 512])],
            outputs=[("score", FLOAT, ["n", 512])],
        ),
        why=r"its input 'input' float32 \(\?, 512\) is not a picture: expected 4 axes",
    ),
    "two inputs": Refused(
        toy=Toy(inputs=[PICTURE, ("mask", FLOAT, ["n", 1, 32, 32])]),
        why="takes 2 inputs .*'mask'.*a detector takes one picture",
    ),
    "float16 input": Refused(
        toy=Toy(inputs=[("input", HALF, ["n", 3, 32, 32])]), why="takes neither float32 nor uint8"
    ),
    "dynamic image size": Refused(
        toy=Toy(
            inputs=[("input", FLOAT, ["n", 3, "h", "w"])],
            outputs=[("anomaly_map", FLOAT, ["n", 1, "h", "w"])],
        ),
        why="the image size is free: declare --set size=HEIGHTxWIDTH",
    ),
    "unclear layout": Refused(
        toy=Toy(inputs=[("input", FLOAT, ["n", 3, 32, 3])], outputs=[("map", FLOAT, ["n", 1, 32, 3])]),
        why="may be NCHW or NHWC: declare --set layout=",
    ),
    "unknown range": Refused(toy=Toy(), declared=(), why="in no ONNX file: declare --set range=unit"),
    "normalises 0 … 255 inside": Refused(
        toy=dataclasses.replace(
            as_anomalib(),
            constants={
                **as_anomalib().constants,
                **dict.fromkeys(("mean", "std"), np.full(3, 127.5, np.float32)),
            },
        ),
        declared=(),
        why="in no ONNX file: declare --set range=unit",
    ),
    "metadata that cannot be": Refused(
        toy=Toy(metadata={"harness.range": "rubbish"}),
        why="model.onnx: its metadata 'harness.range' is 'rubbish': Invalid .*; one of byte, unit, imagenet: declare it",
    ),
    "name of several lines": Refused(
        toy=Toy(metadata={"harness.name": "a\n\x1b[2Jb"}),
        why=r"'harness.name' is 'a\\n\\x1b\[2Jb': name .* is not one line of printable characters",
    ),
    "larger than 16384 pixels a side": Refused(
        toy=Toy(inputs=[("input", FLOAT, ["n", 3, 32, 16385])]),
        why="model.onnx: takes pictures of 32x16385: Expected `int` <= 16384",
    ),
    "float64 map or score": Refused(
        toy=Toy(
            nodes=[
                *DEVIATION[:2],
                node("Abs", "signed", "a"),
                node("Cast", "a", "anomaly_map", to=DOUBLE),
                *LARGEST,
            ],
            outputs=[("anomaly_map", DOUBLE, MAP[2]), ("pred_score", DOUBLE, ["n"])],
        ),
        why="its map is 'anomaly_map' float64.*float32 outputs; its score is 'pred_score' float64.*float32 outputs",
    ),
    "another size declared": Refused(
        toy=Toy(), declared=(UNIT, "size=64"), why=r"'input' float32 \(\?, 3, 32, 32\) does not take 64x64"
    ),
    "another colour declared": Refused(
        toy=Toy(), declared=(UNIT, "colour=GREY"), why="has 3 channels, colour GREY has 1"
    ),
    "no such output": Refused(
        toy=Toy(),
        declared=(UNIT, "map=amap"),
        why=r"map=amap: there is no such output \(there are: anomaly_map,",
    ),
    "a score for a map": Refused(
        toy=Toy(),
        declared=(UNIT, "map=pred_score", "score=anomaly_map"),
        why="its map is 'pred_score'.*expected float",
    ),
    "crops inside": Refused(
        toy=Toy(
            nodes=[
                node("Slice", "input first last axes", "cut"),
                node("ReduceMean", "cut", "grey", axes=[1], keepdims=1),
                *DEVIATION[1:],
                *LARGEST,
            ],
            constants={
                name: np.array(v, np.int64)
                for name, v in {"first": [4, 4], "last": [28, 28], "axes": [2, 3]}.items()
            },
            outputs=[("anomaly_map", FLOAT, ["n", 1, 24, 24]), SCORE],
        ),
        why=r"the graph cuts or pads the picture itself \(Slice\)",
    ),
    "pads inside": Refused(
        toy=Toy(
            nodes=[
                node("Pad", "input pads", "padded"),
                node("ReduceMean", "padded", "grey", axes=[1], keepdims=1),
                *DEVIATION[1:],
                *LARGEST,
            ],
            constants={"pads": np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64)},
            outputs=[("anomaly_map", FLOAT, ["n", 1, 34, 34]), SCORE],
        ),
        why=r"the graph cuts or pads the picture itself \(Pad\)",
    ),
    "custom operators": Refused(
        toy=Toy(
            nodes=[*DEVIATION, *LARGEST, node("Surprise", "input", "more", domain="acme")], domains=["acme"]
        ),
        why=r"needs custom operators \(acme.Surprise\); libraries of custom operators are never loaded",
    ),
}


def adopt(path: Path, folder: Path, declared: Sequence[str] = (UNIT,)) -> Path:
    graph = onnx_models.read_graph(path)
    return onnx_models.adopt(
        graph, onnx_models.declare(onnx_models.recognise(graph), declared), "widget", folder
    )


@pytest.mark.parametrize("name", REFUSED)
def test_a_refusal_names_the_next_step_before_anything_is_written(name: str, tmp_path: Path) -> None:
    row = REFUSED[name]
    path = row.toy.write(tmp_path / "model.onnx")
    with pytest.raises(ArtifactError, match=row.why):
        adopt(path, tmp_path / "out", row.declared)
    assert not (tmp_path / "out").exists()


def test_missing_external_data_is_named(tmp_path: Path) -> None:
    path = Toy(external="weights.bin").write(tmp_path / "model.onnx")
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(ArtifactError, match=r"weights.bin: missing; it holds weights of model.onnx"):
        adopt(path, tmp_path / "out")


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo])
def test_a_folder_or_device_in_place_of_a_file_is_named(make: Callable[[Path], None], tmp_path: Path) -> None:
    path = Toy(external="weights.bin").write(tmp_path / "model.onnx")
    (tmp_path / "weights.bin").unlink()
    make(tmp_path / "weights.bin")
    with pytest.raises(
        ArtifactError, match=r"weights.bin: a folder or a device, not a file; it holds weights of"
    ):
        adopt(path, tmp_path / "out")
    make(tmp_path / "other.onnx")
    with pytest.raises(
        ArtifactError, match=r"other.onnx: a folder or a device, not a file; name an .onnx file"
    ):
        adopt(tmp_path / "other.onnx", tmp_path / "out")


def test_names_in_a_refusal_are_printable(tmp_path: Path) -> None:
    operator = node("Surprise", "input", "more", domain="ac\x1bme")
    path = Toy(nodes=[*DEVIATION, *LARGEST, operator], domains=["ac\x1bme"]).write(tmp_path / "model.onnx")
    with pytest.raises(ArtifactError, match=r"custom operators \('ac\\x1bme.Surprise'\)") as error:
        adopt(path, tmp_path / "out")
    assert str(error.value).isprintable()
    path = Toy(external="w\x1b.bin").write(tmp_path / "other.onnx")
    (tmp_path / "w\x1b.bin").unlink()
    with pytest.raises(ArtifactError, match=r"w\\x1b.bin': missing") as error:
        adopt(path, tmp_path / "out")
    assert str(error.value).isprintable()


@pytest.mark.parametrize("name", ["a\tb.onnx", "a\x1b[2J.onnx", " .onnx"])
def test_a_file_with_an_unprintable_name_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(
        ArtifactError, match="is not one line of printable characters; rename the file"
    ) as error:
        adopt(Toy().write(tmp_path / name), tmp_path / "out")
    assert str(error.value).isprintable()


def test_truncated_external_data_is_named(tmp_path: Path) -> None:
    path = Toy(external="weights.bin").write(tmp_path / "model.onnx")
    (tmp_path / "weights.bin").write_bytes(b"\0\0\0")
    with pytest.raises(
        ArtifactError, match=r"weights.bin: truncated: model.onnx wants 4 bytes of it, it has 3"
    ):
        adopt(path, tmp_path / "out")


@pytest.mark.parametrize("location", ["../outside.bin", "/etc/hostname", "sub/../weights.bin"])
def test_external_data_does_not_leave_the_models_folder(location: str, tmp_path: Path) -> None:
    (tmp_path / "models" / "sub").mkdir(parents=True)
    path = Toy(external="weights.bin").write(tmp_path / "models" / "model.onnx")
    (tmp_path / "outside.bin").write_bytes(b"secret!!")
    path.write_bytes(_relocated(path, location))
    with pytest.raises(ArtifactError, match=r"leaves its folder|is not the direct path"):
        adopt(path, tmp_path / "out")


def test_a_link_out_of_the_models_folder_is_not_followed(tmp_path: Path) -> None:
    path = Toy(external="weights.bin").write(tmp_path / "models" / "model.onnx")
    (tmp_path / "models" / "weights.bin").rename(tmp_path / "outside.bin")
    (tmp_path / "models" / "weights.bin").symlink_to(tmp_path / "outside.bin")
    with pytest.raises(ArtifactError, match="leaves its folder"):
        adopt(path, tmp_path / "out")


def _relocated(path: Path, location: str) -> bytes:
    import onnx

    model = onnx.load(str(path), load_external_data=False)
    for tensor in model.graph.initializer:
        next(entry for entry in tensor.external_data if entry.key == "location").value = location
    return bytes(model.SerializeToString())


@pytest.mark.parametrize("content", [b"", b"GIF89a not a model", b"\x89PNG\r\n\x1a\n" + bytes(64)])
def test_another_kind_of_file_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(content)
    with pytest.raises(ArtifactError, match=r"model.onnx: not an ONNX model, or a truncated one"):
        adopt(tmp_path / "model.onnx", tmp_path / "out")


def test_an_unknown_opset_is_refused_by_the_runtime(measure: Measure, tmp_path: Path) -> None:
    path = Toy(opset=99).write(tmp_path / "model.onnx")
    with pytest.raises(HarnessError, match=r"onnxruntime cannot load it.*(?i:opset)"):
        measure(path, UNIT)


@pytest.mark.parametrize(("operator", "what"), [("Sqrt", "NaN"), ("Reciprocal", "infinite")])
def test_outputs_that_are_not_finite_fail_the_case(
    operator: str, what: str, measure: Measure, tmp_path: Path
) -> None:
    nodes = [*DEVIATION[:2], node("Sub", "signed signed", "zero"), node("Sub", "zero level", "negative")]
    nodes += [node(operator, "negative" if operator == "Sqrt" else "zero", "anomaly_map")]
    path = Toy(nodes=nodes, outputs=[MAP]).write(tmp_path / "model.onnx")
    with pytest.raises(HarnessError, match=rf"its anomaly map holds .*{what}"):
        measure(path, UNIT)


def test_a_score_that_is_not_a_number_fails_the_case(measure: Measure, tmp_path: Path) -> None:
    nodes = [*DEVIATION[:2], node("Sub", "signed signed", "zero"), node("Sub", "zero level", "negative")]
    nodes += [node("Sqrt", "negative", "anomaly_map"), *LARGEST]
    path = Toy(nodes=nodes, outputs=[("pred_score", FLOAT, ["n"])]).write(tmp_path / "model.onnx")
    with pytest.raises(HarnessError, match="NaN or infinite scores"):
        measure(path, UNIT)


def test_shapes_that_contradict_the_file_fail_the_case(measure: Measure, tmp_path: Path) -> None:
    nodes = [*DEVIATION, node("Concat", "anomaly_map anomaly_map", "score_map", axis=1)]
    path = Toy(nodes=nodes, outputs=[("score_map", FLOAT, ["n", "c", "h", "w"])]).write(
        tmp_path / "model.onnx"
    )
    with pytest.raises(
        ArtifactError, match=r"'score_map' has shape \(1, 2, 32, 32\): not one map for each of 1"
    ):
        measure(path, UNIT)


def test_one_score_for_a_whole_batch_fails_the_case(measure: Measure, tmp_path: Path) -> None:
    largest = node("ReduceMax", "anomaly_map", "pred_score", keepdims=0)
    toy = Toy(nodes=[*DEVIATION, largest], inputs=[("input", FLOAT, [4, 3, 32, 32])])
    path = toy.write(tmp_path / "model.onnx")
    with pytest.raises(
        ArtifactError, match=r"^'pred_score' has shape \(\): not one row for each of the 4 images"
    ):
        measure(path, UNIT, batch_size=4)


def test_the_document_has_a_row_for_each() -> None:
    rows = re.findall(r"^\| (.+?) \|", DOCUMENT, flags=re.MULTILINE)
    assert set(REFUSED) <= set(rows)


def test_every_field_that_can_be_declared_is_in_the_document() -> None:
    assert [name for name in SETTABLE if f"`{name}`" not in DOCUMENT and f"{name}=" not in DOCUMENT] == []
