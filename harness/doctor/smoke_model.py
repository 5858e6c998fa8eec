"""A detector of one convolution whose outputs are known, for the smoke test of a backend.

Its ONNX file `smoke.onnx` is shipped, so that a board without the package `onnx` has a model too. It has opset 11, which
every CANN with an ONNX parser takes, and a free batch.
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
_MODEL = Path(__file__).with_name("smoke.onnx")


def images() -> Float32:
    """One image (1, 3, 32, 32)."""
    return np.random.default_rng(8).normal(size=(1, *_SHAPES["image"])).astype(np.float32)


def expected(batch: Float32) -> Float32:
    """The model's output for (N, 3, 32, 32): a convolution with kernel 4 and stride 4, (N, 6, 8, 8)."""
    patches = batch.reshape(len(batch), 3, SIDE // 4, 4, SIDE // 4, 4)
    return np.asarray(np.einsum("ncykxl,dckl->ndyx", patches, _KERNELS), np.float32)


def difference(outputs: dict[str, Float32], batch: Float32) -> float:
    """Largest difference of a session's outputs from `expected`, relative to its largest value; infinite for others.

    Not finite values count as infinitely far.
    """
    right, output = expected(batch), outputs.get("embedding")
    if set(outputs) != {"embedding"} or output is None or output.shape != right.shape:
        return float("inf")
    distance = float(np.abs(output - right).max() / np.abs(right).max())
    return distance if np.isfinite(distance) else float("inf")


def write(folder: Path) -> Artifact:
    """Write the detector as an artifact with one ONNX variant into the new folder `folder`."""
    folder.mkdir(parents=True)
    net, state = {"conv.weight": _KERNELS}, {"none": np.zeros(1, np.float32)}
    artifact.write_arrays(folder / artifact.NET, net)
    artifact.write_arrays(folder / artifact.STATE, state)
    manifest = Manifest(
        schema=artifact.SCHEMA,
        detector="smoke",
        backbone="smoke",
        category="smoke",
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
    storage.write_bytes(model, _MODEL.read_bytes())
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
