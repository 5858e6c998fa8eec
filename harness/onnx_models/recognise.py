"""What a graph tells of itself: the draft of its description, with where each value comes from.

Colour order, the range of the pixel values and the meaning of an output are in no ONNX file. What is taken for granted is
said to be assumed; where a wrong guess would give a wrong number, nothing is guessed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from harness import storage
from harness.detector.preprocess import Size
from harness.errors import ArtifactError
from harness.onnx_models.built_in_steps import resized_to, takes_unit
from harness.onnx_models.description import Description, assign, declare
from harness.onnx_models.graph import Graph, Value, printable

MAPS = ("anomaly_map", "anomaly_maps", "anomalymap", "score_map", "amap", "heatmap", "map")
SCORES = ("pred_score", "pred_scores", "anomaly_score", "image_score", "scores", "score")
METADATA = "harness."
"""What the keys of the file's metadata begin with that declare a field: `harness.range`."""
INPUTS = ("float32", "uint8")
FLOATS = ("float16", "float32", "float64")


def recognise(graph: Graph, declared: Sequence[str] = ()) -> Description:
    """The description of a model, with what was declared of it; what the graph does not tell stays open.

    Raises:
        ArtifactError: it takes something else than one picture, or its metadata declare what cannot be.
        UsageError: see `declare`.
    """
    drafted, wrong = draft(graph, declared)
    if wrong:
        raise ArtifactError(
            f"{graph.path}: {'; '.join(wrong)}: declare it with --set, or by a manifest, which `onnx describe` drafts"
        )
    return drafted


def draft(graph: Graph, declared: Sequence[str] = ()) -> tuple[Description, list[str]]:
    """As `recognise`, but what is wrong in the file's metadata, and not declared otherwise, is left out and said."""
    found = _from_graph(graph)
    overridden = {item.partition("=")[0] for item in declared}
    said = dict(graph.metadata)
    twice = {key for key, value in graph.metadata if said[key] != value}
    wrong = []
    for key, value in said.items():
        name = key.removeprefix(METADATA)
        if not key.startswith(METADATA) or name in overridden:
            continue
        if key in twice:
            wrong.append(f"its metadata {key!r} is there twice, and differs")
            continue
        try:
            found = assign(found, name, value, how="the file's metadata")
        except ValueError as error:
            wrong.append(f"its metadata {key!r} is {value!r}: {error}")
    return declare(found, declared), wrong


def _from_graph(graph: Graph) -> Description:
    picture = picture_of(graph)
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
    _require_size(graph, found)
    _thresholds(graph, found, how)
    digest = storage.sha256_of_json(dict(graph.files))
    return Description(model_sha256=digest, name=graph.path.stem, how=how, **found)


def layout_of(picture: Value) -> str | None:
    """`NCHW` or `NHWC`, where the shape leaves no doubt."""
    assert picture.shape is not None  # noqa: S101 - `picture_of` saw to it
    first, last = (side in (1, 3) for side in (picture.shape[1], picture.shape[3]))
    return None if first == last else "NCHW" if first else "NHWC"


def sides(picture: Value, layout: str) -> tuple[int | None, int | None, int | None]:
    """Channels, height and width of the input; `None` for those that are free."""
    assert picture.shape is not None  # noqa: S101 - `picture_of` saw to it
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


def picture_of(graph: Graph) -> Value:
    """The one input; raises `ArtifactError` unless it may be a picture, of four axes and a type that pixels have."""
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
    if graph.inputs[0].dtype == "float32" and takes_unit(graph):
        found["range"], how["range"] = "unit", "anomalib's outputs, and the graph normalises"
        how["colour"] = "anomalib's"
        found["interpolation"], how["interpolation"] = "pil_bilinear", "anomalib's, free of aliasing"
    target = resized_to(graph)
    if "size" not in found and target is not None:
        found["size"], how["size"] = target, "what anomalib's graph resizes to; here it is done before"


def _require_size(graph: Graph, found: dict[str, Any]) -> None:
    if "size" not in found:
        return
    try:
        msgspec.convert(found["size"], tuple[Size, Size])
    except msgspec.ValidationError as error:
        height, width = found["size"]
        raise ArtifactError(
            f"{graph.path}: takes pictures of {height}x{width}: {error}; export it for a smaller size"
        ) from error


def _thresholds(graph: Graph, found: dict[str, Any], how: dict[str, str]) -> None:
    """Thresholds by which the graph itself decides: outputs that are `score > constant`, all with the same one."""
    outputs = {value.name for value in graph.outputs}
    for field, threshold in (("score", "image_threshold"), ("map", "pixel_threshold")):
        deciding = {
            node.outputs[0]: graph.constants.get(node.inputs[1], np.empty(0))
            for node in graph.nodes
            if node.operator == "Greater"
            and set(node.outputs) & outputs
            and len(node.inputs) == 2
            and node.inputs[0] == found.get(field)
        }
        numbers = {name: float(value[0]) if value.size == 1 else None for name, value in deciding.items()}
        told = ", ".join(f"{name!r} at {'?' if at is None else f'{at:g}'}" for name, at in numbers.items())
        if len(set(numbers.values())) > 1:
            how[threshold] = f"several: {told}; declare one"
            continue
        number = next(iter(numbers.values()), None)
        if number is not None and not math.isfinite(number):
            how[threshold] = f"the graph's own is no number: {told}"
        elif number is not None:
            name = next(iter(numbers))
            found[threshold] = number
            how[threshold] = f"the graph's own: its {name!r} is {printable(found[field])} > {number:g}"
