from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness import registry
from harness.detector import artifact
from harness.detector.artifact import Artifact
from harness.errors import Unavailable
from harness.types import AnyArray, Float32

pytestmark = pytest.mark.mindspore

FORMATS = ("onnx", "mindir")


def batch(count: int) -> Float32:
    return np.random.default_rng(count).standard_normal((count, 3, 64, 64)).astype(np.float32)


@pytest.fixture(scope="module")
def computed(exported: Artifact) -> Callable[[Float32], AnyArray]:
    """What the MindSpore cell gives."""
    from exporters.nets.padim import from_artifact
    from exporters.runtime import mindspore as ms

    net, shape, outputs = from_artifact(exported)
    assert (shape, outputs) == ((3, 64, 64), ("embedding",))

    def run(images: Float32) -> AnyArray:
        return np.asarray(net(ms.Tensor(images)).asnumpy())

    return run


@pytest.mark.parametrize("kind", FORMATS)
def test_a_variant_describes_its_file(exported: Artifact, kind: str) -> None:
    variant = exported.variant((kind,))
    assert (variant.id, variant.precision, variant.input_stage) == (f"{kind}-fp32", "fp32", "layout")
    assert (variant.input.dtype, variant.input.shape) == ("float32", (None, 3, 64, 64))
    (output,) = variant.outputs
    assert (output.name, output.dtype, output.shape) == ("embedding", "float32", (None, 100, 16, 16))
    assert exported.model_file(variant).name == f"{kind}-fp32.{kind}"
    assert set(variant.agreement) == {"1", "3"}
    assert all(0 <= difference <= 1e-4 for difference in variant.agreement.values())


def test_an_export_changes_nothing_of_the_detector_and_leaves_nothing_behind(
    fitted: Artifact, exported: Artifact
) -> None:
    assert exported.manifest.detector_sha256 == fitted.manifest.detector_sha256
    files = {path.name for path in exported.path.iterdir()} - {".lock"}
    assert files == {
        *("manifest.json", "net.safetensors", "state.safetensors"),
        *("onnx-fp32.onnx", "mindir-fp32.mindir"),
    }


def test_model_files_can_be_read_by_others(exported: Artifact) -> None:
    modes = {oct(path.stat().st_mode & 0o777) for path in exported.path.glob("*-fp32.*")}
    assert modes == {"0o644"}


def test_the_onnx_graph_is_named_checked_and_free_in_its_batch(exported: Artifact) -> None:
    import onnx

    path = exported.path / "onnx-fp32.onnx"
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    inferred = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)
    values = [*inferred.graph.input, *inferred.graph.output]
    shapes = [
        [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in values
    ]
    assert shapes == [["batch", 3, 64, 64], ["batch", 100, 16, 16]]
    assert [output.name for output in model.graph.output] == ["embedding"]
    assert not [node.op_type for node in model.graph.node if node.domain]


def test_the_onnx_file_says_which_detector_it_is(exported: Artifact) -> None:
    import onnx

    found = {item.key: item.value for item in onnx.load(exported.path / "onnx-fp32.onnx").metadata_props}
    manifest = exported.manifest
    assert found["detector_sha256"] == manifest.detector_sha256
    assert found["net_sha256"] == manifest.net_sha256
    assert (found["detector"], found["backbone"], found["category"]) == ("padim", "resnet18", "widget")
    assert found["harness"]


def test_no_constant_and_no_inner_shape_of_the_onnx_graph_holds_the_batch(exported: Artifact) -> None:
    import onnx

    model = onnx.load(exported.path / "onnx-fp32.onnx")
    assert not {"Reshape", "Expand", "Tile"} & {node.op_type for node in model.graph.node}
    constants = [node.attribute[0].t for node in model.graph.node if node.op_type == "Constant"]
    assert [onnx.numpy_helper.to_array(item).tolist() for item in constants] == [[0, 0, 1, 1] * 2]  # pads
    read = {name for node in model.graph.node for name in node.input}
    assert {item.name for item in model.graph.initializer} <= read
    inner = [
        value.type.tensor_type.shape.dim
        for value in onnx.shape_inference.infer_shapes(model).graph.value_info
    ]
    assert sum(len(shape) == 4 for shape in inner) > 30
    assert not [shape for shape in inner if len(shape) == 4 and shape[0].HasField("dim_value")]


def test_every_initializer_is_of_the_network(exported: Artifact) -> None:
    import onnx

    model = onnx.load(exported.path / "onnx-fp32.onnx")
    kept = {len(item.dims) for item in model.graph.initializer}
    small = [item for item in model.graph.initializer if len(item.dims) == 1]
    assert kept <= {1, 4}
    scales = [onnx.numpy_helper.to_array(item) for item in small if item.name.endswith(".scales")]
    assert sorted(array.tolist() for array in scales) == [[1, 1, 2, 2], [1, 1, 4, 4]]


@pytest.mark.parametrize("count", [1, 5])
def test_onnxruntime_computes_what_the_cell_does_at_any_batch(
    exported: Artifact, computed: Callable[[Float32], AnyArray], count: int
) -> None:
    onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    path = exported.path / "onnx-fp32.onnx"
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (got,) = session.run(["embedding"], {session.get_inputs()[0].name: batch(count)})
    expected = computed(batch(count))
    assert got.shape == (count, 100, 16, 16)
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-4 * float(np.abs(expected).max()))


