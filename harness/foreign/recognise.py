"""What a graph tells of itself: the draft of its description, with where each value comes from.

Colour order, the range of the pixel values and the meaning of an output are in no ONNX file. What is taken for granted is
said to be assumed; where a wrong guess would give a wrong number, nothing is guessed.
"""

from __future__ import annotations

from typing import Any

from harness import storage
from harness.errors import ArtifactError
from harness.foreign.description import Description, declare
from harness.foreign.graph import Graph, Node, Value

MAPS = ("anomaly_map", "anomaly_maps", "anomalymap", "score_map", "amap", "heatmap", "map")
SCORES = ("pred_score", "pred_scores", "anomaly_score", "image_score", "scores", "score")
METADATA = "harness."
"""What the keys of the file's metadata begin with that declare a field: `harness.range`."""
INPUTS = ("float32", "uint8")
FLOATS = ("float16", "float32", "float64")
_POINTWISE = ("Identity", "Cast", "Reshape", "Unsqueeze", "Squeeze", "Transpose", "Clip")
_CUTTING = ("Slice", "CenterCropPad", "Gather", "Pad")
_SHIFT, _SCALE = ("Sub", "Add"), ("Div", "Mul")


def recognise(graph: Graph) -> Description:
    """Draft the description of a model; what the graph does not tell stays open.

    Raises:
        ArtifactError: it takes something else than one picture.
    """
    picture = _picture(graph)
    found: dict[str, Any] = {}
    how = {"interpolation": "assumed: free of aliasing"}
    layout = layout_of(picture)
    if layout is not None:
        found["layout"], how["layout"] = layout, "the input's shape"
        channels, height, width = sides(picture, layout)
        if channels is not None:
            found["colour"] = "GREY" if channels == 1 else "RGB"
            how["colour"] = "one channel" if channels == 1 else "assumed: no ONNX file says it"
        if height is not None and width is not None:
            found["size"], how["size"] = (height, width), "the input's shape"
    _outputs(graph, found, how)
    _as_anomalib(graph, found, how)
    _thresholds(graph, found, how)
    digest = storage.sha256_of_json(dict(graph.files))
    drafted = Description(model_sha256=digest, name=graph.path.stem, how=how, **found)
    said = [
        f"{key.removeprefix(METADATA)}={value}"
        for key, value in graph.metadata.items()
        if key.startswith(METADATA)
    ]
    return declare(drafted, said, how="the file's metadata")


def layout_of(picture: Value) -> str | None:
    """`NCHW` or `NHWC`, where the shape leaves no doubt."""
    assert picture.shape is not None  # noqa: S101 - `_picture` saw to it
    first, last = (side in (1, 3) for side in (picture.shape[1], picture.shape[3]))
    return None if first == last else "NCHW" if first else "NHWC"


def sides(picture: Value, layout: str) -> tuple[int | None, int | None, int | None]:
    """Channels, height and width of the input; `None` for those that are free."""
    assert picture.shape is not None  # noqa: S101 - `_picture` saw to it
    one, two, three = picture.shape[1:]
    return (one, two, three) if layout == "NCHW" else (three, one, two)


def is_map(value: Value) -> bool:
    """Whether a float output may be one number per pixel: (N, 1, H, W), (N, H, W, 1) or (N, H, W); free sides may be any."""
    shape = value.shape
    if value.dtype not in FLOATS or shape is None or len(shape) not in (3, 4):
        return False
    if len(shape) == 4 and not {shape[1], shape[3]} & {1, None}:
        return False
    return 1 not in (shape[1:] if len(shape) == 3 else shape[2:] if shape[1] == 1 else shape[1:3])


def is_score(value: Value) -> bool:
    """Whether a float output may be one number per image: (N,), (N, 1), …, or a single number; free sides may be any."""
    shape = value.shape
    return value.dtype in FLOATS and shape is not None and all(side in (1, None) for side in shape[1:])


def cuts(graph: Graph) -> tuple[str, ...]:
    """Operators that cut or pad the picture before any weights: the map is then not of the whole picture."""
    return tuple(node.operator for node in _way_in(graph) if node.operator in _CUTTING)


