"""Converts a float32 ONNX model to float16, keeps its inputs and outputs in float32, and refuses overflow.

`onnxruntime.transformers.float16` converts. It silently replaces a larger weight by 65504, and rounds between two nodes
that both stay in float32: this module refuses the first and undoes the second.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from exporters.errors import ExportError
from harness.errors import MissingExtra
from harness.types import AnyArray

try:
    import onnx
    import onnx.numpy_helper
    import onnx.shape_inference
    import onnxruntime
    from onnxruntime.transformers.float16 import convert_float_to_float16
except ImportError as _error:
    raise MissingExtra(
        "onnx and onnxruntime", "mindspore,ort", needed_for="Reducing the precision"
    ) from _error

LARGEST = float(np.finfo(np.float16).max)
"""65504."""
_FLOAT, _FLOAT16 = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16


def float16_from_float32(model: onnx.ModelProto, keep: Iterable[str]) -> onnx.ModelProto:
    """Convert a copy of `model` to float16, except the nodes named in `keep`.

    Raises:
        ExportError: a weight is beyond 65504.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    converted: onnx.ModelProto = convert_float_to_float16(
        copy, keep_io_types=True, node_block_list=sorted(keep)
    )
    _require_weights(model, converted)
    _sort(converted.graph)
    _join_casts(converted.graph)
    return converted


def require_no_overflow(converted: onnx.ModelProto, batches: Iterable[AnyArray]) -> None:
    """Run `converted` with every float16 tensor as an output, and refuse it if one is infinite or NaN.

    Raises:
        ExportError: names the tensor, the nodes around it, and how to keep them in float32; or nothing is in float16.
    """
    model = onnx.ModelProto()
    model.CopyFrom(converted)
    exposed = _exposed(model)
    if not exposed:
        raise ExportError("nothing is in float16: every node was kept in float32; pass fewer --keep-float")
    settings = onnxruntime.SessionOptions()
    settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), settings, providers=["CPUExecutionProvider"]
    )
    source = session.get_inputs()[0].name
    for batch in batches:
        for name, array in zip(exposed, session.run(exposed, {source: batch}), strict=True):
            if not np.isfinite(array).all():
                raise ExportError(_overflow(converted, name))


def _exposed(model: onnx.ModelProto) -> list[str]:
    """Make every tensor in float16 an output; gives their names in the graph's order."""
    inferred = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)
    halves = {value.name: value for value in inferred.graph.value_info if _is_half(value)}
    names = [name for node in model.graph.node for name in node.output if name in halves]
    model.graph.output.extend(halves[name] for name in names)
    return names


def _is_half(value: Any) -> bool:
    return bool(value.type.tensor_type.elem_type == _FLOAT16)


def _overflow(converted: onnx.ModelProto, name: str) -> str:
    """The message about a tensor that float16 cannot hold."""
    makers = [node for node in converted.graph.node if name in node.output]
    if makers and makers[0].op_type == "Cast":  # it rounds what the node before it computes
        makers = [node for node in converted.graph.node if makers[0].input[0] in node.output] or makers
    readers = [node for node in converted.graph.node if name in node.input]
    around = [node.name for node in (*makers, *readers) if node.op_type != "Cast"]
    options = " ".join(f"--keep-float {node_name}" for node_name in dict.fromkeys(around))
    return (
        f"tensor {name!r} is infinite or NaN in float16 on a good image: it goes beyond 65504; not kept: leave the nodes that make "
        f"and read it in float32: {options}; export --fp16-report lists all such tensors"
    )


def _require_weights(model: onnx.ModelProto, converted: onnx.ModelProto) -> None:
    halved = {name for name, tensor in _constants(converted) if tensor.data_type == _FLOAT16}
    for name, tensor in _constants(model):
        if name in halved and np.abs(onnx.numpy_helper.to_array(tensor)).max(initial=0) > LARGEST:
            readers = " ".join(f"--keep-float {node.name}" for node in model.graph.node if name in node.input)
            raise ExportError(
                f"weight {name!r} goes beyond 65504, which float16 ends at; not kept: add {readers}"
            )


def _constants(model: onnx.ModelProto) -> Iterator[tuple[str, Any]]:
    """Initializers and constant nodes, by the name of their tensor."""
    yield from ((entry.name, entry) for entry in model.graph.initializer)
    for node in model.graph.node:
        if node.op_type == "Constant":
            yield from ((node.output[0], entry.t) for entry in node.attribute if entry.HasField("t"))


def _sort(graph: onnx.GraphProto) -> None:
    """Put every node after those it reads from: the converter appends its casts."""
    made_by = {name: node for node in graph.node for name in node.output}
    ordered: dict[str, Any] = {}
    for last in graph.node:
        waiting = [last]
        while waiting:
            node = waiting[-1]
            before = [made_by[name] for name in node.input if name in made_by]
            before = [waiting for waiting in before if waiting.output[0] not in ordered]
            if not before:
                ordered[waiting.pop().output[0]] = node
            waiting += before
    nodes = list(ordered.values())
    del graph.node[:]
    graph.node.extend(nodes)


def _join_casts(graph: onnx.GraphProto) -> None:
    """Have a cast back to float32 read what was cast to float16: it then does nothing, which onnxruntime sees."""
    made_by = {name: node for node in graph.node for name in node.output}
    for node in graph.node:
        before = made_by.get(node.input[0]) if _casts_to(node, _FLOAT) else None
        if before is not None and _casts_to(before, _FLOAT16):
            node.input[0] = before.input[0]
    read = {name for node in graph.node for name in node.input} | {output.name for output in graph.output}
    for node in [node for node in graph.node if node.op_type == "Cast" and node.output[0] not in read]:
        graph.node.remove(node)


def _casts_to(node: Any, kind: int) -> bool:
    return node.op_type == "Cast" and any(
        attribute.name == "to" and attribute.i == kind for attribute in node.attribute
    )