FRESH = """
import numpy as np, sys
from exporters.runtime import mindspore as ms
graph = ms.nn.GraphCell(ms.load(sys.argv[1]))
batch = np.load(sys.argv[2])
np.save(sys.argv[3], graph(ms.Tensor(batch)).asnumpy())
"""


def test_a_mindir_runs_in_a_fresh_process_at_another_batch(
    exported: Artifact, computed: Callable[[Float32], AnyArray], tmp_path: Path
) -> None:
    np.save(tmp_path / "in.npy", batch(2))
    paths = [str(exported.path / "mindir-fp32.mindir"), str(tmp_path / "in.npy"), str(tmp_path / "out.npy")]
    subprocess.run([sys.executable, "-c", FRESH, *paths], check=True, capture_output=True, cwd=tmp_path)
    expected = computed(batch(2))
    got = np.load(tmp_path / "out.npy")
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-4 * float(np.abs(expected).max()))


def two_outputs(images: Any) -> Any:
    """A cell of two outputs of one shape."""
    from exporters.runtime import mindspore as ms

    array = images.asnumpy()
    return ms.Tensor(array), ms.Tensor(array * 2)


def faithful(images: Float32) -> dict[str, AnyArray]:
    return {"first": images, "second": images * 2}


LIES: dict[str, Callable[[dict[str, AnyArray]], dict[str, AnyArray]]] = {
    "scaled": lambda given: given | {"second": given["second"] * np.float32(1.001)},
    "swapped": lambda given: {"first": given["second"], "second": given["first"]},
    "nan": lambda given: given | {"first": np.where(given["first"] > 2, np.nan, given["first"])},
    "infinite": lambda given: given | {"first": given["first"] * np.float32(np.inf)},
    "misshapen": lambda given: given | {"first": given["first"][:, :2]},
    "one row": lambda given: {name: array[:1] for name, array in given.items()},
    "repeated row": lambda given: {name: array[:1].repeat(len(array), 0) for name, array in given.items()},
}


def agreed(artifact: Artifact, run: Callable[[Float32], dict[str, AnyArray]]) -> dict[str, float]:
    from exporters.base import Subject, agreement

    subject = Subject(
        artifact=artifact,
        cell=two_outputs,
        shape=(3, 16, 16),
        outputs=("first", "second"),
        contains=(),
        input_stage="layout",
    )
    return agreement(subject, run, what="a test")


def test_a_faithful_runner_agrees_exactly(fitted: Artifact) -> None:
    assert agreed(fitted, faithful) == {"1": 0.0, "3": 0.0}


def test_the_difference_is_relative_to_the_largest_value_and_just_within_is_kept(fitted: Artifact) -> None:
    found = agreed(fitted, lambda images: {"first": images, "second": images * np.float32(2 * (1 + 9e-5))})
    assert found == {"1": pytest.approx(9e-5, rel=0.02), "3": pytest.approx(9e-5, rel=0.02)}


@pytest.mark.parametrize("lie", LIES)
@pytest.mark.filterwarnings("ignore:invalid value")
def test_a_runner_that_computes_something_else_is_refused(fitted: Artifact, lie: str) -> None:
    from exporters.errors import ExportMismatch

    with pytest.raises(
        ExportMismatch, match=r"output (first|second) of widget: a test, batch [13].*not kept"
    ):
        agreed(fitted, lambda images: LIES[lie](faithful(images)))


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("earlier", [False, True])
def test_a_file_that_disagrees_is_not_kept_and_an_earlier_one_stays(
    fitted: Artifact,
    exported: Artifact,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    *,
    earlier: bool,
) -> None:
    from exporters.errors import ExportMismatch

    path = Path(shutil.copytree((exported if earlier else fitted).path, tmp_path / "widget"))
    before = {file.name: file.read_bytes() for file in path.iterdir() if file.is_file()}
    exporter = registry.resolve("format", kind, registry.EXPORTERS)
    module = sys.modules[exporter.__module__]
    compare = module.agreement
    monkeypatch.setattr(
        module,
        "agreement",
        lambda net, *a, **k: compare(dataclasses.replace(net, cell=lambda x: net.cell(x) * 1.001), *a, **k),
    )
    with pytest.raises(ExportMismatch, match=r"the cell's differs by 0.001"):
        exporter(artifact.read(path))
    assert {file.name: file.read_bytes() for file in path.iterdir() if file.is_file()} == before
    assert not [file for file in path.iterdir() if file.is_dir()]


def test_exporting_again_replaces_the_variant_and_gives_the_same_onnx_bytes(
    exported: Artifact, tmp_path: Path
) -> None:
    from exporters import onnx

    path = Path(shutil.copytree(exported.path, tmp_path / "widget"))
    with artifact.locked(path):
        artifact.add_variant(path, onnx.export(artifact.read(path)))
    again = artifact.read(path)
    assert [variant.id for variant in again.manifest.variants] == ["mindir-fp32", "onnx-fp32"]
    assert again.variant(("onnx",)).files == exported.variant(("onnx",)).files
    assert again.model_file(again.variant(("onnx",))).is_file()


def test_air_is_refused_with_where_it_can_be_made_and_what_replaces_it(fitted: Artifact) -> None:
    from exporters import air

    with pytest.raises(Unavailable, match=r"Ascend 910 host; AIR is deprecated.*--format onnx"):
        air.export(fitted)


def test_the_variables_mindspore_reads_at_import_are_set() -> None:
    from exporters import runtime

    environment = registry.backend("mindspore-cpu").environment
    assert runtime.mindspore.__version__
    assert environment.items() <= {name: os.environ[name] for name in environment}.items()
