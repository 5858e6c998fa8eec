from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from exporters.fit import plugin
from harness import datasets
from harness.build import FitRequest
from harness.contracts import DetectorPlugin, Images, Learnt
from harness.detector import artifact
from harness.detector.artifact import HeadSpec
from harness.detector.preprocess import Preprocessor, standard_steps
from harness.detector.settings import Settings
from harness.errors import PluginError

onnx = pytest.importorskip("onnx")
HEAD = HeadSpec(name="given", parameters={"map": None, "score": "score"})


def model(*, inputs: int = 1, batch: str | int = "batch") -> bytes:
    """The largest value of each image, from the first of `inputs` inputs."""
    shape = [batch, 3, 32, 32]
    sources = [
        onnx.helper.make_tensor_value_info(f"image{number}", onnx.TensorProto.FLOAT, shape)
        for number in range(inputs)
    ]
    score = onnx.helper.make_tensor_value_info("score", onnx.TensorProto.FLOAT, [batch])
    node = onnx.helper.make_node("ReduceMax", ["image0"], ["score"], axes=[1, 2, 3], keepdims=0)
    graph = onnx.helper.make_graph([node], "largest", sources, [score])
    opset = onnx.helper.make_opsetid("", 11)
    return bytes(onnx.helper.make_model(graph, opset_imports=[opset], ir_version=6).SerializeToString())


@pytest.fixture
def images(tiny: Any) -> Images:
    category = datasets.load_category(tiny.data, "widget")
    return Images(samples=category.train, preprocessor=Preprocessor(standard_steps(32, 32)))


def learnt(**fields: Any) -> Learnt:
    return Learnt(head=HEAD, state={}, **fields)


def request(tiny: Any, out: Path) -> FitRequest:
    return FitRequest(
        detector="largest",
        backbone="none",
        weights=None,
        dataset="data",
        category=datasets.load_category(tiny.data, "widget"),
        out=out,
        settings=Settings(),
    )


def detector(result: Learnt) -> DetectorPlugin:
    def learn(*_: Any, **__: Any) -> Learnt:
        return result

    return DetectorPlugin(learn=learn)


def test_the_network_that_copies_is_a_valid_graph_of_any_size() -> None:
    ort = pytest.importorskip("onnxruntime")
    network = onnx.load_from_string(plugin._COPY_ONNX)
    onnx.checker.check_model(network, full_check=True)
    session = ort.InferenceSession(plugin._COPY_ONNX, providers=["CPUExecutionProvider"])
    for shape in ((1, 3, 8, 8), (3, 1, 5, 7)):
        batch = np.random.default_rng(0).normal(size=shape).astype(np.float32)
        np.testing.assert_array_equal(session.run(["copy"], {"image": batch})[0], batch)
        np.testing.assert_array_equal(plugin.copied(batch)["copy"], batch)


def test_the_size_of_the_map_is_added_to_the_head(tiny: Any, images: Images, tmp_path: Path) -> None:
    result = plugin.learn(detector(learnt()), request(tiny, tmp_path), images, images)
    assert result.head.parameters == {"map_size": [32, 32], "map": None, "score": "score"}


@pytest.mark.parametrize("fields", [{"run": plugin.copied}, {"onnx": b"network"}])
def test_a_network_without_its_file_is_refused(
    tiny: Any, images: Images, tmp_path: Path, fields: dict[str, Any]
) -> None:
    with pytest.raises(PluginError, match="only one of `run` and `onnx`"):
        plugin.learn(detector(learnt(**fields)), request(tiny, tmp_path), images, images)


def test_a_network_of_its_own_is_listed_as_its_file_says(tiny: Any, images: Images, tmp_path: Path) -> None:
    manifest = artifact.read(tiny.artifact).manifest
    changed = plugin.with_variant(tmp_path, manifest, learnt(run=plugin.copied, onnx=model()), images)
    (variant,) = changed.variants
    assert variant.input.shape == (None, 3, 32, 32)
    assert [(output.name, output.shape) for output in variant.outputs] == [("score", (None,))]
    assert (tmp_path / variant.model).read_bytes() == model()


@pytest.mark.parametrize("faulty", [model(inputs=2), model(batch=1)], ids=["inputs", "batch"])
def test_a_network_that_no_backend_could_feed_is_refused(
    tiny: Any, images: Images, tmp_path: Path, faulty: bytes
) -> None:
    manifest = artifact.read(tiny.artifact).manifest
    with pytest.raises(PluginError, match="one input is needed, and float32 with a free batch axis"):
        plugin.with_variant(tmp_path, manifest, learnt(run=plugin.copied, onnx=faulty), images)


def test_the_digest_follows_the_version_and_the_source() -> None:
    one = detector(learnt())
    assert plugin.code_digest(one, "p 1.0") == plugin.code_digest(one, "p 1.0")
    assert plugin.code_digest(one, "p 1.0") != plugin.code_digest(one, "p 1.1")
