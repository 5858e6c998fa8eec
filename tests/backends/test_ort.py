from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

from backends import ort
from backends.errors import DeviceMismatch
from harness import artifact
from harness.errors import MissingExtra
from tests.conftest import Tiny

onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")


def opened(backend: ort.OnnxRuntime, tiny: Tiny, *, threads: int = 1) -> ort.OnnxRuntimeSession:
    found = artifact.read(tiny.artifact)
    return backend.open(found, found.manifest.variants[0], threads=threads)


@pytest.mark.parametrize("threads", [1, 2])
def test_the_thread_counts_in_effect_are_reported(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, threads: int
) -> None:
    given: list[Any] = []
    start = onnxruntime.InferenceSession

    def session(model: str, options: Any, **settings: Any) -> Any:
        given.append((options.intra_op_num_threads, options.inter_op_num_threads))
        return start(model, options, **settings)

    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    report = opened(ort.cpu, tiny, threads=threads).report
    assert given == [(threads, 1)]
    assert report.options["intra_op_num_threads"] == str(threads)
    assert report.options["inter_op_num_threads"] == "1"


def threads_alive() -> int:
    return len(list(Path("/proc/self/task").iterdir()))


@pytest.mark.parametrize("threads", [1, 3])
def test_a_session_starts_no_more_threads_than_asked_for(tiny: Tiny, threads: int) -> None:
    before = threads_alive()
    session = opened(ort.cpu, tiny, threads=threads)
    assert threads_alive() - before == threads - 1  # the caller is one of them
    session.close()


def test_the_provider_and_version_in_effect_are_reported(tiny: Tiny) -> None:
    report = opened(ort.cpu, tiny).report
    assert report.device == "cpu"
    assert report.runtime == {"onnxruntime": onnxruntime.__version__}
    assert report.options["providers"] == "CPUExecutionProvider"


def test_a_provider_the_installed_flavour_lacks_is_refused_with_the_flavour_to_install(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(DeviceMismatch, match=r"no CUDAExecutionProvider.*\[ort-gpu\]"):
        opened(ort.gpu, tiny)


class OnCpu:
    """A session for CUDA that onnxruntime silently opened on the CPU."""

    def __init__(self, model: str, options: Any, providers: Any) -> None:
        self.asked = (model, options, providers)

    def get_providers(self) -> list[str]:
        return ["CPUExecutionProvider"]


def test_a_session_on_another_provider_than_asked_for_is_refused(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(onnxruntime, "InferenceSession", OnCpu)
    with pytest.raises(
        DeviceMismatch, match="asked for CUDAExecutionProvider, onnxruntime gave CPUExecution"
    ):
        opened(ort.gpu, tiny)


def test_a_gpu_session_may_not_leave_nodes_to_the_cpu(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    opening: list[OnCpu] = []

    class Recorded(OnCpu):
        def __init__(self, model: str, options: Any, providers: Any) -> None:
            super().__init__(model, options, providers)
            opening.append(self)

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(onnxruntime, "InferenceSession", Recorded)
    with pytest.raises(DeviceMismatch):
        opened(ort.gpu, tiny)
    _, options, providers = opening[0].asked
    assert [name for name, _ in providers] == ["CUDAExecutionProvider"]
    assert options.get_session_config_entry("session.disable_cpu_ep_fallback") == "1"


def test_without_onnxruntime_the_extra_to_install_is_named(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.setattr(importlib.util, "find_spec", {}.get)
    assert "pip install 'anomaly-parity-harness[ort]'" in str(ort.cpu.unavailable())
    with pytest.raises(MissingExtra, match=r"\[ort\]"):
        opened(ort.cpu, tiny)
