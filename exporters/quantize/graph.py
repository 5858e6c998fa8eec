"""Prepares a float32 ONNX graph for a reduced precision, and selects the nodes that stay in float32."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np

from harness.detector.artifact import HEAD, Variant
from harness.errors import ArtifactError, MissingExtra, UsageError

try:
    import onnx
    import onnx.numpy_helper
except ImportError as _error:
    raise MissingExtra("onnx", "mindspore", needed_for="Reducing the precision") from _error

_NET = "net."
"""What the parameters of a network begin with where its graph also holds the head (`harness.registry.NETS_WITH_HEAD`)."""
_WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_FLOATS = (onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16, onnx.TensorProto.DOUBLE)


def require_float32(model: onnx.ModelProto, where: str) -> None:
    """Refuse a graph that is not in float32 from its inputs to its outputs.

    Raises:
        ArtifactError: it is quantised, or in another float type, or computes no floats at all.
    """
    quantised = sorted({node.op_type for node in model.graph.node if _is_quantised(node.op_type)})
    if quantised:
        raise ArtifactError(f"{where}: already quantised ({', '.join(quantised)}); export ONNX again")
    ports = [*model.graph.input, *model.graph.output]
    types = {entry.name: entry.type.tensor_type.elem_type for entry in ports}
    types |= {entry.name: entry.data_type for entry in model.graph.initializer if entry.data_type in _FLOATS}
    types |= {
        node.output[0]: attribute.i
        for node in model.graph.node
        for attribute in node.attribute
        if node.op_type == "Cast" and attribute.name == "to" and attribute.i in _FLOATS
    }
    wrong = [name for name, kind in types.items() if kind != onnx.TensorProto.FLOAT]
    if wrong:
        raise ArtifactError(f"{where}: not in float32 throughout ({', '.join(wrong[:3])}); export ONNX again")


def _is_quantised(operator: str) -> bool:
    return "QuantizeLinear" in operator or operator.startswith("QLinear") or operator.endswith("Integer")


def fold_batch_norms(model: onnx.ModelProto) -> None:
    """Multiply every batch normalisation that alone follows a convolution into its weights, in float64.

    A convolution is rounded or quantised together with what is folded into it. Jacob et al. 2018, "Quantization and
    training of neural networks for efficient integer-arithmetic-only inference", section 3.2.
    """
    graph = model.graph
    constants = {entry.name: entry for entry in graph.initializer}
    made_by = {name: node for node in graph.node for name in node.output}
    read = Counter(name for node in graph.node for name in node.input)
    read.update(entry.name for entry in graph.output)
    for norm in [node for node in graph.node if node.op_type == "BatchNormalization"]:
        conv = made_by.get(norm.input[0])
        if conv is None or conv.op_type != "Conv" or read[norm.input[0]] > 1 or len(norm.output) > 1:
            continue
        if not {*conv.input[1:], *norm.input[1:]} <= set(constants):
            continue
        gamma, beta, mean, variance = (_float64(constants[name]) for name in norm.input[1:])
        epsilon = next((entry.f for entry in norm.attribute if entry.name == "epsilon"), 1e-5)
        scale = gamma / np.sqrt(variance + epsilon)
        weight = _float64(constants[conv.input[1]])
        bias = _float64(constants[conv.input[2]]) if len(conv.input) > 2 else np.zeros_like(mean)
        folded = {
            f"{conv.input[1]}.folded.{norm.output[0]}": weight * scale.reshape(-1, *[1] * (weight.ndim - 1)),
            f"{norm.output[0]}.bias": (bias - mean) * scale + beta,
        }
        for name, array in folded.items():
            graph.initializer.append(onnx.numpy_helper.from_array(array.astype(np.float32), name))
        conv.input[:] = [conv.input[0], *folded]
        conv.output[0] = norm.output[0]
        graph.node.remove(norm)
    still_read = {name for node in graph.node for name in node.input}
    for entry in [entry for entry in graph.initializer if entry.name not in still_read]:
        graph.initializer.remove(entry)


def _float64(tensor: Any) -> Any:
    return onnx.numpy_helper.to_array(tensor).astype(np.float64)


def head_nodes(model: onnx.ModelProto, variant: Variant) -> frozenset[str]:
    """Names of the nodes after the last one that reads a parameter of the network: the head, if the graph holds one."""
    if HEAD not in variant.contains:
        return frozenset()
    readers = [node for node in model.graph.node if any(name.startswith(_NET) for name in node.input)]
    if not readers:
        raise ArtifactError(
            f"{variant.id}: no parameter of its network begins with {_NET!r}; export it again"
        )
    return _after(model, readers)


def groups(model: onnx.ModelProto) -> dict[str, tuple[str, ...]]:
    """Names of the nodes worth keeping in float32 together, by what they are to each other; call with folded norms.

    `first` and `last` of the nodes with weights; `tail`, the nodes after all of those, which make the outputs; and the layers:
    nodes whose weights begin alike, `backbone.layer1`. A layer of one node, or of all, is none.
    """
    weights = {tensor.name for tensor in model.graph.initializer if len(tensor.dims) > 1}
    weighted = {
        node.name: next(name for name in node.input if name in weights)
        for node in model.graph.node
        if node.op_type in _WEIGHTED and weights.intersection(node.input)
    }
    if not weighted:
        return {}
    nodes = {node.name: node for node in model.graph.node}
    names = list(weighted)
    group_nodes: dict[str, tuple[str, ...]] = {"first": (names[0],), "last": (names[-1],)}
    tail = _after(model, [nodes[name] for name in names])
    group_nodes |= {"tail": tuple(name for name in nodes if name in tail)} if tail else {}
    layers: dict[str, list[str]] = {}
    for name, weight in weighted.items():
        layers.setdefault(".".join(weight.split(".")[:2]), []).append(name)
    group_nodes |= {
        layer: tuple(members) for layer, members in layers.items() if 1 < len(members) < len(names)
    }
    return group_nodes


def _after(model: onnx.ModelProto, nodes: Iterable[Any]) -> frozenset[str]:
    """Names of the nodes that are neither among `nodes` nor lead to one of them."""
    made_by = {name: node for node in model.graph.node for name in node.output}
    before: set[str] = set()
    waiting = list(nodes)
    while waiting:
        node = waiting.pop()
        if node.name not in before:
            before.add(node.name)
            waiting += [made_by[name] for name in node.input if name in made_by]
    return frozenset(node.name for node in model.graph.node if node.name not in before)


def named_nodes(model: onnx.ModelProto, selectors: Iterable[str], where: str) -> frozenset[str]:
    """Names of the nodes that are called, or are of the operator type, that was asked for.

    Raises:
        UsageError: the graph has neither.
    """
    selected: set[str] = set()
    for selector in selectors:
        fitting = [node.name for node in model.graph.node if selector in (node.name, node.op_type)]
        if not fitting:
            operators = sorted({node.op_type for node in model.graph.node})
            names = [*operators, *(node.name for node in model.graph.node)]
            near = difflib.get_close_matches(selector, names, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise UsageError(
                f"--keep-float {selector}: {where} has no such node and no such operator once its batch normalisations are folded "
                f"into the convolutions{hint} (operators: {', '.join(operators)})"
            )
        selected.update(fitting)
    return frozenset(selected)


def name_nodes(model: onnx.ModelProto) -> None:
    """Give every node without a name, or with that of an earlier one, a name that no other has."""
    taken = {node.name for node in model.graph.node}
    named: set[str] = set()
    for index, node in enumerate(model.graph.node):
        if not node.name or node.name in named:
            node.name = f"{node.op_type}_{index}"
            while node.name in taken:
                node.name += "_"
            taken.add(node.name)
        named.add(node.name)
