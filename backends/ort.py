"""ONNX variants through onnxruntime: one adapter, one row per execution provider and precision.

A provider takes the nodes it can and leaves the others to the next, at last to the CPU. How many it took is counted and
reported; one that took none is refused.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from backends.errors import BackendError, DeviceMismatch
from backends.ort_session import BoundSession, OnnxRuntimeSession, vendor_errors
from harness import machine
from harness.contracts import DeviceReport
from harness.detector.artifact import Artifact, Variant
from harness.errors import DISTRIBUTION, MissingExtra, Unavailable

_CANN = "CANNExecutionProvider"
_CPU = "CPUExecutionProvider"
_DIRECTML = "DmlExecutionProvider"
_PRECISION = ("precision", "precision_mode", "precision_mode_v2", "trt_fp16_enable", "use_tf32")
"""Options that decide in which precision a provider computes."""
_NO_TF32 = {"NVIDIA_TF32_OVERRIDE": "0"}
"""TensorRT, cuBLAS and cuDNN round float32 to 10 bits of fraction where they may, and read this when they start."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OnnxRuntime:
    """ONNX variants on one execution provider of onnxruntime."""

    provider: str
    device: str
    extra: str
    """The extra that installs the flavour with this provider."""
    spellings: tuple[Mapping[str, str], ...] = ({},)
    """One request to the provider, in the words of each of its releases; it refuses words it does not know."""
    threads_option: str | None = None
    """Which of its options limits its threads; most obey onnxruntime's own limit."""
    behind: tuple[tuple[str, Mapping[str, str]], ...] = ()
    """Providers with their options that take what it leaves, before the CPU does."""
    memory: str | None = None
    """The device memory that inputs and outputs are bound to, in onnxruntime's words; `None`: it copies them itself."""
    lower_precision: str | None = None
    """The precision it is told to compute in, where that is not the model's and no option of its own names it."""
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

    def open(
        self, artifact: Artifact, variant: Variant, *, threads: int
    ) -> OnnxRuntimeSession | BoundSession:
        """Open an ONNX variant on this provider; what it leaves to others is in the report.

        Raises:
            BackendError: onnxruntime cannot load the model, or refuses the options.
            DeviceMismatch: the provider would take no node, or compute in another precision than asked for.
            MissingExtra: onnxruntime is not installed.
            Unavailable: it is installed and cannot be imported.
        """
        onnxruntime = self._runtime()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.enable_mem_pattern = self.provider != _DIRECTML  # which cannot have it
        tells = hasattr(onnxruntime.InferenceSession, "get_provider_graph_assignment_info")
        if tells:
            options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        elif self.provider != _CPU:
            # Nodes that nobody counts may not run on the CPU.
            options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        model = artifact.model_file(variant)
        session, provider_options = self._session(onnxruntime, options, model, threads)
        session.disable_fallback()  # or a run that fails would be repeated on the CPU
        report = DeviceReport(
            device=self.device,
            simulated=False,
            runtime={"onnxruntime": onnxruntime.__version__}
            | (machine.cann_report() if self.provider == _CANN else {}),
            options={
                "providers": ", ".join(session.get_providers()),
                "intra_op_num_threads": str(threads),
                "inter_op_num_threads": "1",
                **({} if tells else {"nodes": "not told by this onnxruntime (from 1.24 on)"}),
                **({} if self.lower_precision is None else {"precision": self.lower_precision}),
                **provider_options,
                **{name: os.environ.get(name, "not set") for name in self.environment},
                **(machine.visible_devices() if self.provider == _CANN else {}),
            },
            nodes=self._nodes(session) if tells else {},
        )
        outputs = tuple(spec.name for spec in variant.outputs)
        if self.memory is not None:
            return BoundSession(session, report, outputs, self.memory)
        return OnnxRuntimeSession(session, report, outputs)

    def _runtime(self) -> Any:
        if importlib.util.find_spec("onnxruntime") is None:
            raise MissingExtra("onnxruntime", self.extra, needed_for=f"Running on {self.provider}")
        try:
            import onnxruntime
        except ImportError as error:
            hint = f"is CANN there? {machine.CANN_SET_ENV}" if self.provider == _CANN else "install it again"
            raise Unavailable(f"onnxruntime is installed but cannot be imported ({error}): {hint}") from error
        if self.provider not in onnxruntime.get_available_providers():
            raise DeviceMismatch(
                f"the installed onnxruntime has no {self.provider}: in an environment of its own, "
                f"pip install '{DISTRIBUTION}[{self.extra}]'"
            )
        if self.memory == "cuda" and hasattr(onnxruntime, "preload_dlls"):  # from 1.21 on
            onnxruntime.preload_dlls()  # those of NVIDIA's packages, which the linker would not find
        return onnxruntime

    def _session(
        self, onnxruntime: Any, options: Any, model: Path, threads: int
    ) -> tuple[Any, Mapping[str, str]]:
        """A session on this provider, and the spelling of the request that it took."""
        refusals = []
        limit = {} if self.threads_option is None else {self.threads_option: str(threads)}
        for spelling in self.spellings:
            provider_options = {**spelling, **limit}
            providers = [
                (name, dict(words)) for name, words in ((self.provider, provider_options), *self.behind)
            ]
            try:
                session = onnxruntime.InferenceSession(
                    str(model), options, providers=providers, enable_fallback=0
                )
            except vendor_errors() as error:
                if "Unknown provider option" not in str(error):
                    raise BackendError(
                        f"{model}: onnxruntime cannot load it on {self.provider}: {error}{self._advice()}"
                    ) from error
                refusals.append(str(error))
                continue
            self._check(session, provider_options)
            return session, provider_options
        raise BackendError(
            f"onnxruntime {onnxruntime.__version__} knows none of the spellings of our options for {self.provider} "
            f"({'; '.join(refusals)}): take another release of onnxruntime"
        )

    def _check(self, session: Any, expected: Mapping[str, str]) -> None:
        """Refuse a session that is not what was asked for.

        Raises:
            DeviceMismatch: another provider, or another precision than the one asked for.
        """
        used = session.get_providers()
        if used[0] != self.provider:
            raise DeviceMismatch(
                f"asked for {self.provider}, onnxruntime gave {used[0]}: check driver and libraries"
            )
        actual = session.get_provider_options().get(self.provider, {})
        for name, value in expected.items():
            if name in _PRECISION and actual.get(name, value) != value:
                raise DeviceMismatch(
                    f"asked {self.provider} for {name}={value}, onnxruntime gave {actual[name]}"
                )

    def _nodes(self, session: Any) -> dict[str, int]:
        """How many nodes each provider took, this one first; counted before nodes are fused into larger ones.

        Raises:
            DeviceMismatch: this one took none.
        """
        nodes: Counter[str] = Counter()
        for part in session.get_provider_graph_assignment_info():
            nodes[part.ep_name] += len(part.get_nodes())
        if not nodes[self.provider]:
            others = ", ".join(sorted(+nodes)) or "none"
            raise DeviceMismatch(
                f"asked for {self.provider}, it took none of the model's {nodes.total()} nodes (taken by: {others}): "
                "use --backend onnxruntime-cpu, or a model that it supports"
            )
        return {self.provider: nodes.pop(self.provider), **dict(sorted(nodes.items()))}

    def _advice(self) -> str:
        if self.provider != _CANN or self.spellings is _FLOAT16:
            return ""
        return (
            "; a chip that has no float32 convolution (Ascend 310, 310P) cannot run this in float32: "
            "ask for float16, --backend onnxruntime-cann-fp16"
        )


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

