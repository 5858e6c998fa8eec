"""Names → implementations, loaded when used: the engine's only way to backends, exporters, learners and heads.

A built-in part is one new file and one line here. Other distributions add parts by entry points: `harness.plugins`.
"""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

from harness import plugins
from harness.plugins import Family

if TYPE_CHECKING:
    from harness.contracts import Backend, DetectorPlugin, HeadFactory

load, resolve = plugins.load, plugins.resolve
BACKENDS = {
    "onnxruntime-cpu": "backends.ort:cpu",
    "onnxruntime-gpu": "backends.ort:gpu",
    "onnxruntime-tensorrt": "backends.ort:tensorrt",
    "onnxruntime-tensorrt-fp16": "backends.ort:tensorrt_fp16",
    "onnxruntime-openvino": "backends.ort:openvino",
    "onnxruntime-directml": "backends.ort:directml",
    "onnxruntime-cann": "backends.ort:cann",
    "onnxruntime-cann-fp16": "backends.ort:cann_fp16",
    "openvino-cpu": "backends.openvino:cpu",
    "openvino-cpu-default": "backends.openvino:cpu_default",
    "openvino-gpu": "backends.openvino:gpu",
    "openvino-gpu-default": "backends.openvino:gpu_default",
    "openvino-npu-default": "backends.openvino:npu_default",
    "mindspore-cpu": "backends.mindspore:cpu",
    "ascend910": "backends.mindspore:ascend910",
    "ascend310": "backends.ascend.adapter:ascend310",
    "ascend310p": "backends.ascend.adapter:ascend310p",
    "ascend310b": "backends.ascend.adapter:ascend310b",
    "ascend310-simulated": "backends.ascend.adapter:ascend310_simulated",
    "ascend-lite": "backends.lite:ascend",
    "ascend-lite-fp16": "backends.lite:ascend_fp16",
    "ascend-lite-simulated": "backends.lite:ascend_simulated",
}
REDUCED_PRECISION = tuple(name for name in BACKENDS if name.endswith(("-fp16", "-default")))
"""Backends that may compute in a lower precision than the model's: they run only if named."""
HEADS = {
    "padim": "harness.heads.padim:PadimHead",
    "patchcore": "harness.heads.patchcore:PatchcoreHead",
    "fastflow": "harness.heads.fastflow:FastflowHead",
    "stpm": "harness.heads.stpm:StpmHead",
    "ssim_ae": "harness.heads.ssim_ae:SsimAeHead",
    "graph": "harness.heads.graph:GraphHead",
    "given": "harness.heads.given:GivenHead",
}
LEARNERS = {
    "padim": "exporters.fit.padim:learn",
    "patchcore": "exporters.fit.patchcore:learn",
    "fastflow": "exporters.fit.fastflow:learn",
    "stpm": "exporters.fit.stpm:learn",
    "ssim_ae": "exporters.fit.ssim_ae:learn",
}
NETS = {
    "padim": "exporters.nets.padim:from_artifact",
    "patchcore": "exporters.nets.patchcore:from_artifact",
    "fastflow": "exporters.nets.fastflow:from_artifact",
    "stpm": "exporters.nets.stpm:from_artifact",
    "ssim_ae": "exporters.nets.ssim_ae:from_artifact",
}
NETS_WITH_HEAD = {name: module.replace(":from_artifact", ":with_head") for name, module in NETS.items()}
"""Networks whose graph also holds the head: image in, map and score out."""
EXPORTERS = {
    "onnx": "exporters.onnx:export",
    "mindir": "exporters.mindir:export",
    "air": "exporters.air:export",
    "om": "exporters.ascend.om:export",
}
DOCTORS = dict.fromkeys(
    ("ascend310", "ascend310p", "ascend310b", "ascend310-simulated"), "backends.ascend.doctor:steps"
)
"""Backends with steps of their own for `harness.doctor.steps`."""
BACKEND_FAMILY: Family[Backend] = Family(
    kind="backend",
    builtin=BACKENDS,
    group="harness.backends",
    members=("formats", "environment", "simulated", "unavailable", "open"),
    list_command="python -m harness backends",
)
HEAD_FAMILY: Family[HeadFactory] = Family(
    kind="head", builtin=HEADS, group="harness.heads", members=("scores_input",)
)
DETECTOR_FAMILY: Family[DetectorPlugin] = Family(
    kind="detector",
    builtin=LEARNERS,
    group="harness.detectors",
    members=("learn", "settings", "preprocessing"),
)
WITHOUT_BACKBONE = ("ssim_ae",)
"""Built-in detectors without a pretrained backbone; a plug-in has none either."""


def backend_names() -> tuple[str, ...]:
    """Built-in backends, then those of other distributions."""
    return BACKEND_FAMILY.names()


def backend(name: str) -> Backend:
    """The backend called `name`; raises as `harness.plugins.Family.load` does."""
    return BACKEND_FAMILY.load(name)


def head(name: str) -> HeadFactory:
    """The head called `name`; raises as `harness.plugins.Family.load` does."""
    return HEAD_FAMILY.load(name)


def detector_names() -> tuple[str, ...]:
    """Built-in detectors, then those of other distributions."""
    return DETECTOR_FAMILY.names()


def detector_plugin(name: str) -> DetectorPlugin | None:
    """The detector of another distribution called `name`; `None` for a built-in one.

    Raises:
        PluginError, UsageError: as `harness.plugins.Family.load`.
    """
    return DETECTOR_FAMILY.plugin(name)


def has_backbone(detector: str) -> bool:
    """Whether a detector is fitted on a pretrained backbone's features."""
    return detector in LEARNERS and detector not in WITHOUT_BACKBONE


def is_installed(package: str) -> bool:
    """Whether `package` can be imported, without importing it."""
    return importlib.util.find_spec(package) is not None
