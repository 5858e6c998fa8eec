"""Drafts the description of a model from its graph, with the source of each value.

No ONNX file states the colour order, the range of the pixel values or the meaning of an output. An assumption is marked as
one. If a wrong guess would give a wrong number, the field stays open.
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
"""Prefix of the keys in the file's metadata that declare a field, for example `harness.range`."""
INPUTS = ("float32", "uint8")
FLOATS = ("float16", "float32", "float64")


def recognise(graph: Graph, declared: Sequence[str] = ()) -> Description:
    """Return the description of a model, with the declarations; a field that the graph does not determine stays open.

    Raises:
        ArtifactError: the model does not take one picture, or its metadata declare an impossible value.
        UsageError: see `declare`.
    """
    drafted, wrong = draft(graph, declared)
    if wrong:
        raise ArtifactError(
            f"{graph.path}: {'; '.join(wrong)}: declare it with --set, or by a manifest, which `onnx describe` drafts"
        )
    return drafted


def draft(graph: Graph, declared: Sequence[str] = ()) -> tuple[Description, list[str]]:
    """Like `recognise`, but leave out wrong metadata that no declaration overrides, and return them as a list of problems."""
    drafted = _from_graph(graph)
    overridden = {assignment.partition("=")[0] for assignment in declared}
    metadata = dict(graph.metadata)
    twice = {key for key, value in graph.metadata if metadata[key] != value}
    wrong = []
    for key, value in metadata.items():
        name = key.removeprefix(METADATA)
        if not key.startswith(METADATA) or name in overridden:
            continue
        if key in twice:
            wrong.append(f"its metadata {key!r} is there twice, and differs")
            continue
        try:
            drafted = assign(drafted, name, value, how="the file's metadata")
        except ValueError as error:
            wrong.append(f"its metadata {key!r} is {value!r}: {error}")
    return declare(drafted, declared), wrong


def _from_graph(graph: Graph) -> Description:
    picture = picture_of(graph)
    fields: dict[str, Any] = {}
    how = {"interpolation": "assumed: free of aliasing"}
    layout = layout_of(picture)
    if layout is not None:
        fields["layout"], how["layout"] = layout, "the input's shape"
        channels, height, width = sides(picture, layout)
        if channels is not None:
            fields["colour"] = "GREY" if channels == 1 else "RGB"
            how["colour"] = "one channel" if channels == 1 else "assumed: no ONNX file says it"
        if height is not None and width is not None:
            fields["size"], how["size"] = (height, width), "the input's shape"
    _outputs(graph, fields, how)
    _as_anomalib(graph, fields, how)
    _require_size(graph, fields)
    _thresholds(graph, fields, how)
    digest = storage.sha256_of_json(dict(graph.files))
    return Description(model_sha256=digest, name=graph.path.stem, how=how, **fields)


def layout_of(picture: Value) -> str | None:
    """`NCHW` or `NHWC`; `None` if the shape allows both."""
    assert picture.shape is not None  # noqa: S101 - `picture_of` checked it
    first, last = (side in (1, 3) for side in (picture.shape[1], picture.shape[3]))
    return None if first == last else "NCHW" if first else "NHWC"


def sides(picture: Value, layout: str) -> tuple[int | None, int | None, int | None]:
    """Channels, height and width of the input; `None` for a free side."""
    assert picture.shape is not None  # noqa: S101 - `picture_of` checked it
    one, two, three = picture.shape[1:]
    return (one, two, three) if layout == "NCHW" else (three, one, two)


def is_map(value: Value) -> bool:
    """Whether a float output may hold one number per pixel: (N, 1, H, W), (N, H, W, 1) or (N, H, W); a free side fits."""
    shape = value.shape
    if value.dtype not in FLOATS or shape is None or len(shape) not in (3, 4):
        return False
    if len(shape) == 4 and not {shape[1], shape[3]} & {1, None}:
        return False
    return 1 not in (shape[1:] if len(shape) == 3 else shape[2:] if shape[1] == 1 else shape[1:3])


