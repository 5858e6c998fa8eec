"""The fit of another distribution's detector: its learning, and its network as the artifact's ONNX variant.

Nothing here needs MindSpore.
"""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
from pathlib import Path
from typing import Any

import msgspec

from harness import storage
from harness.build import FitRequest
from harness.contracts import COPY, DetectorPlugin, Images, Learnt
from harness.detector.artifact import HeadSpec, Manifest, TensorSpec, Variant
from harness.errors import PluginError
from harness.onnx_models.graph import read as read_graph
from harness.types import AnyArray, Float32

_COPY_ONNX = (
    b'\x08\x06\x12\x07harness:\x90\x01\n\x17\n\x05image\x12\x04copy"\x08Identity\x12\x04copyZ7\n\x05image\x12.\n,\x08\x01'
    b"\x12(\n\x07\x12\x05batch\n\n\x12\x08channels\n\x08\x12\x06height\n\x07\x12\x05widthb6\n\x04copy\x12.\n,\x08\x01\x12(\n\x07"
    b"\x12\x05batch\n\n\x12\x08channels\n\x08\x12\x06height\n\x07\x12\x05widthB\x04\n\x00\x10\x0b"
)
"""The operator Identity from `image` to `copy`, float32 with four free axes, opset 11; a test reads it with onnx."""


def learn(detector: DetectorPlugin, request: FitRequest, images: Images, held_out: Images) -> Learnt:
    """Have the plug-in learn.

    Raises:
        PluginError: it gives a network without an ONNX file, or the file without the network.
    """
    learnt = detector.learn(images, request.settings, seed=request.seed, held_out=held_out)
    if (learnt.run is None) != (learnt.onnx is None):
        raise PluginError(
            f"the detector {request.detector!r} gives only one of `run` and `onnx`: a network needs both, see "
            "harness.contracts.Learnt"
        )
    height, width = images.preprocessor.frame(images.preprocessor.decode(images.samples[0].path)).shape[:2]
    parameters: dict[str, Any] = {"map_size": [height, width], **learnt.head.parameters}
    return dataclasses.replace(learnt, head=HeadSpec(name=learnt.head.name, parameters=parameters))


def copied(batch: Float32) -> dict[str, AnyArray]:
    """The outputs of the network that copies its input."""
    return {COPY: batch}


def with_variant(folder: Path, manifest: Manifest, learnt: Learnt, images: Images) -> Manifest:
    """Write the network into `folder`, and list it as the variant `onnx-fp32`.

    Raises:
        ArtifactError: the plug-in's file is no ONNX model.
        PluginError: it has not one float32 input, or no outputs with a free batch axis.
    """
    path = folder / "onnx-fp32.onnx"
    if learnt.onnx is None:
        storage.write_bytes(path, _COPY_ONNX)
        row = images.preprocessor.rows(images.samples[0].path).shape[1:]
        source, *outputs = (
            TensorSpec(name=name, dtype="float32", shape=(None, *row)) for name in ("image", COPY)
        )
    else:
        storage.write_bytes(path, learnt.onnx)
        source, *outputs = _specs(path, manifest.detector)
    variant = Variant(
        id=path.stem,
        format="onnx",
        precision="fp32",
        input=source,
        input_stage=manifest.preprocessing[-1].stage,
        outputs=tuple(outputs),
        files={path.name: storage.sha256_of_file(path)},
        agreement={},
        software=manifest.software,
    )
    return msgspec.structs.replace(manifest, variants=(variant,))


def _specs(path: Path, detector: str) -> list[TensorSpec]:
    """The input of the ONNX file, then its outputs."""
    graph = read_graph(path)
    values = (*graph.inputs, *graph.outputs)
    if len(graph.inputs) != 1 or any(
        value.dtype != "float32" or not value.shape or value.shape[0] is not None for value in values
    ):
        raise PluginError(
            f"the detector {detector!r} gives an ONNX file with {', '.join(map(str, values))}: one input is needed, and "
            "float32 with a free batch axis everywhere"
        )
    return [TensorSpec(name=value.name, dtype=value.dtype, shape=value.shape or ()) for value in values]


def code_digest(detector: DetectorPlugin, distribution: str) -> str:
    """SHA-256 over the distribution's version and the file that defines the learning."""
    file = inspect.getsourcefile(inspect.unwrap(detector.learn))
    source = Path(file).read_bytes() if file else b""
    return hashlib.sha256(distribution.encode() + source).hexdigest()
