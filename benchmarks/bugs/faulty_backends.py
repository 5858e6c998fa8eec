"""Backends of another distribution: onnxruntime or the simulated board, each with one fault; two have none.

They run in workers, which find them by entry point (`workspace.known_backends`).
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from harness import registry
from harness.contracts import DeviceReport, Session
from harness.detector.artifact import Artifact, Variant
from harness.types import AnyArray, Scores

Outputs = dict[str, AnyArray]
Run = Callable[[AnyArray], Outputs]
Fault = Callable[[Run, AnyArray], Outputs]
"""Returns wrong outputs for a batch, from the session's own `run`."""


class FaultySession:
    """A session with a fault in every run."""

    def __init__(self, session: Session, fault: Fault) -> None:
        self.report: DeviceReport = session.report
        self.device_ms: Mapping[str, float] = {}
        self._session, self._fault = session, fault

    def run(self, batch: AnyArray) -> Outputs:
        return self._fault(self._session.run, batch)

    def close(self) -> None:
        self._session.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultyBackend:
    """A real backend with a fault."""

    fault: Callable[[], Fault]
    """Makes a new fault for each session."""
    real: str = "onnxruntime-cpu"
    simulated: bool = False
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def formats(self) -> tuple[str, ...]:
        return registry.backend(self.real).formats

    def unavailable(self) -> str | None:
        return registry.backend(self.real).unavailable()

    def open(self, artifact: Artifact, variant: Variant, *, threads: int) -> FaultySession:
        session = registry.backend(self.real).open(artifact, variant, threads=threads)
        return FaultySession(session, self.fault())


def _stale() -> Fault:
    """The output buffer is read before the device has written it."""
    last: list[Outputs] = []

    def run(real: Run, batch: AnyArray) -> Outputs:
        last.append(real(batch))
        return last.pop(0) if len(last) > 1 else last[0]

    return run