def is_score(value: Value) -> bool:
    """Whether a float output may hold one number per image: (N,), (N, 1), …, or a single number; a free side fits."""
    shape = value.shape
    return value.dtype in FLOATS and shape is not None and all(side in (1, None) for side in shape[1:])


def picture_of(graph: Graph) -> Value:
    """The one input; raises `ArtifactError` unless it has four axes and a dtype for pixels."""
    if len(graph.inputs) != 1:
        inputs = ", ".join(map(str, graph.inputs)) or "none"
        raise ArtifactError(
            f"{graph.path}: takes {len(graph.inputs)} inputs ({inputs}); a detector takes one picture: export it with the "
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


def _outputs(graph: Graph, fields: dict[str, Any], how: dict[str, str]) -> None:
    """Find map and score by their names; without such names by their shapes, if only one output fits."""
    for field, names in (("map", MAPS), ("score", SCORES)):
        named = [
            value.name for value in graph.outputs if value.name.lower() in names and value.dtype in FLOATS
        ]
        if len(named) == 1:
            fields[field], how[field] = named[0], "its name"
    if "map" in fields or "score" in fields:
        return
    maps = [value.name for value in graph.outputs if is_map(value) and 1 in (value.shape or ())[1:]]
    scores = [
        value.name for value in graph.outputs if is_score(value) and None not in (value.shape or ())[1:]
    ]
    if len(maps) == 1 and len(scores) <= 1:
        fields["map"], how["map"] = maps[0], "its shape alone: one number per pixel"
        if scores:
            fields["score"], how["score"] = scores[0], "its shape alone: one number per image"


def _as_anomalib(graph: Graph, fields: dict[str, Any], how: dict[str, str]) -> None:
    """Anomalib 2 normalises inside the graph, and if the size is free it also resizes there.

    The names of its outputs prove neither: a model that was exported without its pre-processor has the same ones.
    """
    if not {"pred_score", "anomaly_map"} <= {value.name for value in graph.outputs} or "layout" not in fields:
        return
    if graph.inputs[0].dtype == "float32" and takes_unit(graph):
        fields["range"], how["range"] = "unit", "anomalib's outputs, and the graph normalises"
        how["colour"] = "anomalib's"
        fields["interpolation"], how["interpolation"] = "pil_bilinear", "anomalib's, free of aliasing"
    target = resized_to(graph)
    if "size" not in fields and target is not None:
        fields["size"], how["size"] = target, "what anomalib's graph resizes to; here it is done before"


def _require_size(graph: Graph, fields: dict[str, Any]) -> None:
    if "size" not in fields:
        return
    try:
        msgspec.convert(fields["size"], tuple[Size, Size])
    except msgspec.ValidationError as error:
        height, width = fields["size"]
        raise ArtifactError(
            f"{graph.path}: takes pictures of {height}x{width}: {error}; export it for a smaller size"
        ) from error


def _thresholds(graph: Graph, fields: dict[str, Any], how: dict[str, str]) -> None:
    """The graph's own thresholds: outputs that are `score > constant`, if all have the same constant."""
    outputs = {value.name for value in graph.outputs}
    for field, threshold in (("score", "image_threshold"), ("map", "pixel_threshold")):
        deciding = {
            node.outputs[0]: graph.constants.get(node.inputs[1], np.empty(0))
            for node in graph.nodes
            if node.operator == "Greater"
            and set(node.outputs) & outputs
            and len(node.inputs) == 2
            and node.inputs[0] == fields.get(field)
        }
        numbers = {name: float(value[0]) if value.size == 1 else None for name, value in deciding.items()}
        decisions = ", ".join(
            f"{name!r} at {'?' if at is None else f'{at:g}'}" for name, at in numbers.items()
        )
        if len(set(numbers.values())) > 1:
            how[threshold] = f"several: {decisions}; declare one"
            continue
        number = next(iter(numbers.values()), None)
        if number is not None and not math.isfinite(number):
            how[threshold] = f"the graph's own is no number: {decisions}"
        elif number is not None:
            name = next(iter(numbers))
            fields[threshold] = number
            how[threshold] = f"the graph's own: its {name!r} is {printable(fields[field])} > {number:g}"
