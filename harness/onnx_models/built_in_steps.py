"""The preprocessing inside a graph: the operators on the picture before it branches or meets weights."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from harness.onnx_models.graph import Graph, Node
from harness.types import AnyArray

_POINTWISE = ("Identity", "Cast", "Reshape", "Unsqueeze", "Squeeze", "Transpose", "Clip")
_CUTTING = ("Slice", "CenterCropPad", "Gather", "Pad")
_SHIFT, _SCALE = ("Sub", "Add"), ("Div", "Mul")
_PADS_OF_TORCH = ("Cast", "Reshape", "Transpose", "Slice", "Concat")
"""The operators with which torch's older exporter turns a padding (left, right, top, bottom) into the input of a Pad."""


def leading_steps(graph: Graph) -> tuple[Node, ...]:
    """Operators on the picture before it branches or meets weights, in order."""
    readers = _readers(graph)
    steps: list[Node] = []
    tensor, passing = graph.inputs[0].name, (*_POINTWISE, *_CUTTING, *_SHIFT, *_SCALE, "Resize")
    while len(readers.get(tensor, ())) == 1 and readers[tensor][0].operator in passing:
        steps.append(readers[tensor].pop())
        tensor = "".join(steps[-1].outputs[:1])
    return tuple(steps)


def cuts(graph: Graph) -> tuple[str, ...]:
    """Operators that cut or pad the picture before any weights: the map then shows another part than the picture.

    A Pad that only gives a convolution its margin does not count.
    """
    steps = leading_steps(graph)
    if steps and steps[-1].operator == "Pad" and _is_margin(graph, steps[-1]):
        steps = steps[:-1]
    return tuple(node.operator for node in steps if node.operator in _CUTTING)


def takes_unit(graph: Graph) -> bool:
    """Whether the graph's own normalisation fits values in [0, 1] only.

    The shifts and scales of a value x are written as (x − mean) / std: the mean must lie in [0, 1] and the deviation in
    (0, 1], for all channels. False if a constant cannot be read, or if shift and scale change nothing.
    """
    tensor, operators = graph.inputs[0].name, set()
    factor, offset = np.ones(1), np.zeros(1)
    for node in leading_steps(graph):
        if node.operator in (*_SHIFT, *_SCALE):
            constant = _operand(graph, node, tensor)
            if constant is None:
                return False
            operators.add(node.operator)
            with np.errstate(all="ignore"):  # a division by zero fails the limits below
                if node.operator in _SHIFT:
                    offset = offset + (constant if node.operator == "Add" else -constant)
                else:
                    by = constant if node.operator == "Mul" else 1 / constant
                    factor, offset = factor * by, offset * by
        tensor = "".join(node.outputs[:1])
    if not operators & set(_SHIFT) or not operators & set(_SCALE):
        return False
    with np.errstate(all="ignore"):
        mean, std = -offset / factor, 1 / factor
    sensible = (mean >= 0) & (mean <= 1) & (std > 0) & (std <= 1)
    return bool(sensible.all() and ((mean != 0) | (std != 1)).any())


def resized_to(graph: Graph) -> tuple[int, int] | None:
    """Height and width to which the graph resizes the picture (N, C, H, W), if it has one Resize with constant sizes."""
    resizes = [node for node in leading_steps(graph) if node.operator == "Resize"]
    if len(resizes) != 1 or len(resizes[0].inputs) < 4:
        return None
    makers, name = _makers(graph), resizes[0].inputs[3]
    if name in makers and makers[name].operator == "Concat":
        name = "".join(makers[name].inputs[-1:])
    values = graph.constants.get(name)
    if values is None or len(values) < 2 or not (values[-2:] > 0).all():
        return None
    return int(values[-2]), int(values[-1])


def _operand(graph: Graph, node: Node, tensor: str) -> AnyArray | None:
    """The constant with which `node` shifts or scales `tensor`: one number, or one for each channel."""
    first, second = node.inputs if len(node.inputs) == 2 else ("", "")
    if second == tensor and node.operator in ("Add", "Mul"):
        first, second = second, first
    constant = graph.constants.get(second) if first == tensor else None
    return constant.astype(np.float64) if constant is not None and constant.size in (1, 3) else None


def _is_margin(graph: Graph, pad: Node) -> bool:
    """Whether a Pad only keeps the picture's size for the convolutions that read it.

    It then adds at most half a kernel on each side, and the two sides differ by at most one. False if this cannot be read.
    """
    margins, readers = _margins(graph, pad), _readers(graph).get("".join(pad.outputs[:1]), [])
    kernels = [graph.shapes.get("".join(node.inputs[1:2]), ()) for node in readers]
    return (
        margins is not None
        and bool(readers)
        and all(node.operator == "Conv" for node in readers)
        and all(
            len(kernel) == 4 and tuple(_keep_size(kernel[2:], margins)) == (True, True) for kernel in kernels
        )
    )


def _keep_size(kernel: tuple[int, ...], margins: AnyArray) -> Iterator[bool]:
    for length, (begin, end) in zip(kernel, margins.tolist(), strict=True):
        yield min(begin, end) >= 0 and max(begin, end) <= length // 2 and abs(begin - end) <= 1


def _margins(graph: Graph, pad: Node) -> AnyArray | None:
    """Rows and columns that a Pad adds to (N, C, H, W): ((top, bottom), (left, right)); `None` if unknown."""
    if len(pad.inputs) < 2 or len([name for name in pad.inputs[3:] if name]) > 0:
        return None
    name, makers = pad.inputs[1], _makers(graph)
    passed: list[str] = []
    while name in makers and makers[name].operator in _PADS_OF_TORCH and len(passed) < 10:
        passed.append(makers[name].operator)
        name = "".join(makers[name].inputs[:1])
    values = graph.constants.get(name)
    if values is None:
        return None
    if not passed and len(values) == 8 and not values[[0, 1, 4, 5]].any():
        return values.reshape(2, 4)[:, 2:].T
    return values.reshape(2, 2)[::-1] if passed[-1:] == ["Concat"] and len(values) == 4 else None


def _readers(graph: Graph) -> dict[str, list[Node]]:
    """Tensor → nodes that read its values, each once."""
    readers: dict[str, list[Node]] = {}
    for node in graph.nodes:
        for name in set(node.inputs) if node.operator not in ("Shape", "Size") else ():
            readers.setdefault(name, []).append(node)
    return readers


def _makers(graph: Graph) -> dict[str, Node]:
    return {name: node for node in graph.nodes for name in node.outputs}