def _cut(real: Run, batch: AnyArray) -> Outputs:
    """The copy from the device stops after three quarters; the rest of the buffer is zeros."""
    outputs = {name: array.copy() for name, array in real(batch).items()}
    for array in outputs.values():
        array.reshape(-1)[array.size * 3 // 4 :] = 0
    return outputs


def _channels_last(real: Run, batch: AnyArray) -> Outputs:
    """The bytes are NHWC and read as NCHW."""
    return {
        name: np.ascontiguousarray(array.transpose(0, 2, 3, 1)).reshape(array.shape)
        for name, array in real(batch).items()
    }


def _swapped(real: Run, batch: AnyArray) -> Outputs:
    """Outputs are read in the runtime's order, which is not the manifest's: teacher before student."""
    outputs = real(batch)
    names = list(outputs)
    half = len(names) // 2
    return dict(zip([*names[half:], *names[:half]], outputs.values(), strict=True))


def _off_by_one_gear(real: Run, batch: AnyArray) -> Outputs:
    """An incomplete batch is filled up with a row before it, not after it; its outputs are read from the first row on."""
    if len(batch) == 4:
        return real(batch)
    return {name: array[: len(batch)] for name, array in real(np.concatenate([batch[:1], batch])).items()}


def _rounded(real: Run, batch: AnyArray) -> Outputs:
    """Inputs are rounded to float16, although the variant takes float32."""
    return real(batch.astype(np.float16).astype(np.float32))


class _OtherHead:
    """A board with a changed copy of the head."""

    def __init__(self, change: Callable[[], None]) -> None:
        self._change = change

    def __call__(self) -> Fault:
        self._change()
        return lambda real, batch: real(batch)


def _without_blur() -> None:
    head = _padim()
    right = head.resampling_matrix
    head.resampling_matrix = lambda source, target, _, **rest: right(source, target, 0.0, **rest)


def _other_upsampling() -> None:
    head = _padim()
    right = head.resampling_matrix
    head.resampling_matrix = lambda *positional, half_pixel: right(*positional, half_pixel=not half_pixel)


def _mean_as_score() -> None:
    head = _padim()
    right = head.PadimHead.__call__

    def wrong(*arguments: Any) -> Scores:
        maps = right(*arguments).maps
        return Scores(maps=maps, images=maps.mean(axis=(1, 2)))

    head.PadimHead.__call__ = wrong


def _padim() -> Any:
    """The module of PaDiM's head, in this worker."""
    return importlib.import_module("harness.heads.padim")


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuWithoutLibraries:
    """The CUDA backend on an onnxruntime that lists the provider but lacks its libraries, and so runs on the CPU."""

    formats: tuple[str, ...] = ("onnx",)
    simulated: bool = False
    environment: Mapping[str, str] = field(default_factory=dict)

    def unavailable(self) -> str | None:
        return None

    def open(self, artifact: Artifact, variant: Variant, *, threads: int) -> Session:
        import onnxruntime

        listed = ["CUDAExecutionProvider", *onnxruntime.get_available_providers()]
        onnxruntime.get_available_providers = lambda: listed
        real = onnxruntime.InferenceSession

        def session(*arguments: Any, providers: Any, **rest: Any) -> Any:
            del (
                providers
            )  # CUDA's libraries cannot be loaded: onnxruntime leaves it out and falls back to the CPU
            return real(*arguments, providers=[], **rest)

        onnxruntime.InferenceSession = session
        warnings.simplefilter("ignore")
        return registry.backend("onnxruntime-gpu").open(artifact, variant, threads=threads)


@dataclass(frozen=True, slots=True, kw_only=True)
class Unoptimised:
    """onnxruntime on the CPU, with every graph optimisation turned off."""

    formats: tuple[str, ...] = ("onnx",)
    simulated: bool = False
    environment: Mapping[str, str] = field(default_factory=dict)

    def unavailable(self) -> str | None:
        return None

    def open(self, artifact: Artifact, variant: Variant, *, threads: int) -> Session:
        import onnxruntime

        real = onnxruntime.InferenceSession

        def session(model: str, options: Any, **rest: Any) -> Any:
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
            return real(model, options, **rest)

        onnxruntime.InferenceSession = session
        return registry.backend("onnxruntime-cpu").open(artifact, variant, threads=threads)


class OnnxSession:
    """A session of ONNX's own reference implementation, in numpy."""

    def __init__(self, path: str) -> None:
        import onnx
        from onnx.reference import ReferenceEvaluator

        self._model = ReferenceEvaluator(path)
        self.report = DeviceReport(
            device="cpu", runtime={"onnx": onnx.__version__}, options={}, simulated=False
        )
        self.device_ms: Mapping[str, float] = {}

    def run(self, batch: AnyArray) -> Outputs:
        arrays = self._model.run(None, {self._model.input_names[0]: batch})
        return dict(zip(self._model.output_names, arrays, strict=True))

    def close(self) -> None:
        """Nothing to release."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OnnxReference:
    """Runs ONNX variants with the reference implementation."""

    formats: tuple[str, ...] = ("onnx",)
    simulated: bool = False
    environment: Mapping[str, str] = field(default_factory=dict)

    def unavailable(self) -> str | None:
        return None

    def open(self, artifact: Artifact, variant: Variant, *, threads: int) -> OnnxSession:
        del threads
        return OnnxSession(str(artifact.model_file(variant)))


stale = FaultyBackend(fault=_stale)
cut = FaultyBackend(fault=lambda: _cut)
channels_last = FaultyBackend(fault=lambda: _channels_last)
swapped = FaultyBackend(fault=lambda: _swapped)
off_by_one_gear = FaultyBackend(fault=lambda: _off_by_one_gear, real="ascend310-simulated", simulated=True)
rounded = FaultyBackend(fault=lambda: _rounded)
without_blur = FaultyBackend(fault=_OtherHead(_without_blur))
other_upsampling = FaultyBackend(fault=_OtherHead(_other_upsampling))
mean_as_score = FaultyBackend(fault=_OtherHead(_mean_as_score))
gpu_without_libraries = GpuWithoutLibraries()
unoptimised = Unoptimised()
onnx_reference = OnnxReference()
