"""Checks that a description is complete and fits its graph; lists all problems at once, with the declarations to add."""

from __future__ import annotations

from collections.abc import Iterator

from harness.errors import ArtifactError
from harness.onnx_models.built_in_steps import cuts
from harness.onnx_models.description import Description, problems
from harness.onnx_models.graph import Graph, Value, printable
from harness.onnx_models.recognise import FLOATS, is_map, is_score, sides


def require(graph: Graph, description: Description) -> None:
    """Raise `ArtifactError` unless `bench` can run the model as described; the message lists the declarations to add."""
    missing = open_questions(graph, description)
    if missing:
        raise ArtifactError(f"{graph.path}: {'; '.join(missing)}")


def open_questions(graph: Graph, description: Description) -> list[str]:
    """List the declarations that the description lacks.

    Raises:
        ArtifactError: no declaration helps: the model is no anomaly detector, or the description contradicts it.
    """
    if description.map is None and description.score is None and not _candidates(graph):
        raise ArtifactError(
            f"{graph.path}: not an anomaly detector: no output is one map or one score per image ({_listed_outputs(graph)})"
        )
    wrong = [*problems(description).values(), *_contradictions(graph, description)]
    if wrong:
        raise ArtifactError(f"{graph.path}: {'; '.join(wrong)}")
    return list(_questions(graph, description))


def _questions(graph: Graph, description: Description) -> Iterator[str]:
    (picture,) = graph.inputs
    if description.map is None and description.score is None:
        names = " or ".join(_candidates(graph))
        yield f"which output is map or score is not clear ({_listed_outputs(graph)}): declare {names}"
    if description.layout is None:
        yield f"{picture} may be NCHW or NHWC: declare --set layout=NCHW or NHWC"
    if description.size is None:
        yield "the image size is free: declare --set size=HEIGHTxWIDTH, as the model was trained"
    if description.colour is None:
        yield "the number of channels is free: declare --set colour=RGB, BGR or GREY"
    if description.range is None and picture.dtype != "uint8":
        yield (
            "what range its pixel values have is in no ONNX file: declare --set range=unit ([0, 1]), byte (0 … 255) or "
            "imagenet (normalised), or unit with mean= and std="
        )


def _contradictions(graph: Graph, description: Description) -> Iterator[str]:
    (picture,) = graph.inputs
    if picture.dtype == "uint8" and description.range is not None:
        yield f"{picture} takes pixel values as they are: leave range out"
    if description.layout is not None:
        yield from _against_shape(picture, description, description.layout)
    outputs = {value.name: value for value in graph.outputs}
    for field, fits, expected in (
        ("map", is_map, "(N, 1, H, W), (N, H, W, 1) or (N, H, W)"),
        ("score", is_score, "one number per image"),
    ):
        name = getattr(description, field)
        if name is None:
            continue
        if name not in outputs:
            known = ", ".join(map(printable, outputs))
            yield f"{field}={printable(name)}: there is no such output (there are: {known})"
        elif outputs[name].dtype not in FLOATS or (
            outputs[name].shape is not None and not fits(outputs[name])
        ):
            yield f"its {field} is {outputs[name]}, expected float, {expected}"
        elif outputs[name].dtype == "float64":
            yield (
                f"its {field} is {outputs[name]}, and rounded to the float32 of records it may rank images otherwise: "
                "export it with float32 outputs"
            )
    cutting = cuts(graph)
    if description.map is not None and cutting:
        yield (
            f"the graph cuts or pads the picture itself ({', '.join(cutting)}), so that its map is not of the whole "
            "picture: export it without that, and declare the crop with resize= and size="
        )


def _against_shape(picture: Value, description: Description, layout: str) -> Iterator[str]:
    channels, *size = sides(picture, layout)
    expected = {"RGB": 3, "BGR": 3, "GREY": 1, None: channels}[description.colour]
    if channels is not None and channels != expected:
        yield f"{layout} {picture} has {channels} channels, colour {description.colour} has {expected}"
    if description.size is not None and any(
        have not in (None, want) for have, want in zip(size, description.size, strict=True)
    ):
        yield f"{layout} {picture} does not take {description.size[0]}x{description.size[1]}"


def _candidates(graph: Graph) -> list[str]:
    """Declarations that the shapes of the outputs allow."""
    kinds = {"map": is_map, "score": is_score}
    return [
        f"--set {kind}={printable(value.name)}"
        for value in graph.outputs
        for kind in kinds
        if kinds[kind](value)
    ]


def _listed_outputs(graph: Graph) -> str:
    """The outputs, with their likely meaning."""
    return "; ".join(f"{value}{_likely(value)}" for value in graph.outputs)


def _likely(value: Value) -> str:
    shape = value.shape or ()
    if value.dtype not in FLOATS:
        return ", decisions or numbers of classes"
    if len(shape) == 2 and shape[1] != 1:
        return ", as a classifier or an embedding gives"
    if len(shape) == 4 and 1 not in (shape[1], shape[3]):
        return ", as an autoencoder or a segmentation into classes gives"
    return ""
