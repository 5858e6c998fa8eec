"""An ONNX model in float16, as an NPU computes it: every tensor rounded to float16, each operator inside in float32.

Weights, inputs and the result of every operator lose what float16 cannot hold: above 65504 they become infinite,
below 6e-8 zero, and 1 + 1e-4 becomes 1. A sum inside one operator (a convolution, a mean) is taken in float32 and
rounded once, as the cube unit does. An NPU also fuses operators, which rounds less often, and its vector unit may sum
in float16, which rounds more often: the bits are not those of a device, the order of the error is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

import numpy as np

from harness.types import AnyArray

_FLOAT, _HALF = 1, 10  # onnx.TensorProto.FLOAT, FLOAT16
_NARROW = (_HALF, 16)  # and BFLOAT16
_SIZES = {"Resize": (1, 2), "Upsample": (1,)}
"""Inputs that say where to sample, not what: region and scales are attributes of the compiled operator."""


class DamagedModelError(ValueError):
    """The bytes are not a whole ONNX model."""


class Graph:
    """One loaded model; one thread of onnxruntime's CPU provider, the same bits each time."""

    def __init__(self, onnx: bytes, *, half: bool) -> None:
        """Load an ONNX model, to compute in float16 (`half`) or as it says.

        Raises:
            DamagedModelError: it is cut short, or no ONNX model.
            ValueError: `half` of a model with subgraphs, functions, float16 tensors or tensors of unknown type, or
                on an onnxruntime that does not keep the rounding.
        """
        _check(onnx)
        self._half = half
        if half:
            _require_rounding()
        self._session = _session(_rounded(onnx) if half else onnx, plain=half)
        self._inputs = {value.name: _NUMPY[value.type] for value in self._session.get_inputs()}
        self.outputs = tuple(value.name for value in self._session.get_outputs())

    def run(self, inputs: Mapping[str, AnyArray]) -> list[AnyArray]:
        """Outputs in the model's order, in the model's dtypes; floating inputs of any width are taken."""
        feeds = {name: np.ascontiguousarray(self._fed(array, name)) for name, array in inputs.items()}
        return list(self._session.run(None, feeds))

    def _fed(self, array: AnyArray, name: str) -> AnyArray:
        if self._half and array.dtype.kind == "f":
            array = rounded(array)
        return array.astype(self._inputs[name], copy=False)


def rounded(array: AnyArray) -> AnyArray:
    """The values a float16 can hold, as float32."""
    with np.errstate(over="ignore"):
        return array.astype(np.float16).astype(np.float32)


_NUMPY = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(uint8)": np.uint8,
    "tensor(int8)": np.int8,
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
    "tensor(bool)": np.bool_,
}


def _check(model: bytes) -> None:
    import onnx

    try:
        onnx.checker.check_model(model)
    except (onnx.checker.ValidationError, ValueError, RuntimeError) as error:
        raise DamagedModelError(f"its ONNX model is damaged: {error}") from error


def _session(model: bytes, *, plain: bool) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    if plain:  # A fused operator would not round in its middle.
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _rounded(model: bytes) -> bytes:
    """The model with weights rounded, and a cast to float16 and back behind every operator."""
    import onnx

    proto = onnx.shape_inference.infer_shapes(onnx.load_model_from_string(model))
    graph = proto.graph
    if proto.functions or graph.sparse_initializer:
        raise ValueError("float16 is not simulated for models with functions or sparse weights")
    types = {
        value.name: value.type.tensor_type.elem_type
        for value in (*graph.input, *graph.value_info, *graph.output)
    }
    sizes = {
        node.input[i] for node in graph.node for i in _SIZES.get(node.op_type, ()) if i < len(node.input)
    }
    for weight in graph.initializer:
        if weight.data_type in _NARROW:
            raise ValueError(
                f"{weight.name}: float16 is not simulated for models that hold float16 themselves"
            )
        if weight.data_type == _FLOAT and weight.name not in sizes:
            values = rounded(onnx.numpy_helper.to_array(weight))
            weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))
    nodes = [rounding for node in graph.node for rounding in _with_rounding(node, types, sizes)]
    del graph.node[:], graph.value_info[:]
    graph.node.extend(nodes)
    return bytes(proto.SerializeToString())


def _with_rounding(node: Any, types: Mapping[str, int], sizes: set[str]) -> Iterator[Any]:
    from onnx import AttributeProto, helper

    if any(attribute.type in (AttributeProto.GRAPH, AttributeProto.GRAPHS) for attribute in node.attribute):
        raise ValueError(f"{node.op_type} {node.name}: float16 is not simulated for operators with subgraphs")
    casts = []
    for index, name in enumerate(node.output):
        if not name:
            continue
        if types.get(name, 0) in (0, *_NARROW):
            raise ValueError(
                f"{node.op_type} {node.name}: float16 is not simulated for {name}, whose type is unknown or "
                "float16 already"
            )
        if types[name] == _FLOAT and name not in sizes:
            exact, narrow = f"{name}/exact", f"{name}/float16"
            node.output[index] = exact
            casts += [
                helper.make_node("Cast", [exact], [narrow], to=_HALF),
                helper.make_node("Cast", [narrow], [name], to=_FLOAT),
            ]
    yield node
    yield from casts


@cache
def _require_rounding() -> None:
    """Try it: some releases of onnxruntime take a cast to float16 and back for nothing, and remove it.

    Raises:
        ValueError: this release does.
    """
    from onnx import helper

    values = [helper.make_tensor_value_info(name, _FLOAT, [3]) for name in ("x", "y")]
    weights = [helper.make_tensor(name, _FLOAT, [1], [value]) for name, value in (("up", 2.0), ("down", 0.5))]
    nodes = [helper.make_node("Mul", ["x", "up"], ["z"]), helper.make_node("Mul", ["z", "down"], ["y"])]
    opset = helper.make_opsetid("", 13)
    model = helper.make_model(
        helper.make_graph(nodes, "probe", values[:1], values[1:], weights),
        opset_imports=[opset],
        ir_version=8,
    )
    probe = np.array([40000, 1 + 1e-4, 2**-24], np.float32)
    (rounded,) = _session(_rounded(model.SerializeToString()), plain=True).run(None, {"x": probe})
    if not np.array_equal(rounded, np.array([np.inf, 1, 2**-24], np.float32)):
        import onnxruntime

        raise ValueError(
            f"onnxruntime {onnxruntime.__version__} does not round to float16 between operators ({rounded}): "
            "use another release for the simulator"
        )
