"""`bench MODEL.onnx` and `onnx describe` from the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx", reason="onnx, which builds the models, is not installed")

from harness.cli import main
from tests.conftest import Tiny
from tests.harness.onnx_models.models import BOOL, DEVIATION, FLOAT, LARGEST, MAP, Toy, as_anomalib, node

Capture = pytest.CaptureFixture[str]


def exit_code(arguments: list[str]) -> int:
    """The exit code of a command whose arguments may be wrong."""
    try:
        return main(arguments)
    except SystemExit as end:
        return int(str(end.code))


def bench(model: Path, tiny: Tiny, tmp_path: Path, *more: str) -> list[str]:
    data = ["--data", str(tiny.data), "--category", "widget", "--out", str(tmp_path / "results")]
    return ["bench", str(model), *data, "--backend", "onnxruntime-cpu", "--threads", "1", *more]


def document(capsys: Capture) -> Any:
    return json.loads(capsys.readouterr().out)


def test_an_export_of_anomalib_is_scored_once_and_its_artifact_reused(
    tiny: Tiny, tmp_path: Path, capsys: Capture
) -> None:
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    model = as_anomalib(resizes_to=32).write(tmp_path / "stfpm.onnx")
    assert main(bench(model, tiny, tmp_path, "--json")) == 0
    (record,) = document(capsys)["records"]
    assert (record["status"], record["case"]["backbone"], record["thresholds"]["image"]) == (
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
    (record,) = document(capsys)["records"]
    assert (record["status"], record["metrics"]) == ("failed", {})
    assert "opset" in record["reason"].lower()


def test_a_runtimes_quotes_from_a_model_are_not_printed_raw(
    tiny: Tiny, tmp_path: Path, capsys: Capture
) -> None:
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    wrong = node("Reshape", "input shape", "reshaped")
    wrong.name = "evil\x1b[2J"
    toy = Toy(
        nodes=[*DEVIATION, *LARGEST, wrong],
        outputs=[MAP, ("pred_score", FLOAT, ["n"]), ("reshaped", FLOAT, ["a"])],
        constants={"shape": np.array([7], np.int64)},
        metadata={"harness.range": "unit"},
    )
    assert main(bench(toy.write(tmp_path / "model.onnx"), tiny, tmp_path)) == 3
    printed = capsys.readouterr()
    assert "evil\\x1b[2J" in printed.err
    assert "\x1b[2J" not in printed.err + printed.out


def test_a_classifier_is_refused_with_a_message(tiny: Tiny, tmp_path: Path, capsys: Capture) -> None:
    nodes = [node("Flatten", "input", "logits")]
    model = Toy(nodes=nodes, outputs=[("logits", FLOAT, ["n", 3072])]).write(tmp_path / "model.onnx")
    assert main(bench(model, tiny, tmp_path, "--json")) == 2
    assert "not an anomaly detector" in document(capsys)["error"]
    assert not (tmp_path / "results").exists()


def test_a_drafted_manifest_is_completed_by_hand_and_used(
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


def test_unknown_fields_are_described_in_words(tmp_path: Path, capsys: Capture) -> None:
    toy = Toy(outputs=[("pred_score", FLOAT, ["n"])])
    assert main(["onnx", "describe", str(toy.write(tmp_path / "model.onnx"))]) == 0
    shown = capsys.readouterr().out
    assert "map: none: pixel metrics are undefined" in shown
    assert "image_threshold: unknown: parity of decisions cannot be measured" in shown
    toy = Toy(nodes=DEVIATION, outputs=[MAP])
    assert main(["onnx", "describe", str(toy.write(tmp_path / "model.onnx"))]) == 0
    assert "score: the largest value of the map" in capsys.readouterr().out


def test_a_draft_never_replaces_a_file(tmp_path: Path, capsys: Capture) -> None:
    model = Toy().write(tmp_path / "model.onnx")
    before = model.read_bytes()
    assert main(["onnx", "describe", str(model), "--out", str(model)]) == 2
    assert f"--out {model}: is there already: name another file, or move it away" in capsys.readouterr().err
    assert model.read_bytes() == before


def test_a_manifest_overrides_the_fields_that_a_draft_leaves_out(
    tiny: Tiny, tmp_path: Path, capsys: Capture
) -> None:
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    metadata = {"harness.range": "unit", "harness.sise": "3"}
    model, manifest = Toy(metadata=metadata).write(tmp_path / "model.onnx"), tmp_path / "manifest.json"
    assert main(["onnx", "describe", str(model), "--out", str(manifest)]) == 0
    assert (
        "to be declared: its metadata 'harness.sise' is '3': unknown declaration" in capsys.readouterr().out
    )
    assert main(bench(model, tiny, tmp_path)) == 2
    assert f"{model}: its metadata 'harness.sise' is '3'" in capsys.readouterr().err
    assert not (tmp_path / "results").exists()
    assert main(bench(model, tiny, tmp_path, "--manifest", str(manifest))) == 0


def test_a_manifest_does_not_make_a_model_of_two_inputs_a_detector(
    tiny: Tiny, tmp_path: Path, capsys: Capture
) -> None:
    manifest = tmp_path / "manifest.json"
    assert (
        main(["onnx", "describe", str(as_anomalib().write(tmp_path / "a.onnx")), "--out", str(manifest)]) == 0
    )
    two = Toy(inputs=[("a", FLOAT, MAP[2]), ("b", FLOAT, MAP[2])]).write(tmp_path / "two.onnx")
    assert main(bench(two, tiny, tmp_path, "--manifest", str(manifest))) == 2
    assert "takes 2 inputs" in capsys.readouterr().err


def test_texts_of_the_file_are_not_printed_raw(tmp_path: Path, capsys: Capture) -> None:
    strange = "x\x1b[2Jy\u202e"
    graph_input = node("Greater", "s level", "label")
    graph_input.input[0] = graph_input.output[0] = strange
    largest = node("ReduceMax", "anomaly_map", "s", axes=[1, 2, 3], keepdims=0)
    largest.output[0] = strange
    graph_input.output[0] = f"{strange}?"
    toy = Toy(
        nodes=[*DEVIATION, largest, graph_input],
        outputs=[MAP, (strange, FLOAT, ["n"]), (f"{strange}?", BOOL, ["n"])],
        metadata={"harness.score": strange, f"harness.{strange}": strange},
        producer=strange,
    )
    model = toy.write(tmp_path / "model.onnx")
    assert main(["onnx", "describe", str(model)]) == 0
    shown = capsys.readouterr().out
    assert all(line.isprintable() for line in shown.splitlines())
    for printed in ("model.onnx: 'x\\x1b[2Jy\\u202e'", "score: 'x\\x1b[2Jy\\u202e'", "'harness.x\\x1b[2Jy"):
        assert printed in shown
    assert main(["onnx", "describe", str(model), "--set", "map=none"]) == 2
    assert all(line.isprintable() for line in capsys.readouterr().err.splitlines())


def test_texts_of_a_manifest_are_not_printed_raw(tiny: Tiny, tmp_path: Path, capsys: Capture) -> None:
    model, manifest = Toy().write(tmp_path / "model.onnx"), tmp_path / "manifest.json"
    assert main(["onnx", "describe", str(model), "--out", str(manifest)]) == 0
    capsys.readouterr()
    manifest.write_text(json.dumps(json.loads(manifest.read_bytes()) | {"how": {"size": "\x1b[2J"}}))
    assert main(bench(model, tiny, tmp_path, "--manifest", str(manifest))) == 2
    printed = capsys.readouterr()
    assert "size: 32x32 ('\\x1b[2J')" in printed.out
    assert "\x1b" not in printed.out + printed.err


def test_describe_gives_the_manifest_as_json(tmp_path: Path, capsys: Capture) -> None:
    model = Toy().write(tmp_path / "model.onnx")
    assert main(["onnx", "describe", str(model), "--json", "--set", "range=byte"]) == 0
    printed = document(capsys)
    assert (printed["manifest"]["range"], printed["manifest"]["size"], printed["open"]) == (
        "byte",
        [32, 32],
        [],
    )


@pytest.mark.parametrize(
    ("more", "why"),
    [
        (("--artifact", "x"), "bench takes one .onnx file, alone"),
        (("--suite", "padim"), "unrecognized arguments: "),
        (("--variant", "x"), "bench --variant needs an artifact"),
        (("--inputs", "x"), "bench --inputs needs an artifact"),
        (("--outputs", "x"), "replay RESULTS --artifact DIR"),
        (("--weights", "x"), "unrecognized arguments: --weights x"),
        (("--backend", "mindspore-cpu"), "--backend mindspore-cpu opens no ONNX"),
        (("--category", "nothing"), "nothing"),
        (("--onnx", "second.onnx"), "bench takes one .onnx file, alone"),
        (("--set", "mean=0", "--set", "std=0"), "--set std=0: Expected `float` > 0"),
        (("--set", "colour=bgr"), "--set colour=bgr: Invalid enum value 'bgr'; one of RGB, BGR, GREY"),
        (("--set", "name=a\nb"), "is not one line of printable characters"),
    ],
)
def test_contradicting_options_are_refused(
    more: tuple[str, ...], why: str, tiny: Tiny, tmp_path: Path, capsys: Capture
) -> None:
    model = as_anomalib().write(tmp_path / "model.onnx")
    assert exit_code(bench(model, tiny, tmp_path, *more)) == 2
    assert why in capsys.readouterr().err
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize(("batch_size", "code"), [(1, 2), (3, 0), (6, 2), (None, 0)])
def test_a_fixed_batch_runs_with_its_own_batch_size_only(
    batch_size: int | None, code: int, tiny: Tiny, tmp_path: Path, capsys: Capture
) -> None:
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    toy = Toy(
        inputs=[("input", FLOAT, [3, 3, 32, 32])],
        outputs=[("anomaly_map", FLOAT, [3, 1, 32, 32]), ("pred_score", FLOAT, [3])],
        metadata={"harness.range": "unit"},
    )
    model = toy.write(tmp_path / "model.onnx")
    requested = [] if batch_size is None else ["--batch-size", str(batch_size)]
    assert main(bench(model, tiny, tmp_path, *requested, "--json")) == code
    printed = document(capsys)
    assert (tmp_path / "results").exists() == (code == 0)
    if code:
        assert f"--batch-size {batch_size}: {model} runs 3 images at a time" in printed["error"]
        assert printed["error"].endswith("leave it out")
    else:
        (record,) = printed["records"]
        assert record["case"]["batch_size"] == 3
        assert record["device"]["options"]["batches"] == "3 (a rest is filled up with its last row)"


@pytest.mark.parametrize(("operator", "constant"), [("Sub", True), ("Add", False)])
def test_equal_scores_give_a_warning(
    operator: str, constant: Any, tiny: Tiny, tmp_path: Path, capsys: Capture
) -> None:
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    nodes = [*DEVIATION[:2], node(operator, "signed signed", "anomaly_map"), *LARGEST]
    model = Toy(nodes=nodes, metadata={"harness.range": "unit"}).write(tmp_path / "model.onnx")
    assert main(bench(model, tiny, tmp_path)) == 0
    word = "onnxruntime-cpu widget: all 8 scores are 0: the detector distinguishes nothing"
    assert (word in capsys.readouterr().out) == constant


@pytest.mark.parametrize("more", [("--manifest", "m.json"), ("--set", "range=unit")])
def test_declarations_without_a_model_are_refused(more: tuple[str, ...], capsys: Capture) -> None:
    assert main(["bench", *more]) == 2
    assert f"bench {more[0]} needs a MODEL" in capsys.readouterr().err


def test_data_and_category_must_be_named(tmp_path: Path, capsys: Capture) -> None:
    assert main(["bench", str(as_anomalib().write(tmp_path / "model.onnx"))]) == 2
    assert "bench MODEL.onnx needs --data DIR" in capsys.readouterr().err
