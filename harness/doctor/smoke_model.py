"""A detector of one convolution, to try a backend on: written without any SDK, with its answers known.

The ONNX file is put together field by field (protobuf wire format; field numbers from onnx.proto), so that a board
without the package `onnx` has a model too.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from harness import storage
from harness.detector import artifact
from harness.detector.artifact import (
    Artifact,
    HeadSpec,
    Manifest,
    TensorSpec,
    Thresholds,
    Training,
    Variant,
    Weights,
)
from harness.detector.preprocess import standard_steps
from harness.types import Float32

SIDE = 32
TOLERANCE = 5e-3
"""Largest difference from `expected` relative to its largest value; float16 needs about 1e-3."""
_SHAPES = {"image": (3, SIDE, SIDE), "embedding": (6, SIDE // 4, SIDE // 4)}
_KERNELS = np.random.default_rng(7).normal(0, 0.2, (6, 3, 4, 4)).astype(np.float32)
_FLOAT, _INTS = 1, 7


def images() -> Float32:
    """One image (1, 3, 32, 32)."""
    return np.random.default_rng(8).normal(size=(1, *_SHAPES["image"])).astype(np.float32)


def expected(batch: Float32) -> Float32:
    """What the model gives for (N, 3, 32, 32): a convolution with kernel 4 and stride 4, (N, 6, 8, 8)."""
    patches = batch.reshape(len(batch), 3, SIDE // 4, 4, SIDE // 4, 4)
    return np.asarray(np.einsum("ncykxl,dckl->ndyx", patches, _KERNELS), np.float32)


def difference(outputs: dict[str, Float32], batch: Float32) -> float:
    """Largest difference of a session's outputs from `expected`, relative to its largest value; infinite for others.

    Not finite values count as infinitely far.
    """
    wanted, found = expected(batch), outputs.get("embedding")
    if set(outputs) != {"embedding"} or found is None or found.shape != wanted.shape:
        return float("inf")
    far = float(np.abs(found - wanted).max() / np.abs(wanted).max())
    return far if np.isfinite(far) else float("inf")


def write(folder: Path) -> Artifact:
    """Write the detector as an artifact with one ONNX variant into the new folder `folder`."""
    folder.mkdir(parents=True)
    net, state = {"conv.weight": _KERNELS}, {"none": np.zeros(1, np.float32)}
    artifact.write_arrays(folder / artifact.NET, net)
    artifact.write_arrays(folder / artifact.STATE, state)
    manifest = Manifest(
        schema=artifact.SCHEMA,
        detector="trial",
        backbone="trial",
        category="trial",
        preprocessing=standard_steps(SIDE, SIDE),
        head=HeadSpec(name="graph", parameters={}),
        thresholds=Thresholds(
            image=0.0, pixel=0.0, image_quantile=0.5, pixel_quantile=0.5, held_out_images=1
        ),
        training=Training(dataset="none", fingerprint="0" * 64, images=0, held_out=()),
        weights=Weights(source="none", sha256=storage.sha256_of_arrays(net)),
        seed=0,
        request_sha256="0" * 64,
        net_sha256=storage.sha256_of_arrays(net),
        state_sha256=storage.sha256_of_arrays(state),
        detector_sha256="",
    )
    fields = {name: getattr(manifest, name) for name in manifest.__struct_fields__}
    fields["detector_sha256"] = artifact.detector_digest(manifest)
    artifact.write_manifest(folder, Manifest(**fields))
    model = folder / "onnx-fp32.onnx"
    storage.write_bytes(model, onnx_bytes())
    image, output = (
        TensorSpec(name=name, dtype="float32", shape=(None, *shape)) for name, shape in _SHAPES.items()
    )
    variant = Variant(
        id="onnx-fp32",
        format="onnx",
        precision="fp32",
        input=image,
        input_stage="layout",
        outputs=(output,),
        files={model.name: storage.sha256_of_file(model)},
        agreement={},
    )
    artifact.add_variant(folder, variant)
    return artifact.read(folder)


def onnx_bytes() -> bytes:
    """The model: opset 11, which every CANN with an ONNX parser takes; the batch is free."""
    attributes = b"".join(
        _part(5, _text(1, name) + b"".join(_number(8, 4) for _ in range(2)) + _number(20, _INTS))
        for name in ("kernel_shape", "strides")
    )
    node = _text(1, "image") + _text(1, "kernels") + _text(2, "embedding") + _text(3, "conv")
    node += _text(4, "Conv") + attributes
    weights = b"".join(_number(1, size) for size in _KERNELS.shape)
    weights += _number(2, _FLOAT) + _text(8, "kernels") + _part(9, _KERNELS.tobytes())
    graph = _part(1, node) + _text(2, "trial") + _part(5, weights)
    graph += _part(11, _value("image")) + _part(12, _value("embedding"))
    return _number(1, 6) + _text(2, "harness") + _part(7, graph) + _part(8, _text(1, "") + _number(2, 11))


def _value(name: str) -> bytes:
    """A `ValueInfoProto` of float32 with a free batch."""
    sizes = _part(1, _text(2, "batch")) + b"".join(_part(1, _number(1, size)) for size in _SHAPES[name])
    tensor = _number(1, _FLOAT) + _part(2, sizes)
    return _text(1, name) + _part(2, _part(1, tensor))


def _text(field: int, text: str) -> bytes:
    return _part(field, text.encode())


def _part(field: int, data: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(data)) + data


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _varint(value: int) -> bytes:
    """Seven bits per byte, the low ones first."""
    made = bytearray()
    while value > 0x7F:
        made.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*made, value))
