"""What each unsuitable or broken model gets: the table of docs/onnx.md, row by row."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnx", reason="onnx, which builds the models, is not installed")

from harness import foreign
from harness.errors import ArtifactError, HarnessError
from harness.foreign.description import SETTABLE
from tests.harness.foreign.conftest import Measure
from tests.harness.foreign.models import BOOL, DEVIATION, FLOAT, HALF, LARGEST, MAP, PICTURE, SCORE, Toy, node

DOCUMENT = (Path(__file__).parents[3] / "docs" / "onnx.md").read_text(encoding="utf-8")
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
    "custom operators": Refused(
        toy=Toy(
            nodes=[*DEVIATION, *LARGEST, node("Surprise", "input", "more", domain="acme")], domains=["acme"]
        ),
        why=r"needs custom operators \(acme.Surprise\); libraries of custom operators are never loaded",
    ),
}


def adopt(path: Path, folder: Path, declared: Sequence[str] = (UNIT,)) -> Path:
    graph = foreign.read_graph(path)
    return foreign.adopt(graph, foreign.declare(foreign.recognise(graph), declared), "widget", folder)


@pytest.mark.parametrize("name", REFUSED)
def test_is_refused_with_what_to_do_before_anything_is_written(name: str, tmp_path: Path) -> None:
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
    with pytest.raises(ArtifactError, match=r"leaves its folder|takes a way round"):
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
def test_another_kind_of_file_is_no_model(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(content)
    with pytest.raises(ArtifactError, match=r"model.onnx: not an ONNX model, or a truncated one"):
        adopt(tmp_path / "model.onnx", tmp_path / "out")


def test_an_opset_that_the_runtime_does_not_know_is_its_refusal(measure: Measure, tmp_path: Path) -> None:
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


def test_shapes_other_than_the_file_promised_fail_the_case(measure: Measure, tmp_path: Path) -> None:
    nodes = [*DEVIATION, node("Concat", "anomaly_map anomaly_map", "score_map", axis=1)]
    path = Toy(nodes=nodes, outputs=[("score_map", FLOAT, ["n", "c", "h", "w"])]).write(
        tmp_path / "model.onnx"
    )
    with pytest.raises(
        ArtifactError, match=r"'score_map' has shape \(1, 2, 32, 32\): not one map for each of 1"
    ):
        measure(path, UNIT)


def test_the_document_has_a_row_for_each() -> None:
    rows = re.findall(r"^\| (.+?) \|", DOCUMENT, flags=re.MULTILINE)
    assert set(REFUSED) <= set(rows)


def test_every_field_that_can_be_declared_is_in_the_document() -> None:
    assert [name for name in SETTABLE if f"`{name}`" not in DOCUMENT and f"{name}=" not in DOCUMENT] == []
