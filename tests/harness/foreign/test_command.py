"""`bench --onnx` and `onnx describe` from the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("onnx", reason="onnx, which builds the models, is not installed")

from harness.cli import main
from tests.conftest import Tiny
from tests.harness.foreign.models import FLOAT, Toy, as_anomalib, node

Capture = pytest.CaptureFixture[str]


def bench(model: Path, tiny: Tiny, tmp_path: Path, *more: str) -> list[str]:
    data = ["--data", str(tiny.data), "--category", "widget", "--out", str(tmp_path / "results")]
    return ["bench", "--onnx", str(model), *data, "--backend", "onnxruntime-cpu", "--threads", "1", *more]


def document(capsys: Capture) -> Any:
    return json.loads(capsys.readouterr().out)


def test_an_export_of_anomalib_is_scored_once_and_its_artifact_reused(
    tiny: Tiny, tmp_path: Path, capsys: Capture
) -> None:
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    model = as_anomalib(resizes_to=32).write(tmp_path / "stfpm.onnx")
    assert main(bench(model, tiny, tmp_path, "--json")) == 0
    (made,) = document(capsys)["records"]
    assert (made["status"], made["case"]["backbone"], made["thresholds"]["image"]) == (
        "measured",
        "stfpm",
        0.5,
    )
    (folder,) = (tmp_path / "results" / "onnx").iterdir()
    assert sorted(path.name for path in (folder / "widget").iterdir()) == [
        "manifest.json",
        "model",
        "state.safetensors",
    ]
    assert main(bench(model, tiny, tmp_path)) == 0
    shown = capsys.readouterr().out
    assert "1 of 1 cases were measured before" in shown
    assert "range: unit (anomalib's outputs, and the graph normalises)" in shown
    assert [*(tmp_path / "results" / "onnx").iterdir()] == [folder]


def test_a_model_that_cannot_run_leaves_a_failed_record(tiny: Tiny, tmp_path: Path, capsys: Capture) -> None:
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    model = Toy(opset=99).write(tmp_path / "model.onnx")
    assert main(bench(model, tiny, tmp_path, "--set", "range=unit", "--json")) == 3
    (made,) = document(capsys)["records"]
    assert (made["status"], made["metrics"]) == ("failed", {})
    assert "opset" in made["reason"].lower()


def test_a_classifier_gets_a_word_and_no_number(tiny: Tiny, tmp_path: Path, capsys: Capture) -> None:
    nodes = [node("Flatten", "input", "logits")]
    model = Toy(nodes=nodes, outputs=[("logits", FLOAT, ["n", 3072])]).write(tmp_path / "model.onnx")
    assert main(bench(model, tiny, tmp_path, "--json")) == 2
    assert "not an anomaly detector" in document(capsys)["error"]
    assert not (tmp_path / "results").exists()


def test_a_drafted_manifest_is_completed_by_hand_and_taken(
    tiny: Tiny, tmp_path: Path, capsys: Capture
) -> None:
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    model, manifest = Toy().write(tmp_path / "model.onnx"), tmp_path / "manifest.json"
    assert main(["onnx", "describe", str(model), "--out", str(manifest)]) == 0
    shown = capsys.readouterr().out
    assert "colour: RGB (assumed: no ONNX file says it)" in shown
    assert "to be declared: what range its pixel values have is in no ONNX file" in shown
    assert main(bench(model, tiny, tmp_path, "--manifest", str(manifest), "--json")) == 2
    assert "declare --set range=" in document(capsys)["error"]
    manifest.write_text(json.dumps(json.loads(manifest.read_bytes()) | {"range": "unit"}))
    assert main(bench(model, tiny, tmp_path, "--manifest", str(manifest), "--json")) == 0
    assert document(capsys)["records"][0]["fit"]["settings"]["range"] == "unit"


def test_describe_gives_the_manifest_as_json(tmp_path: Path, capsys: Capture) -> None:
    model = Toy().write(tmp_path / "model.onnx")
    assert main(["onnx", "describe", str(model), "--json", "--set", "range=byte"]) == 0
    told = document(capsys)
    assert (told["manifest"]["range"], told["manifest"]["size"], told["open"]) == ("byte", [32, 32], [])


@pytest.mark.parametrize(
    ("more", "why"),
    [
        (("--artifact", "x"), "--artifact does not go with --onnx"),
        (("--suite", "padim"), "--suite does not go with --onnx"),
        (("--variant", "x"), "--variant does not go with --onnx"),
        (("--inputs", "x"), "--inputs does not go with --onnx"),
        (("--outputs", "x"), "--outputs does not go with --onnx"),
        (("--backend", "mindspore-cpu"), "--backend mindspore-cpu opens no ONNX"),
        (("--category", "nothing"), "nothing"),
    ],
)
def test_what_contradicts_is_refused(
    more: tuple[str, ...], why: str, tiny: Tiny, tmp_path: Path, capsys: Capture
) -> None:
    model = as_anomalib().write(tmp_path / "model.onnx")
    assert main(bench(model, tiny, tmp_path, *more)) == 2
    assert why in capsys.readouterr().err
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("more", [("--manifest", "m.json"), ("--set", "range=unit")])
def test_declarations_without_a_model_are_refused(more: tuple[str, ...], capsys: Capture) -> None:
    assert main(["bench", *more]) == 2
    assert "describe the model of --onnx FILE" in capsys.readouterr().err


def test_data_and_category_must_be_named(tmp_path: Path, capsys: Capture) -> None:
    assert main(["bench", "--onnx", str(as_anomalib().write(tmp_path / "model.onnx"))]) == 2
    assert "bench --onnx needs --data DIR" in capsys.readouterr().err
