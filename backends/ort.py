"""ONNX variants through onnxruntime: one adapter, one row per execution provider."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np

from backends.base import DeviceReport
from backends.errors import BackendError, DeviceMismatch
from harness.artifact import Artifact, Variant
from harness.errors import DISTRIBUTION, MissingExtra
from harness.types import AnyArray

_NONE: Mapping[str, float] = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class OnnxRuntime:
    """ONNX variants on one execution provider of onnxruntime."""

    provider: str
    device: str
    extra: str
    """The extra that installs the flavour with this provider."""
    provider_options: Mapping[str, str] = field(default_factory=dict)
    formats: tuple[str, ...] = ("onnx",)
    environment: Mapping[str, str] = field(default_factory=dict)

    def unavailable(self) -> str | None:
        """Why this provider cannot run here; `None` when it can."""
        if importlib.util.find_spec("onnxruntime") is None:
            return f"onnxruntime is not installed: pip install '{DISTRIBUTION}[{self.extra}]'"
        import onnxruntime

        if self.provider not in onnxruntime.get_available_providers():
            return (
                f"the installed onnxruntime has no {self.provider}: in an environment of its own, "
                f"pip install '{DISTRIBUTION}[{self.extra}]'"
            )
        return None

    def open(self, artifact: Artifact, variant: Variant, *, threads: int) -> OnnxRuntimeSession:
        """Open an ONNX variant on this provider alone.

        Raises:
            BackendError: onnxruntime cannot load the model.
            DeviceMismatch: the session would run on another provider.
            MissingExtra: onnxruntime is not installed.
        """
        try:
            import onnxruntime
        except ImportError as error:
            raise MissingExtra("onnxruntime", self.extra, needed_for=f"Running on {self.provider}") from error
        if self.provider not in onnxruntime.get_available_providers():
            raise DeviceMismatch(str(self.unavailable()))
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        if self.device != "cpu":
            # Without this, nodes the provider cannot take would run on the CPU unnoticed.
            options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        model = artifact.model_file(variant)
        try:
            session = onnxruntime.InferenceSession(
                str(model), options, providers=[(self.provider, dict(self.provider_options))]
            )
        except _vendor_errors() as error:
            raise BackendError(f"{model}: onnxruntime cannot load it on {self.provider}: {error}") from error
        used = session.get_providers()
        if used[0] != self.provider:
            raise DeviceMismatch(
                f"asked for {self.provider}, onnxruntime gave {used[0]}: check driver and libraries"
            )
        report = DeviceReport(
            device=self.device,
            runtime={"onnxruntime": onnxruntime.__version__},
            options={
                "providers": ", ".join(used),
                "intra_op_num_threads": str(threads),
                "inter_op_num_threads": "1",
            },
        )
        return OnnxRuntimeSession(session, report, tuple(spec.name for spec in variant.outputs))


class OnnxRuntimeSession:
    """One opened ONNX model."""

    def __init__(self, session: Any, report: DeviceReport, outputs: tuple[str, ...]) -> None:
        self.report = report
        self.device_ms = _NONE
        self._session = session
        self._input = session.get_inputs()[0].name
        self._outputs = outputs

    def run(self, batch: AnyArray) -> dict[str, AnyArray]:
        """Outputs by name, float32."""
        try:
            arrays = self._session.run(self._outputs, {self._input: batch})
        except _vendor_errors() as error:
            raise BackendError(f"onnxruntime failed on a batch of shape {batch.shape}: {error}") from error
        return {
            name: np.asarray(array, np.float32) for name, array in zip(self._outputs, arrays, strict=True)
        }

    def close(self) -> None:
        """Release the model."""
        self._session = None


def _vendor_errors() -> tuple[type[Exception], ...]:
    """What onnxruntime raises: classes of its own without a common base, and RuntimeError."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    own = [kind for kind in vars(state).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    return (*own, RuntimeError)


cpu = OnnxRuntime(provider="CPUExecutionProvider", device="cpu", extra="ort")
gpu = OnnxRuntime(provider="CUDAExecutionProvider", device="cuda:0", extra="ort-gpu")
