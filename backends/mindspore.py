"""MINDIR variants through MindSpore: one adapter, one row per device target."""

from __future__ import annotations

import importlib.util
import os
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from backends.errors import BackendError, DeviceMismatch
from harness import machine
from harness.contracts import DeviceReport
from harness.detector.artifact import Artifact, Variant
from harness.errors import DISTRIBUTION, MissingExtra
from harness.types import AnyArray

_NONE: Mapping[str, float] = MappingProxyType({})

_PRECISION = "must_keep_origin_dtype"
_ENVIRONMENT = {
    # MindSpore's generated protobuf code and a newer protobuf only agree in pure Python.
    "PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION": "python",
    # oneDNN picks a reference convolution under AVX-512 in some builds, 20 to 300 times slower.
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "GLOG_v": "3",
    # A failed compilation leaves its debris there, not in the user's folder.
    "MS_OM_PATH": tempfile.gettempdir(),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class MindSpore:
    """MINDIR variants on one device target of MindSpore."""

    target: str
    device: str
    formats: tuple[str, ...] = ("mindir",)
    environment: Mapping[str, str] = field(default_factory=lambda: dict(_ENVIRONMENT))
    simulated: bool = False

    def unavailable(self) -> str | None:
        """Why this target cannot run here; `None` when it can."""
        if importlib.util.find_spec("mindspore") is None:
            return f"MindSpore is not installed: pip install '{DISTRIBUTION}[mindspore]'"
        try:
            self._runtime()
        except DeviceMismatch as error:
            return str(error)
        return None

    def open(self, artifact: Artifact, variant: Variant, *, threads: int) -> MindSporeSession:
        """Open a MINDIR variant on this target.

        MindSpore ignores its own thread settings on the CPU; the worker's core affinity is the limit, and recorded.

        Raises:
            BackendError: MindSpore cannot load the model.
            DeviceMismatch: the target is not on this machine, or another chip than the one asked for.
            MissingExtra: MindSpore is not installed.
        """
        mindspore = self._runtime()
        model = artifact.model_file(variant)
        try:
            graph = mindspore.nn.GraphCell(mindspore.load(str(model)))
        except (RuntimeError, ValueError, TypeError) as error:
            raise BackendError(f"{model}: MindSpore cannot load it: {error}") from error
        affinity = sorted(os.sched_getaffinity(0))
        ascend = _ascend(mindspore) if self.target == "Ascend" else {}
        report = DeviceReport(
            device=f"ascend:{ascend['device_id']}" if ascend else self.device,
            runtime={"mindspore": mindspore.__version__} | (machine.cann_report() if ascend else {}),
            options={
                "device_target": str(mindspore.get_context("device_target")),
                "cores": ",".join(map(str, affinity)),
                "threads_asked": str(threads),
                **ascend,
            },
            simulated=False,
        )
        return MindSporeSession(mindspore, graph, report, tuple(spec.name for spec in variant.outputs))

    def _runtime(self) -> Any:
        try:
            import mindspore
        except ImportError as error:
            raise MissingExtra("MindSpore", "mindspore", needed_for=f"Running on {self.target}") from error
        try:
            if mindspore.get_context("device_target") != self.target:
                mindspore.set_device(self.target)  # refused once anything has run
            mindspore.set_context(mode=mindspore.GRAPH_MODE)
        except (RuntimeError, ValueError) as error:
            first = str(error).strip().splitlines()[0].partition(". Please")[0]
            raise DeviceMismatch(
                f"MindSpore {mindspore.__version__} has no {self.target} target here ({first}): install MindSpore with "
                "CANN on an Ascend host, see https://www.mindspore.cn/install/en"
            ) from error
        used = mindspore.get_context("device_target")
        if used != self.target:
            raise DeviceMismatch(f"asked MindSpore for {self.target}, it gave {used}")
        if self.target == "Ascend":
            _ascend(mindspore)
        return mindspore


def _ascend(mindspore: Any) -> dict[str, str]:
    """Ask for float32 throughout, and say which chip this is; may be called again.

    MindSpore's own default is not float32: CANN lets convolutions round to HF32 unless told otherwise.

    Raises:
        DeviceMismatch: no such device, another chip than a 910, or a precision that was set before.
    """
    ascend = mindspore.device_context.ascend
    device = int(mindspore.get_context("device_id"))
    try:
        count = ascend.device_count()
        ascend.op_precision.precision_mode(_PRECISION)
        ascend.op_precision.conv_allow_hf32(False)  # noqa: FBT003 - MindSpore takes no keyword in all releases
        ascend.op_precision.matmul_allow_hf32(False)  # noqa: FBT003
        soc = str(mindspore.hal.get_device_name(device, "Ascend"))
    except (RuntimeError, ValueError) as error:
        raise DeviceMismatch(
            f"MindSpore {mindspore.__version__} cannot use its Ascend device {device} as asked ({error}): install "
            f"MindSpore with CANN on an Ascend 910 host, see npu-smi info, and `{machine.CANN_SET_ENV}`"
        ) from error
    if not 0 <= device < count:
        raise DeviceMismatch(
            f"asked MindSpore for Ascend device {device}, it finds {count}: see npu-smi info"
        )
    chip = re.search(r"Ascend[ _]?(\d+)", soc, re.IGNORECASE)
    if chip and chip.group(1) != "910":
        raise DeviceMismatch(
            f"asked for an Ascend 910, the chip here is {soc}: its OM runs through pyACL, --backend ascend310, "
            "ascend310p or ascend310b"
        )
    return {
        "device_id": str(device),
        "device_count": str(count),
        "soc": soc,
        "precision_mode": _PRECISION,
        "conv_allow_hf32": "False",
        "matmul_allow_hf32": "False",
        **machine.visible_devices(),
    }


class MindSporeSession:
    """One opened MINDIR graph; each new input shape compiles it once more."""

    def __init__(self, mindspore: Any, graph: Any, report: DeviceReport, outputs: tuple[str, ...]) -> None:
        self.report = report
        self.device_ms = _NONE
        self._tensor = mindspore.Tensor
        self._graph = graph
        self._outputs = outputs

    def run(self, batch: AnyArray) -> dict[str, AnyArray]:
        """Outputs by name, float32."""
        try:
            result = self._graph(self._tensor(batch))
            tensors = result if isinstance(result, tuple | list) else (result,)
            return {name: tensor.asnumpy() for name, tensor in zip(self._outputs, tensors, strict=True)}
        except (RuntimeError, ValueError, TypeError) as error:
            raise BackendError(f"MindSpore failed on a batch of shape {batch.shape}: {error}") from error

    def close(self) -> None:
        """Release the graph."""
        self._graph = None


cpu = MindSpore(target="CPU", device="cpu")
ascend910 = MindSpore(target="Ascend", device="ascend:0")
