"""ONNX variants through onnxruntime: one adapter, one row per execution provider and precision."""

from __future__ import annotations

import importlib.util
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from backends import cann as toolkit
from backends.base import DeviceReport
from backends.errors import BackendError, DeviceMismatch
from harness.artifact import Artifact, Variant
from harness.errors import DISTRIBUTION, MissingExtra, Unavailable
from harness.types import AnyArray

_NONE: Mapping[str, float] = MappingProxyType({})
_CANN = "CANNExecutionProvider"


@dataclass(frozen=True, slots=True, kw_only=True)
class OnnxRuntime:
    """ONNX variants on one execution provider of onnxruntime."""

    provider: str
    device: str
    extra: str
    """The extra that installs the flavour with this provider."""
    spellings: tuple[Mapping[str, str], ...] = ({},)
    """One request to the provider, in the words of each of its releases; it refuses words it does not know."""
    formats: tuple[str, ...] = ("onnx",)
    environment: Mapping[str, str] = field(default_factory=dict)
    simulated: bool = False

    def unavailable(self) -> str | None:
        """Why this provider cannot run here; `None` when it can."""
        try:
            self._runtime()
        except Unavailable as error:
            return str(error)
        return None

    def open(self, artifact: Artifact, variant: Variant, *, threads: int) -> OnnxRuntimeSession:
        """Open an ONNX variant on this provider alone.

        Raises:
            BackendError: onnxruntime cannot load the model, or refuses the options.
            DeviceMismatch: the session would run on another provider, wholly or in part, or in another precision.
            MissingExtra: onnxruntime is not installed.
            Unavailable: it is installed and cannot be imported.
        """
        onnxruntime = self._runtime()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        if self.device != "cpu":
            # Without this, nodes the provider cannot take would run on the CPU unnoticed.
            options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        model = artifact.model_file(variant)
        session, asked = self._session(onnxruntime, options, model)
        session.disable_fallback()  # or a run that fails would be repeated on the CPU
        report = DeviceReport(
            device=self.device,
            runtime={"onnxruntime": onnxruntime.__version__}
            | (toolkit.described() if self.provider == _CANN else {}),
            options={
                "providers": ", ".join(session.get_providers()),
                "intra_op_num_threads": str(threads),
                "inter_op_num_threads": "1",
                "nodes": self._nodes(session),
                **asked,
                **(toolkit.visible_devices() if self.provider == _CANN else {}),
            },
        )
        return OnnxRuntimeSession(session, report, tuple(spec.name for spec in variant.outputs))

    def _runtime(self) -> Any:
        if importlib.util.find_spec("onnxruntime") is None:
            raise MissingExtra("onnxruntime", self.extra, needed_for=f"Running on {self.provider}")
        try:
            import onnxruntime
        except ImportError as error:
            hint = f"is CANN there? {toolkit.SET_ENV}" if self.provider == _CANN else "install it again"
            raise Unavailable(f"onnxruntime is installed but cannot be imported ({error}): {hint}") from error
        if self.provider not in onnxruntime.get_available_providers():
            raise DeviceMismatch(
                f"the installed onnxruntime has no {self.provider}: in an environment of its own, "
                f"pip install '{DISTRIBUTION}[{self.extra}]'"
            )
        return onnxruntime

    def _session(self, onnxruntime: Any, options: Any, model: Path) -> tuple[Any, Mapping[str, str]]:
        """A session on this provider, and the spelling of the request that it took."""
        refusals = []
        for asked in self.spellings:
            try:
                session = onnxruntime.InferenceSession(
                    str(model), options, providers=[(self.provider, dict(asked))], enable_fallback=0
                )
            except _vendor_errors() as error:
                if "Unknown provider option" not in str(error):
                    raise BackendError(
                        f"{model}: onnxruntime cannot load it on {self.provider}: {error}{self._advice()}"
                    ) from error
                refusals.append(str(error))
                continue
            self._check(session, asked)
            return session, asked
        raise BackendError(
            f"onnxruntime {onnxruntime.__version__} knows none of the spellings of our options for {self.provider} "
            f"({'; '.join(refusals)}): take another release of onnxruntime"
        )

    def _check(self, session: Any, asked: Mapping[str, str]) -> None:
        """Refuse a session that is not what was asked for.

        Raises:
            DeviceMismatch: another provider, or another precision than the one asked for.
        """
        used = session.get_providers()
        if used[0] != self.provider:
            raise DeviceMismatch(
                f"asked for {self.provider}, onnxruntime gave {used[0]}: check driver and libraries"
            )
        given = session.get_provider_options().get(self.provider, {})
        for name, value in asked.items():
            if name.startswith("precision") and given.get(name, value) != value:
                raise DeviceMismatch(
                    f"asked {self.provider} for {name}={value}, onnxruntime gave {given[name]}"
                )

    def _nodes(self, session: Any) -> str:
        """How many nodes each provider took, if this onnxruntime tells.

        Raises:
            DeviceMismatch: another provider took some.
        """
        if not hasattr(session, "get_provider_graph_assignment_info"):
            return "not told by this onnxruntime (from 1.24 on)"
        nodes: Counter[str] = Counter()
        for part in session.get_provider_graph_assignment_info():
            nodes[part.ep_name] += len(part.get_nodes())
        told = ", ".join(f"{name}: {count}" for name, count in sorted(nodes.items()))
        if set(nodes) != {self.provider}:
            raise DeviceMismatch(
                f"asked for {self.provider} alone, the nodes went to {told or 'no provider'}"
            )
        return told

    def _advice(self) -> str:
        if self.provider != _CANN or self.spellings is _FLOAT16:
            return ""
        return (
            "; a chip that has no float32 convolution (Ascend 310, 310P) cannot run this in float32: "
            "ask for float16, --backend onnxruntime-cann-fp16"
        )


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


def _cann(precision_mode_v2: str, precision_mode: str) -> tuple[Mapping[str, str], ...]:
    """The newer words first: which wheel brought them is not known, and one that does not know them says so."""
    common = {
        "device_id": "0",
        "enable_cann_graph": "1",  # the whole graph is compiled, or the provider refuses it
        "enable_cann_subgraph": "0",
        "dump_graphs": "0",
        "dump_om_model": "0",  # nothing is written into the working folder
    }
    return (
        {**common, "precision_mode_v2": precision_mode_v2},
        {**common, "precision_mode": precision_mode},
    )


_AS_THE_MODEL = _cann("origin", "must_keep_origin_dtype")
"""`force_fp32` is listed beside `cube_fp16in_fp32out`, whose name says that it rounds before multiplying (not confirmed)."""
_FLOAT16 = _cann("fp16", "force_fp16")

cpu = OnnxRuntime(provider="CPUExecutionProvider", device="cpu", extra="ort")
gpu = OnnxRuntime(provider="CUDAExecutionProvider", device="cuda:0", extra="ort-gpu")
cann = OnnxRuntime(provider=_CANN, device="ascend:0", extra="ort-cann", spellings=_AS_THE_MODEL)
cann_fp16 = OnnxRuntime(provider=_CANN, device="ascend:0", extra="ort-cann", spellings=_FLOAT16)
