"""ONNX variants through OpenVINO: float32 unless a lower precision is asked for by name.

OpenVINO's own choice on a CPU with bfloat16 arithmetic (AVX512-BF16, AMX) is bfloat16, and on a GPU or NPU float16,
whatever the model says (https://docs.openvino.ai, "Precision Control"). What was really used is read back.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from backends.errors import BackendError, DeviceMismatch
from harness.contracts import DeviceReport
from harness.detector.artifact import Artifact, Variant
from harness.errors import MissingExtra, Unavailable
from harness.registry import is_installed
from harness.types import AnyArray

_NONE: Mapping[str, float] = MappingProxyType({})
_VENDOR_ERRORS = (RuntimeError, TypeError, ValueError)
_HINT = "INFERENCE_PRECISION_HINT"
_LOWER = ("f16", "bf16")


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenVino:
    """ONNX variants on one device of OpenVINO."""

    device: str
    """As OpenVINO calls it: `CPU`, `GPU`, `NPU`; of several GPUs the first."""
    precision: str | None = "f32"
    """What it is asked to compute in; `None` leaves the choice to OpenVINO."""
    formats: tuple[str, ...] = ("onnx",)
    environment: Mapping[str, str] = field(default_factory=lambda: {"ONEDNN_MAX_CPU_ISA": "DEFAULT"})
    """A limit meant for MindSpore would make OpenVINO slower, and break it where it computes in bfloat16."""
    simulated: bool = False

    def unavailable(self) -> str | None:
        """Why this device cannot be used here; `None` when it can."""
        try:
            self._runtime()
        except Unavailable as error:
            return str(error)
        return None

    def open(self, artifact: Artifact, variant: Variant, *, threads: int) -> OpenVinoSession:
        """Compile an ONNX variant for this device alone.

        Raises:
            BackendError: OpenVINO cannot read or compile the model.
            DeviceMismatch: it would run on another device, or in a lower precision than asked for.
            MissingExtra: OpenVINO is not installed.
            Unavailable: it is installed and cannot be imported.
        """
        openvino = self._runtime()
        compiler = _Compiler(
            core=_core(openvino.Core),
            device=self.device,
            precision=self.precision,
            path=artifact.model_file(variant),
            threads=threads,
        )
        return OpenVinoSession(compiler, variant, openvino.__version__)

    def _runtime(self) -> Any:
        if not is_installed("openvino"):
            raise MissingExtra("OpenVINO", "openvino", needed_for=f"Running on OpenVINO's {self.device}")
        try:
            import openvino
        except ImportError as error:
            raise Unavailable(
                f"OpenVINO is installed but cannot be imported ({error}): install it again"
            ) from error
        listed = _core(openvino.Core).available_devices
        if self.device not in {name.partition(".")[0] for name in listed}:
            raise DeviceMismatch(
                f"OpenVINO {openvino.__version__} lists no {self.device} here, only {', '.join(listed) or 'nothing'}: "
                "install Intel's driver for it"
            )
        return openvino


@cache
def _core(make: Callable[[], Any]) -> Any:
    """The one core of the process.

    On a CPU with AMX every core brings a stack for signal handlers. Of two, the first to go leaves its freed stack to be
    put back by the second (OpenVINO 2026.4), and the next Ctrl-C ends the process with SIGSEGV.
    """
    return make()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Compiler:
    """What one model is compiled with."""

    core: Any
    device: str
    precision: str | None
    path: Path
    threads: int

    def compiled(self, *, rows: int | None) -> tuple[Any, dict[str, str]]:
        """The model for batches of `rows`, of any size where that is `None`, and what OpenVINO says of it.

        Raises:
            BackendError: OpenVINO cannot read or compile the model.
            DeviceMismatch: another device or a lower precision than asked for.
        """
        try:
            model = self.core.read_model(str(self.path))
            if rows is not None:
                shape = model.inputs[0].partial_shape
                shape[0] = rows
                model.reshape(shape)
            stored = {
                str(out.get_element_type().get_type_name()) for op in model.get_ops() for out in op.outputs()
            }
            compiled = self.core.compile_model(model, self.device, self._settings())
        except _VENDOR_ERRORS as error:
            raise BackendError(
                f"{self.path}: OpenVINO cannot load it on {self.device}: {_flat(error)}"
            ) from error
        return compiled, self._checked(compiled, stored)

    def _settings(self) -> dict[str, Any]:
        known = self.core.get_property(self.device, "SUPPORTED_PROPERTIES")
        wanted = {"NUM_STREAMS": 1, "INFERENCE_NUM_THREADS": self.threads}
        settings = {name: value for name, value in wanted.items() if known.get(name) == "RW"}
        return settings | ({} if self.precision is None else {_HINT: self.precision})

    def _checked(self, compiled: Any, stored: set[str]) -> dict[str, str]:
        """What OpenVINO says it made; `stored` are the types of the model as read.

        Raises:
            DeviceMismatch: another device or a lower precision than asked for.
        """
        devices = [str(name) for name in compiled.get_property("EXECUTION_DEVICES")]
        if {name.partition(".")[0] for name in devices} != {self.device}:
            raise DeviceMismatch(
                f"asked OpenVINO for {self.device}, it gave {', '.join(devices) or 'no device'}"
            )
        used = compiled.get_property(_HINT).get_type_name()
        nodes = _nodes_by_precision(compiled)
        lowered = {name for name in _LOWER if nodes[name]} - stored
        if self.precision is not None and (used != self.precision or lowered):
            raise DeviceMismatch(
                f"asked OpenVINO's {self.device} for {self.precision}, it computes in "
                f"{', '.join(sorted(lowered)) or used}: ask for what it does, --backend openvino-{self.device.lower()}-default"
            )
        supported = compiled.get_property("SUPPORTED_PROPERTIES")
        return {
            "execution_devices": ", ".join(devices),
            "full_device_name": str(self.core.get_property(self.device, "FULL_DEVICE_NAME")),
            "precision": used,
            "precision_asked": self.precision or "OpenVINO's own choice",
            "nodes_by_precision": ", ".join(f"{name} {count}" for name, count in sorted(nodes.items()))
            or "not told",
            **{
                name.lower(): str(compiled.get_property(name))
                for name in ("NUM_STREAMS", "INFERENCE_NUM_THREADS", "PERFORMANCE_HINT")
                if name in supported
            },
        }


def _nodes_by_precision(compiled: Any) -> Counter[str]:
    """How many nodes of the compiled graph compute in each type; empty where the device does not tell."""
    try:
        nodes = compiled.get_runtime_model().get_ordered_ops()
    except _VENDOR_ERRORS:
        return Counter()
    node_infos = [node.get_rt_info() for node in nodes]
    return Counter(
        str(info["runtimePrecision"].value) for info in node_infos if info["layerType"].value != "Const"
    )


class OpenVinoSession:
    """One ONNX model: compiled for single images, and for batches of any size once the first of those comes.

    A fixed shape lets OpenVINO choose faster kernels, and an NPU takes no other; but one model per batch size would be
    compiled in the middle of a run, when the last, smaller batch comes.
    """

    def __init__(self, compiler: _Compiler, variant: Variant, version: str) -> None:
        self.device_ms = _NONE
        self._compiler = compiler
        self._input = variant.input
        self._outputs = tuple(spec.name for spec in variant.outputs)
        self._requests: dict[int | None, Any] = {}
        self.report = DeviceReport(
            device=compiler.device.lower(),
            runtime={"openvino": version},
            options=self._compile(1 if variant.input.shape[0] is None else None),
            simulated=False,
        )

    def run(self, batch: AnyArray) -> dict[str, AnyArray]:
        """Outputs by name, float32.

        Raises:
            BackendError: OpenVINO refused the batch or failed.
            DeviceMismatch: compiled for this batch size, the model would run elsewhere or in a lower precision.
        """
        if batch.dtype.name != self._input.dtype:  # OpenVINO would convert it
            raise BackendError(f"a batch of {batch.dtype.name} for an input of {self._input.dtype}")
        size = 1 if len(batch) == 1 and self._input.shape[0] is None else None
        if size not in self._requests:
            self._compile(size)
        try:
            results = self._requests[size].infer(
                {self._input.name: np.ascontiguousarray(batch)}, share_inputs=True
            )
            return {name: np.asarray(results[name], np.float32) for name in self._outputs}
        except (*_VENDOR_ERRORS, KeyError) as error:
            raise BackendError(
                f"OpenVINO failed on a batch of shape {batch.shape}: {_flat(error)}"
            ) from error

    def _compile(self, size: int | None) -> dict[str, str]:
        compiled, options = self._compiler.compiled(rows=size)
        self._requests[size] = compiled.create_infer_request()
        return options

    def close(self) -> None:
        """Release the model."""
        self._requests.clear()


def _flat(error: Exception) -> str:
    """OpenVINO's messages have a line for each of its own calls."""
    return " ".join(str(error).split())


cpu = OpenVino(device="CPU")
cpu_default = OpenVino(device="CPU", precision=None)
gpu = OpenVino(device="GPU")
gpu_default = OpenVino(device="GPU", precision=None)
npu_default = OpenVino(device="NPU", precision=None)
"""An NPU has no float32, so there is no row that asks for it."""
