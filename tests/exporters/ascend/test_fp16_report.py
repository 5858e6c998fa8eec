from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from harness import cli, datasets, storage
from harness.detector import artifact
from harness.detector.preprocess import Preprocessor
from harness.errors import ArtifactError
from tests.conftest import Tiny

onnx = pytest.importorskip("onnx", reason="onnx is not installed")

SCALES = {"same": 1.0, "huge": 1e6, "minute": 1e-6, "zero": 0.0}


@pytest.fixture
def widget(tiny: Tiny, tmp_path: Path) -> Path:
    """The tiny detector with a graph that multiplies the image by four constants."""
    from onnx import TensorProto, helper, numpy_helper

    path = Path(shutil.copytree(tiny.artifact, tmp_path / "widget"))
    nodes = [helper.make_node("Mul", ["image", f"{name} factor"], [name]) for name in SCALES]
    nodes.append(helper.make_node("Shape", ["image"], ["counts"]))
    factors = [numpy_helper.from_array(np.array([f], np.float32), f"{n} factor") for n, f in SCALES.items()]
    value = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 3, 32, 32]) for name in ("image", "same")
    ]
    graph = helper.make_graph(nodes, "g", value[:1], value[1:], factors)
    return replaced(path, helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8))


def replaced(path: Path, model: Any) -> Path:
    found = artifact.read(path)
    onnx.save(model, str(path / "onnx-fp32.onnx"))
    variant = msgspec.structs.replace(
        found.manifest.variants[0], files={"onnx-fp32.onnx": storage.sha256_of_file(path / "onnx-fp32.onnx")}
    )
    artifact.write_manifest(path, msgspec.structs.replace(found.manifest, variants=(variant,)))
    return path


def test_every_float_tensor_has_its_range_over_all_images_the_worst_first(widget: Path, tiny: Tiny) -> None:
    from exporters.ascend.fp16_report import report

    found = artifact.read(widget)
    category = datasets.load_category(tiny.data, "widget")
    made = report(found, category, images=100)
    ready = Preprocessor(found.manifest.preprocessing)
    images = np.stack([ready.tensor(ready.frame(ready.decode(item.path))) for item in category.train])
    by_name = {item.name: item for item in made.tensors}
    assert made.images == len(images)
    assert set(by_name) == {
        "image",
        *SCALES,
        *(f"{name} factor" for name in SCALES),
    }  # `counts` is of integers
    assert [item.name for item in made.tensors[:3]] == ["huge", "huge factor", "minute"]
    assert [item.verdict for item in made.tensors[:3]] == ["overflow", "overflow", "loses digits"]
    huge, minute, zero = (by_name[name] for name in ("huge", "minute", "zero"))
    values = images * np.float32(1e6)
    assert (huge.min, huge.max, huge.kind) == (values.min(), values.max(), "Mul")
    assert huge.overflow == pytest.approx(np.mean(np.abs(values) > 65504), abs=1e-12)
    assert huge.absmax == np.abs(values).max()
    assert minute.smallest == np.abs(images * np.float32(1e-6)).min()
    assert minute.below_normal == 1.0
    assert (zero.smallest, zero.below_normal, zero.verdict) == (None, 0.0, "fits")
    assert [by_name[name].kind for name in ("image", "same", "same factor")] == ["input", "output", "weight"]


def test_the_limits_are_float16s_own() -> None:
    from exporters.ascend.fp16_report import _Extrema

    extrema = _Extrema("weight")
    for value in (65504.0, np.nextafter(np.float32(65504), np.float32(1e9)), 2.0**-14, 2.0**-15, 0.0):
        extrema.add(np.array([value], np.float32), "t")
    found = extrema.range("t")
    assert found is not None
    assert (found.overflow, found.below_normal) == (1 / 5, 1 / 4)


def test_a_value_that_float32_cannot_hold_either_is_an_error(widget: Path, tiny: Tiny) -> None:
    from exporters.ascend.fp16_report import report

    model = onnx.load(str(widget / "onnx-fp32.onnx"))
    model.graph.node[1].op_type = "Div"
    model.graph.node[1].input[1] = "zero factor"
    with pytest.raises(ArtifactError, match="tensor huge: not finite even in float32"):
        report(artifact.read(replaced(widget, model)), datasets.load_category(tiny.data, "widget"), images=1)


def test_the_command_prints_a_table_or_json(
    widget: Path, tiny: Tiny, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["export", str(widget), "--fp16-report", "--data", str(tiny.data), "--images", "2"]
    assert cli.main(command) == 0
    text = capsys.readouterr().out
    assert "onnx-fp32 on 2 good images, 9 float tensors: 2 overflow, 2 lose digits" in text
    assert cli.main([*command, "--json"]) == 0
    (document,) = json.loads(capsys.readouterr().out)["reports"]
    assert (document["largest"], document["images"], len(document["tensors"])) == (65504.0, 2, 9)
    assert not list(widget.glob("*.log"))


@pytest.mark.mindspore
def test_a_real_network_has_all_its_layers_in_the_report(exported: Any, request_to_fit: Any) -> None:
    from exporters.ascend.fp16_report import report

    made = report(exported, request_to_fit.category, images=2)
    kinds = [item.kind for item in made.tensors]
    assert (kinds.count("Conv"), kinds.count("Relu"), kinds.count("input")) == (15, 13, 1)
    assert kinds.count("weight") >= 15 * 5
