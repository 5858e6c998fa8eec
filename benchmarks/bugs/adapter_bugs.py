"""Bugs of an adapter, and of a board's own head: faulty backends of another distribution (`faulty_backends`)."""

from __future__ import annotations

from typing import Any

from benchmarks.bugs.change import Change, Place
from benchmarks.bugs.deployment import Deployment
from benchmarks.bugs.graph_bugs import compile_om

BACKENDS = {
    "onnxruntime-stale": "stale",
    "onnxruntime-cut": "cut",
    "onnxruntime-channels-last": "channels_last",
    "onnxruntime-swapped": "swapped",
    "onnxruntime-rounded": "rounded",
    "ascend310-off-by-one": "off_by_one_gear",
    "onnxruntime-without-blur": "without_blur",
    "onnxruntime-other-upsampling": "other_upsampling",
    "onnxruntime-mean-as-score": "mean_as_score",
    "onnxruntime-cuda": "gpu_without_libraries",
    "onnxruntime-unoptimised": "unoptimised",
    "onnx-reference": "onnx_reference",
}
"""Names of the backends → objects of `faulty_backends`."""


def _bug(name: str, backend: str, place: Place = "outputs", **more: Any) -> Change:
    return Change(
        name=name, where="adapter", inject=lambda deployment: deployment.bench(backend), place=place, **more
    )


def _off_by_one_gear(deployment: Deployment) -> None:
    compile_om(deployment, batches=(1, 4))
    deployment.bench("ascend310-off-by-one", batch_size=3)


BUGS = (
    _bug("stale output buffer", "onnxruntime-stale"),
    _bug("truncated outputs, filled up with zeros", "onnxruntime-cut"),
    _bug("outputs NHWC for NCHW", "onnxruntime-channels-last"),
    _bug(
        "swapped outputs",
        "onnxruntime-swapped",
        subject="stpm",
        reference="onnxruntime-cpu",
    ),
    _bug("inputs rounded to float16 under a float32 label", "onnxruntime-rounded"),
    Change(name="off-by-one gear (OM, simulated)", where="adapter", inject=_off_by_one_gear, place="outputs"),
    _bug("blur missing", "onnxruntime-without-blur", "head"),
    _bug("map upsampled otherwise", "onnxruntime-other-upsampling", "head"),
    _bug("mean of the map as score", "onnxruntime-mean-as-score", "head"),
    # Not injected: before opset 14, onnx 1.23's own implementation mixes in a tenth of the batch's statistics.
    _bug("batch's statistics in batch normalisation (ONNX's own implementation, opset 11)", "onnx-reference"),
    _bug("silent CPU fallback", "onnxruntime-cuda", "device"),
)
