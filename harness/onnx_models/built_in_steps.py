"""What the picture goes through inside a graph before it branches or meets weights."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from harness.onnx_models.graph import Graph, Node
from harness.types import AnyArray

_POINTWISE = ("Identity", "Cast", "Reshape", "Unsqueeze", "Squeeze", "Transpose", "Clip")
_CUTTING = ("Slice", "CenterCropPad", "Gather", "Pad")
_SHIFT, _SCALE = ("Sub", "Add"), ("Div", "Mul")
_PADS_OF_TORCH = ("Cast", "Reshape", "Transpose", "Slice", "Concat")
"""From what torch's older exporter makes of the padding that was written, (left, right, top, bottom), to what Pad takes."""


def way_in(graph: Graph) -> tuple[Node, ...]:
    """Operators that the picture goes through before it branches or meets weights."""
    readers = _readers(graph)
    way: list[Node] = []
    tensor, passing = graph.inputs[0].name, (*_POINTWISE, *_CUTTING, *_SHIFT, *_SCALE, "Resize")
    while len(readers.get(tensor, ())) == 1 and readers[tensor][0].operator in passing:
        way.append(readers[tensor].pop())
        tensor = "".join(way[-1].outputs[:1])
    return tuple(way)


def cuts(graph: Graph) -> tuple[str, ...]:
    """Operators that cut or pad the picture before any weights: the map is then not of the whole picture.

    A Pad that gives a convolution its margin is none of them.
    """
    way = way_in(graph)
    if way and way[-1].operator == "Pad" and _is_margin(graph, way[-1]):
        way = way[:-1]
    return tuple(node.operator for node in way if node.operator in _CUTTING)


def takes_unit(graph: Graph) -> bool:
    """Whether the graph shifts and scales the picture as makes sense of values in [0, 1], and of no others.

    What it does to a value x is brought to (x − mean) / std: the mean must lie in [0, 1] and the deviation in (0, 1], for all
    channels. Constants that cannot be read, and a shift and scale that change nothing, tell nothing.
    """
    tensor, operators = graph.inputs[0].name, set()
    factor, offset = np.ones(1), np.zeros(1)
    for node in way_in(graph):
        if node.operator in (*_SHIFT, *_SCALE):
            constant = _operand(graph, node, tensor)
            if constant is None:
                return False
            operators.add(node.operator)
            with np.errstate(all="ignore"):  # a division by zero ends outside the limits below
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
    """Height and width that the one Resize of the picture (N, C, H, W) goes to, where they are constants."""
    resizes = [node for node in way_in(graph) if node.operator == "Resize"]
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
    """The constant by which `node` shifts or scales `tensor`: one number, or one for each channel."""
    first, second = node.inputs if len(node.inputs) == 2 else ("", "")
    if second == tensor and node.operator in ("Add", "Mul"):
        first, second = second, first
    constant = graph.constants.get(second) if first == tensor else None
    return constant.astype(np.float64) if constant is not None and constant.size in (1, 3) else None


def _is_margin(graph: Graph, pad: Node) -> bool:
    """Whether a Pad only keeps the size of the picture for the convolutions that alone read it.

    At most half a kernel on each side, and as much on both but for one; what cannot be read is taken for a cut.
    """
    margins, readers = _margins(graph, pad), _readers(graph).get("".join(pad.outputs[:1]), [])
    kernels = [graph.shapes.get("".join(node.inputs[1:2]), ()) for node in readers]
    return (
        margins is not None
        and bool(readers)
        and all(node.operator == "Conv" for node in readers)
        and all(len(kernel) == 4 and tuple(_same(kernel[2:], margins)) == (True, True) for kernel in kernels)
    )


def _same(kernel: tuple[int, ...], margins: AnyArray) -> Iterator[bool]:
    for length, (begin, end) in zip(kernel, margins.tolist(), strict=True):
        yield min(begin, end) >= 0 and max(begin, end) <= length // 2 and abs(begin - end) <= 1


def _margins(graph: Graph, pad: Node) -> AnyArray | None:
    """What a Pad of (N, C, H, W) adds: ((top, bottom), (left, right)); `None` where it cannot be read."""
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