def _picture(graph: Graph) -> Value:
    if len(graph.inputs) != 1:
        told = ", ".join(map(str, graph.inputs)) or "none"
        raise ArtifactError(
            f"{graph.path}: takes {len(graph.inputs)} inputs ({told}); a detector takes one picture: export it with the "
            "others as constants"
        )
    (picture,) = graph.inputs
    if picture.shape is None or len(picture.shape) != 4:
        raise ArtifactError(
            f"{graph.path}: its input {picture} is not a picture: expected 4 axes, (N, C, H, W) or (N, H, W, C)"
        )
    if picture.dtype not in INPUTS:
        raise ArtifactError(
            f"{graph.path}: its input {picture} takes neither float32 nor uint8; export it with one of these as input"
        )
    return picture


def _outputs(graph: Graph, found: dict[str, Any], how: dict[str, str]) -> None:
    """Map and score by their names; without such names by their shapes, where only one output can be meant."""
    for field, names in (("map", MAPS), ("score", SCORES)):
        named = [
            value.name for value in graph.outputs if value.name.lower() in names and value.dtype in FLOATS
        ]
        if len(named) == 1:
            found[field], how[field] = named[0], "its name"
    if "map" in found or "score" in found:
        return
    maps = [value.name for value in graph.outputs if is_map(value) and 1 in (value.shape or ())[1:]]
    scores = [
        value.name for value in graph.outputs if is_score(value) and None not in (value.shape or ())[1:]
    ]
    if len(maps) == 1 and len(scores) <= 1:
        found["map"], how["map"] = maps[0], "its shape alone: one number per pixel"
        if scores:
            found["score"], how["score"] = scores[0], "its shape alone: one number per image"


def _as_anomalib(graph: Graph, found: dict[str, Any], how: dict[str, str]) -> None:
    """Anomalib 2 normalises inside the graph, and where the size is free it also resizes there.

    Its names alone prove neither: a model exported without its pre-processor has the same ones.
    """
    if not {"pred_score", "anomaly_map"} <= {value.name for value in graph.outputs} or "layout" not in found:
        return
    way = _way_in(graph)
    operators = {node.operator for node in way}
    if operators & set(_SHIFT) and operators & set(_SCALE) and graph.inputs[0].dtype == "float32":
        found["range"], how["range"] = "unit", "anomalib's outputs, and the graph normalises"
        how["colour"] = "anomalib's"
        found["interpolation"], how["interpolation"] = "pil_bilinear", "anomalib's, free of aliasing"
    resized = [_target(graph, node) for node in way if node.operator == "Resize"]
    if "size" not in found and len(resized) == 1 and resized[0] is not None:
        found["size"], how["size"] = resized[0], "what anomalib's graph resizes to; here it is done before"


def _thresholds(graph: Graph, found: dict[str, Any], how: dict[str, str]) -> None:
    """Thresholds by which the graph itself decides: the one output that is `score > constant`."""
    outputs = {value.name for value in graph.outputs}
    for field, threshold in (("score", "image_threshold"), ("map", "pixel_threshold")):
        deciding = [
            node
            for node in graph.nodes
            if node.operator == "Greater"
            and set(node.outputs) & outputs
            and len(node.inputs) == 2
            and node.inputs[0] == found.get(field)
        ]
        constant = graph.constants.get(deciding[0].inputs[1]) if len(deciding) == 1 else None
        if constant is not None and constant.size == 1:
            found[threshold] = float(constant[0])
            how[threshold] = (
                f"the graph's own: its {deciding[0].outputs[0]!r} is {found[field]} > {constant[0]:g}"
            )


def _way_in(graph: Graph) -> tuple[Node, ...]:
    """Operators that the picture goes through before it branches or meets weights."""
    readers: dict[str, list[Node]] = {}
    for node in graph.nodes:
        for name in set(node.inputs) if node.operator not in ("Shape", "Size") else ():
            readers.setdefault(name, []).append(node)
    way: list[Node] = []
    tensor, passing = graph.inputs[0].name, (*_POINTWISE, *_CUTTING, *_SHIFT, *_SCALE, "Resize")
    while len(readers.get(tensor, ())) == 1 and readers[tensor][0].operator in passing:
        way.append(readers[tensor].pop())
        tensor = "".join(way[-1].outputs[:1])
    return tuple(way)


def _target(graph: Graph, node: Node) -> tuple[int, int] | None:
    """Height and width that a Resize of (N, C, H, W) goes to, where they are constants."""
    if len(node.inputs) < 4:
        return None
    makers = {name: other for other in graph.nodes for name in other.outputs}
    name = node.inputs[3]
    if name in makers and makers[name].operator == "Concat":
        name = "".join(makers[name].inputs[-1:])
    values = graph.constants.get(name)
    if values is None or len(values) < 2 or not (values[-2:] > 0).all():
        return None
    return int(values[-2]), int(values[-1])
