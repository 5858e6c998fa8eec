"""Names → implementations, resolved when used: the only way the engine reaches backends, exporters and learners.

A new part is one new file and one line here; another distribution adds a backend by an entry point in the group
`harness.backends` whose name is the backend's and whose value is `module:object`.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import HarnessError, UsageError, unknown

if TYPE_CHECKING:
    from harness.contracts import Backend, HeadFactory

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
LOWER_PRECISION = tuple(name for name in BACKENDS if name.endswith(("-fp16", "-default")))
"""Backends that may compute in a lower precision than the model's: run only where they are asked for by name."""
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
OUR_PACKAGES = ("backends", "exporters")
LIST_COMMANDS = {"backend": "python -m harness backends"}
"""Family → the command that lists its names."""


def backend_names() -> tuple[str, ...]:
    """Built-in backends, then those other distributions add."""
    return (*BACKENDS, *sorted(set(_entry_points()) - set(BACKENDS)))


def backend(name: str) -> Backend:
    """The backend called `name`."""
    found: Backend = resolve("backend", name, {**_entry_points(), **BACKENDS})
    return found


def head(name: str) -> HeadFactory:
    """The head called `name`."""
    found: HeadFactory = resolve("head", name, HEADS)
    return found


def resolve(family: str, name: str, table: Mapping[str, str]) -> Any:
    """The object that `table` names.

    Raises:
        UsageError: an unknown name, with the nearest known one.
    """
    if name not in table:
        raise UsageError(unknown(family, name, table, LIST_COMMANDS.get(family, "")))
    return load(table[name])


def load(target: str) -> Any:
    """The object that `target`, `module:name`, names; its module is imported now."""
    module, _, attribute = target.partition(":")
    _check_owner(module)
    return getattr(importlib.import_module(module), attribute)


def is_installed(package: str) -> bool:
    """Whether `package` can be imported, without importing it."""
    return importlib.util.find_spec(package) is not None


def _entry_points() -> dict[str, str]:
    return {point.name: point.value for point in importlib.metadata.entry_points(group="harness.backends")}


def _check_owner(module: str) -> None:
    """Refuse to run with another distribution's `backends` or `exporters` in the place of ours."""
    package = module.partition(".")[0]
    if package not in OUR_PACKAGES:
        return
    ours = Path(__file__).resolve().parents[1] / package
    found = Path(str(importlib.import_module(package).__file__)).resolve().parent
    if found != ours:
        raise HarnessError(
            f"the package {package!r} of another distribution ({found}) hides ours ({ours}): "
            "use an environment of its own for the harness"
        )
