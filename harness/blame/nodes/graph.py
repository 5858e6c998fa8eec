"""The comparable tensors of an ONNX graph, and the part of the graph between known tensors and one output."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from harness.detector.artifact import TensorSpec
from harness.errors import ArtifactError, MissingExtra
from harness.types import AnyArray

try:
    import onnx
    import onnx.helper
    import onnx.numpy_helper
    import onnx.shape_inference
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped,unused-ignore]
    from onnx.checker import ValidationError
    from onnx.shape_inference import InferenceError
except ImportError as _error:
    raise MissingExtra("onnx", "ort", needed_for="Blame of single nodes") from _error

_FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """A float tensor that a node computes from the network's input."""

    name: str
    operator: str
    node: str
    """Name of the node, or of its first output if the node has none."""


class Graph:
    """One ONNX model with a single input."""

    def __init__(self, path: Path) -> None:
        """Read the model at `path`.

        Raises:
            ArtifactError: the file is no ONNX model, its nodes are not in topological order, or it has several inputs.
        """
        try:
            self.model = onnx.shape_inference.infer_shapes(onnx.load(str(path)))
            onnx.checker.check_model(self.model)
        except (DecodeError, ValidationError, InferenceError, OSError, ValueError) as error:
            raise ArtifactError(f"{path}: not a valid ONNX model ({error}); export it again") from error
        graph = self.model.graph
        constants = {tensor.name for tensor in graph.initializer}
        inputs = [value for value in graph.input if value.name not in constants]
        if len(inputs) != 1:
            raise ArtifactError(f"{path}: {len(inputs)} inputs; blame takes networks with one input")
        self.input = inputs[0]
        self.outputs = [value.name for value in graph.output]
        self._values = {value.name: value for value in (*graph.value_info, *graph.output, self.input)}
        self._maker = {name: index for index, node in enumerate(graph.node) for name in node.output if name}
        self.tensors = self._tensors()
        """In topological order."""

    def _tensors(self) -> tuple[Tensor, ...]:
        fed = {self.input.name}
        tensors: list[Tensor] = []
        for node in self.model.graph.node:
            if fed.isdisjoint(_reads(node)):
                continue
            fed.update(node.output)
            tensors += [
                Tensor(name=name, operator=node.op_type, node=node.name or node.output[0])
                for name in node.output
                if name in self._values and self.element(name) in _FLOATS
            ]
        return tuple(tensors)

    def element(self, name: str) -> int:
        """ONNX's number for the tensor's type."""
        return int(self._values[name].type.tensor_type.elem_type)

    def dtype(self, name: str) -> np.dtype[Any]:
        """NumPy's type for the tensor."""
        return np.dtype(onnx.helper.tensor_dtype_to_np_dtype(self.element(name)))

    def spec(self, name: str) -> TensorSpec:
        """The tensor as a variant lists an output: float32, as a session returns it; `None` for every free side."""
        shape = self._values[name].type.tensor_type.shape.dim
        sides = tuple(side.dim_value if side.HasField("dim_value") else None for side in shape)
        return TensorSpec(name=name, dtype="float32", shape=sides)

    def exposed(self, names: Sequence[str]) -> Any:
        """A copy of the model whose outputs are `names` only, without the nodes that they do not need."""
        return self._part(names, self._nodes(names, known=()), [self.input], {})

    def part(self, target: str, known: Mapping[str, AnyArray]) -> tuple[Any, dict[str, AnyArray]]:
        """The model from the nearest tensors in `known` to `target`, and its one input by name.

        A session has one input: the first known tensor that the part reads. The others become constants.

        Args:
            target: The only output.
            known: Tensor → values; the values of `target` itself are ignored.
        """
        nodes = self._nodes([target], known=known.keys() - {target})
        chosen = [self.model.graph.node[index] for index in nodes]
        computed = {name for node in chosen for name in node.output}
        read = dict.fromkeys(name for node in chosen for name in _reads(node))
        border = [name for name in read if name in known and name not in computed]
        arrays = {name: known[name].astype(self.dtype(name)) for name in border}
        source = border[0]
        value = onnx.helper.make_tensor_value_info(source, self.element(source), arrays[source].shape)
        constants = {name: array for name, array in arrays.items() if name != source}
        model = self._part([target], nodes, [value], constants)
        model.graph.output[0].type.tensor_type.ClearField("shape")  # its batch was free, the input's is not
        return onnx.shape_inference.infer_shapes(model), {source: arrays[source]}

    def operators(self, target: str, known: Collection[str]) -> tuple[str, ...]:
        """The nodes of that part without the constants, in order, for example `Conv conv1`."""
        nodes = [self.model.graph.node[index] for index in self._nodes([target], known=set(known) - {target})]
        return tuple(
            f"{node.op_type} {node.name or node.output[0]}" for node in nodes if node.op_type != "Constant"
        )

    def _nodes(self, targets: Sequence[str], *, known: Collection[str]) -> list[int]:
        """The nodes that compute `targets` from `known`, constants and the input, in the graph's order."""
        pending, seen = list(targets), set[str]()
        nodes = set()
        while pending:
            name = pending.pop()
            if name in seen or (name in known and name not in targets) or name not in self._maker:
                continue
            seen.add(name)
            nodes.add(self._maker[name])
            pending += _reads(self.model.graph.node[self._maker[name]])
        return sorted(nodes)

    def _part(
        self,
        outputs: Sequence[str],
        nodes: Sequence[int],
        inputs: Sequence[Any],
        constants: Mapping[str, AnyArray],
    ) -> Any:
        selected = [self.model.graph.node[index] for index in nodes]
        read = {name for node in selected for name in _reads(node)} | set(outputs)
        weights = [tensor for tensor in self.model.graph.initializer if tensor.name in read]
        weights += [onnx.numpy_helper.from_array(array, name) for name, array in constants.items()]
        graph = onnx.helper.make_graph(
            selected,
            self.model.graph.name or "part",
            inputs,
            [self._values[name] for name in outputs],
            weights,
        )
        return onnx.helper.make_model(
            graph,
            opset_imports=self.model.opset_import,
            functions=self.model.functions,
            ir_version=self.model.ir_version,
        )


def constants(model: Any) -> dict[str, AnyArray]:
    """Values of initializers and constant nodes by name."""
    arrays = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant" and node.attribute[0].HasField("t"):
            arrays[node.output[0]] = onnx.numpy_helper.to_array(node.attribute[0].t)
    return arrays


def _reads(node: Any) -> list[str]:
    """Tensors that a node reads, also inside its own graphs."""
    return [name for name in node.input if name] + list(_outer(node))


def _outer(node: Any) -> Iterator[str]:
    for attribute in node.attribute:
        for graph in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
            own = {value.name for value in (*graph.input, *graph.initializer)}
            own |= {name for inner in graph.node for name in inner.output}
            yield from (name for inner in graph.node for name in _reads(inner) if name not in own)
            yield from (value.name for value in graph.output if value.name not in own)
