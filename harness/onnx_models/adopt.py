"""Makes an artifact with one ONNX variant from a file and its description."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import msgspec

from harness import __version__, storage
from harness.detector import artifact
from harness.detector.artifact import HeadSpec, Manifest, TensorSpec, Thresholds, Training, Variant, Weights
from harness.errors import ArtifactError, UsageError
from harness.heads.given import parameters
from harness.onnx_models import check
from harness.onnx_models.description import Description
from harness.onnx_models.graph import Graph, Value

DETECTOR = "onnx"
"""The method that tables show for a model of which only the file is known."""
HEAD = "given"
_FOLDER = "model"


def adopt(graph: Graph, description: Description, category: str, folder: Path) -> Path:
    """Make the artifact of a model for one category, unless it exists already.

    Args:
        graph: The model; its files are copied.
        description: A complete description.
        category: The category in which the model detects anomalies.
        folder: Holds the artifacts of such models, each in its own folder.

    Returns:
        `folder / NAME-DIGEST / category`.

    Raises:
        ArtifactError: the description is incomplete, or describes another model.
    """
    if description.model_sha256 != storage.sha256_of_json(dict(graph.files)):
        raise ArtifactError(
            f"{graph.path}: the manifest describes another model; draft it again: python -m harness onnx describe"
        )
    check.require(graph, description)
    request = storage.sha256_of_json(msgspec.to_builtins(description))
    name = re.sub(r"[^\w.-]+", "-", description.name)
    path = folder / f"{name}-{request[:12]}" / category
    if (path / artifact.MANIFEST).is_file():
        return path
    try:
        with storage.new_folder(path) as new:
            for file in graph.files:
                target = new / _FOLDER / file
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(graph.path.parent / file, target)
            artifact.write_arrays(new / artifact.STATE, {})
            artifact.write_manifest(new, _manifest(graph, description, category, request))
    except (OSError, UsageError):
        if not (path / artifact.MANIFEST).is_file():
            raise  # else another process wrote the same artifact first: folders appear complete
    return path


def _manifest(graph: Graph, description: Description, category: str, request: str) -> Manifest:
    manifest = Manifest(
        schema=artifact.SCHEMA,
        detector=DETECTOR,
        backbone=description.name,
        category=category,
        preprocessing=description.steps(),
        head=HeadSpec(
            name=HEAD, parameters=parameters(description.size or (0, 0), description.map, description.score)
        ),
        thresholds=Thresholds(
            image=description.image_threshold,
            pixel=description.pixel_threshold,
            image_quantile=None,
            pixel_quantile=None,
            held_out_images=0,
        ),
        training=Training(dataset="unknown", fingerprint="0" * 64, images=0, held_out=()),
        weights=Weights(source=graph.path.name, sha256=description.model_sha256),
        seed=0,
        settings=msgspec.to_builtins(description),
        request_sha256=request,
        net_sha256=description.model_sha256,
        state_sha256=storage.sha256_of_arrays({}),
        detector_sha256="",
        software={"harness": __version__, "producer": graph.producer},
        variants=(_variant(graph, description),),
    )
    return msgspec.structs.replace(manifest, detector_sha256=artifact.detector_digest(manifest))


def _variant(graph: Graph, description: Description) -> Variant:
    (picture,) = graph.inputs
    assert picture.shape is not None and description.size is not None  # noqa: PT018, S101 - `check.require`
    channels = 1 if description.colour == "GREY" else 3
    row = (channels, *description.size) if description.layout == "NCHW" else (*description.size, channels)
    outputs = [value for value in graph.outputs if value.name in (description.map, description.score)]
    return Variant(
        id="onnx",
        format="onnx",
        precision="unknown",
        input=TensorSpec(name=picture.name, dtype=picture.dtype, shape=(picture.shape[0], *row)),
        input_stage=description.steps()[-1].stage,
        outputs=tuple(_spec(value) for value in outputs),
        files={f"{_FOLDER}/{name}": digest for name, digest in graph.files.items()},
        agreement={},
        software={"producer": graph.producer}
        | {f"opset {name or 'onnx'}": str(v) for name, v in graph.opsets.items()},
    )


def _spec(value: Value) -> TensorSpec:
    return TensorSpec(name=value.name, dtype=value.dtype, shape=value.shape or (None,))
