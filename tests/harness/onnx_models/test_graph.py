"""A file is read completely, or refused with a message, whatever it holds."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnx", reason="onnx, which builds the models, is not installed")

import onnx
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from harness import onnx_models, storage
from harness.errors import ArtifactError, MissingExtra, UsageError
from harness.onnx_models import check
from tests.harness.onnx_models.models import FLOAT, Toy, as_anomalib, node


def test_it_reads_what_the_onnx_package_reads(tmp_path: Path) -> None:
    toy = as_anomalib(resizes_to=32)
    path = toy.write(tmp_path / "model.onnx")
    graph, model = onnx_models.read_graph(path), onnx.load(str(path))
    assert graph.producer == "toys"
    assert graph.opsets == {"": 13}
    assert [(n.operator, [*n.inputs], [*n.outputs]) for n in graph.nodes] == [
        (n.op_type, [*n.input], [*n.output]) for n in model.graph.node
    ]
    assert [(v.name, v.dtype, v.shape) for v in (*graph.inputs, *graph.outputs)] == [
        ("input", "float32", (None, 3, None, None)),
        ("pred_score", "float32", (None, 1)),
        ("pred_label", "bool", (None, 1)),
        ("anomaly_map", "float32", (None, 1, 32, 32)),
        ("pred_mask", "bool", (None, 1, 32, 32)),
    ]
    stored = {tensor.name: numpy_helper.to_array(tensor).ravel() for tensor in model.graph.initializer}
    assert graph.constants.keys() == stored.keys()
    for name, array in stored.items():
        assert np.array_equal(graph.constants[name], array)
    assert graph.files == {"model.onnx": storage.sha256_of_file(path)}


@pytest.mark.parametrize("values", [[-1], [0, 1, 300], [2**62, -(2**62)]])
def test_whole_numbers_are_read_packed_and_raw(values: list[int], tmp_path: Path) -> None:
    toy = Toy(nodes=[node("Relu", "input", "map")], outputs=[("map", FLOAT, ["n", 1, 32, 32])])
    model = onnx.load(str(toy.write(tmp_path / "model.onnx")))
    model.graph.initializer.append(helper.make_tensor("packed", 7, [len(values)], values))
    model.graph.initializer.append(numpy_helper.from_array(np.array(values, np.int64), "raw"))
    constant = helper.make_node("Constant", [], ["node"], value=helper.make_tensor("v", 1, [2], [0.5, 2.0]))
    model.graph.node.insert(0, constant)
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    constants = onnx_models.read_graph(tmp_path / "model.onnx").constants
    assert constants["packed"].tolist() == constants["raw"].tolist() == values
    assert constants["node"].tolist() == [0.5, 2.0]


def test_an_input_with_an_initial_value_does_not_count(tmp_path: Path) -> None:
    toy = Toy(inputs=[("input", FLOAT, ["n", 3, 32, 32]), ("level", FLOAT, [1])])
    assert [value.name for value in onnx_models.read_graph(toy.write(tmp_path / "m.onnx")).inputs] == [
        "input"
    ]


@pytest.mark.parametrize("where", ["inside a branch", "in a function", "sparse"])
def test_external_data_is_found_in_every_place(where: str, tmp_path: Path) -> None:
    path = Toy().write(tmp_path / "model.onnx")
    model = onnx.load(str(path))
    tensor = helper.make_tensor("far", 1, [1], [1.0])
    tensor.ClearField("float_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../far.bin")
    constant = helper.make_node("Constant", [], ["c"], value=tensor)
    if where == "inside a branch":
        branch = helper.make_graph([constant], "b", [], [])
        model.graph.node.append(helper.make_node("If", ["x"], ["y"], then_branch=branch, else_branch=branch))
    elif where == "in a function":
        function = helper.make_function("own", "f", [], ["c"], [constant], [helper.make_opsetid("", 13)])
        model.functions.append(function)
    else:
        model.graph.sparse_initializer.add().values.CopyFrom(tensor)
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ArtifactError, match=r"'../far.bin' leaves its folder"):
        onnx_models.read_graph(path)


@pytest.mark.parametrize("order", [1, -1])
def test_external_data_is_as_long_as_the_tensor_that_ends_last(order: int, tmp_path: Path) -> None:
    path = Toy(external="w.bin", constants={"more": np.ones(2, np.float32)}).write(tmp_path / "model.onnx")
    model = onnx.load(str(path), load_external_data=False)
    tensors = list(model.graph.initializer)[::order]
    del model.graph.initializer[:]
    model.graph.initializer.extend(tensors)
    path.write_bytes(model.SerializeToString())
    assert onnx_models.read_graph(path).files["w.bin"] == storage.sha256_of_file(tmp_path / "w.bin")
    (tmp_path / "w.bin").write_bytes(bytes(9))
    with pytest.raises(ArtifactError, match=r"wants 12 bytes of it, it has 9"):
        onnx_models.read_graph(path)


@pytest.mark.parametrize("where", ["at the top", "inside a branch", "in a function"])
def test_a_custom_operator_is_refused_in_every_place(where: str, tmp_path: Path) -> None:
    path = Toy(domains=["far"]).write(tmp_path / "model.onnx")
    model = onnx.load(str(path))
    custom = helper.make_node("Magic", ["x"], ["y"], domain="far")
    if where == "inside a branch":
        branch = helper.make_graph([custom], "b", [], [])
        custom = helper.make_node("If", ["x"], ["y"], then_branch=branch, else_branch=branch)
    if where == "in a function":
        opsets = [helper.make_opsetid("", 13), helper.make_opsetid("far", 1)]
        model.functions.append(helper.make_function("own", "f", ["x"], ["y"], [custom], opsets))
    else:
        model.graph.node.append(custom)
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ArtifactError, match=r"needs custom operators \(far\.Magic\)"):
        onnx_models.read_graph(path)


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    data = as_anomalib().write(tmp_path / "whole.onnx").read_bytes()
    for end in range(len(data)):  # it ends with the opset: nothing that may be left out follows
        (tmp_path / "model.onnx").write_bytes(data[:end])
        with pytest.raises(ArtifactError, match="not an ONNX model, or a truncated one"):
            onnx_models.read_graph(tmp_path / "model.onnx")


@pytest.fixture(scope="module")
def complete_file(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return as_anomalib(resizes_to=32).write(tmp_path_factory.mktemp("whole") / "model.onnx").read_bytes()


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=6))
def test_a_file_with_wrong_bytes_is_read_or_refused_with_a_message(
    changes: list[tuple[int, int]], complete_file: bytes, tmp_path: Path
) -> None:
    data = bytearray(complete_file)
    for at, byte in changes:
        data[at % len(data)] = byte
    (tmp_path / "model.onnx").write_bytes(data)
    try:
        graph = onnx_models.read_graph(tmp_path / "model.onnx")
        check.require(graph, onnx_models.recognise(graph))
    except (ArtifactError, UsageError):  # anything else would be a defect
        return


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=80))
def test_any_bytes_are_read_or_refused(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(data)
    try:
        onnx_models.read_graph(tmp_path / "model.onnx")
    except ArtifactError:
        return


def test_deeply_nested_graphs_are_refused(tmp_path: Path) -> None:
    graph = b""
    for _ in range(3000):
        for number in (6, 5, 1):  # Attribute.graph, Node.attribute, Graph.node
            graph = bytes([number << 3 | 2]) + _size(len(graph)) + graph
    (tmp_path / "model.onnx").write_bytes(bytes([7 << 3 | 2]) + _size(len(graph)) + graph)
    with pytest.raises(ArtifactError, match=r"model.onnx: not an ONNX model, or a truncated one"):
        onnx_models.read_graph(tmp_path / "model.onnx")


def _size(value: int) -> bytes:
    encoded = bytearray()
    while value > 127:
        encoded.append(value & 127 | 128)
        value >>= 7
    return bytes((*encoded, value))


def test_a_missing_onnx_gives_the_install_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = Toy().write(tmp_path / "model.onnx")
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(MissingExtra, match=r"needs onnx.*pip install 'anomaly-parity-harness\[ort\]'$"):
        onnx_models.read_graph(path)


@pytest.mark.parametrize("suffix", [".json", ".textproto", ".onnxtxt"])
def test_a_file_with_any_suffix_is_read_as_protobuf(suffix: str, tmp_path: Path) -> None:
    path = Toy().write(tmp_path / f"model{suffix}")
    assert onnx_models.read_graph(path).opsets == {"": 13}