_CUDA = {
    "device_id": "0",
    "use_tf32": "0",  # onnxruntime's default is 1
    "cudnn_conv_algo_search": "HEURISTIC",  # the default lets a race decide at each start, and two sessions may round differently
}
_TENSORRT = {"device_id": "0", "trt_engine_cache_enable": "0"}

cpu = OnnxRuntime(provider=_CPU, device="cpu", extra="ort")
gpu = OnnxRuntime(
    provider="CUDAExecutionProvider",
    device="cuda:0",
    extra="ort-gpu",
    spellings=(_CUDA,),
    memory="cuda",
    environment=_NO_TF32,
)
tensorrt = OnnxRuntime(
    provider="TensorrtExecutionProvider",
    device="cuda:0",
    extra="ort-gpu",
    spellings=({**_TENSORRT, "trt_fp16_enable": "0"},),
    behind=(("CUDAExecutionProvider", _CUDA),),
    memory="cuda",
    environment=_NO_TF32,
)
tensorrt_fp16 = dataclasses.replace(
    tensorrt, spellings=({**_TENSORRT, "trt_fp16_enable": "1"},), lower_precision="fp16"
)
openvino = OnnxRuntime(
    provider="OpenVINOExecutionProvider",
    device="cpu",
    extra="ort-openvino",
    spellings=({"device_type": "CPU", "precision": "FP32", "num_streams": "1"},),
    threads_option="num_of_threads",
)
directml = OnnxRuntime(
    provider=_DIRECTML, device="directml:0", extra="ort-directml", spellings=({"device_id": "0"},)
)
cann = OnnxRuntime(provider=_CANN, device="ascend:0", extra="ort-cann", spellings=_AS_THE_MODEL)
cann_fp16 = OnnxRuntime(provider=_CANN, device="ascend:0", extra="ort-cann", spellings=_FLOAT16)
