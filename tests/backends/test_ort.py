from __future__ import annotations

import importlib.util
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from backends import ort
from backends.errors import BackendError, DeviceMismatch
from harness import artifact
from harness.errors import MissingExtra, Unavailable
from harness.types import AnyArray
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
    assert report.options["nodes"] == "CPUExecutionProvider: 1"


def test_a_provider_the_installed_flavour_lacks_is_refused_with_the_flavour_to_install(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(DeviceMismatch, match=r"no CUDAExecutionProvider.*\[ort-gpu\]"):
        opened(ort.gpu, tiny)


class OnCpu:
    """A session for CUDA that onnxruntime silently opened on the CPU."""

    def __init__(self, model: str, options: Any, providers: Any, enable_fallback: int) -> None:
        assert not enable_fallback
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
        def __init__(self, model: str, options: Any, providers: Any, enable_fallback: int) -> None:
            super().__init__(model, options, providers, enable_fallback)
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


class RefusedError(RuntimeError):
    """What a provider answers."""


@dataclass
class Npu:
    """An onnxruntime whose provider for CANN knows one spelling of the precision, and may be elsewhere than it says."""

    word: str = "precision_mode_v2"
    gives: str | None = None
    """Another precision than the one asked for."""
    nodes: tuple[str, ...] | None = ("CANNExecutionProvider",)
    """Who takes the nodes; `None` where this release does not tell."""
    failure: str = ""
    opened: Any = None

    def __call__(self, model: str, options: Any, providers: Any, enable_fallback: int) -> Any:
        assert Path(model).is_file()
        assert not enable_fallback
        ((name, asked),) = providers
        assert name == "CANNExecutionProvider"
        unknown = {"precision_mode", "precision_mode_v2"} & asked.keys() - {self.word}
        if unknown:
            raise RefusedError(f'Unknown provider option: "{unknown.pop()}".')
        if self.failure:
            raise RefusedError(self.failure)
        self.opened = NpuSession(self, options, asked)
        if self.nodes is not None:
            self.opened.get_provider_graph_assignment_info = self.assignment
        return self.opened

    def assignment(self) -> list[Any]:
        return [SimpleNamespace(ep_name=name, get_nodes=lambda: [1, 2]) for name in self.nodes or ()]


class NpuSession:
    def __init__(self, npu: Npu, options: Any, asked: Mapping[str, str]) -> None:
        self.options, self.asked, self.fallback = options, dict(asked), True
        self.given = {**asked, npu.word: npu.gives or asked[npu.word]}

    def get_providers(self) -> list[str]:
        return ["CANNExecutionProvider", "CPUExecutionProvider"]

    def get_provider_options(self) -> dict[str, dict[str, str]]:
        return {"CANNExecutionProvider": self.given}

    def disable_fallback(self) -> None:
        self.fallback = False

    def get_inputs(self) -> list[Any]:
        return [SimpleNamespace(name="image")]

    def run(self, names: tuple[str, ...], feeds: Mapping[str, AnyArray]) -> list[AnyArray]:
        return [np.full((len(feeds["image"]), 6, 8, 8), 0.1, np.float16) for _ in names]


@pytest.fixture
def npu(monkeypatch: pytest.MonkeyPatch) -> Npu:
    npu = Npu()
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CANNExecutionProvider"])
    monkeypatch.setattr(onnxruntime, "InferenceSession", npu)
    return npu


@pytest.mark.parametrize(
    ("backend", "word", "precision"),
    [
        (ort.cann, "precision_mode_v2", "origin"),
        (ort.cann, "precision_mode", "must_keep_origin_dtype"),
        (ort.cann_fp16, "precision_mode_v2", "fp16"),
        (ort.cann_fp16, "precision_mode", "force_fp16"),
    ],
)
def test_cann_is_asked_for_a_stated_precision_in_the_words_it_knows(
    tiny: Tiny, npu: Npu, backend: ort.OnnxRuntime, word: str, precision: str
) -> None:
    npu.word = word
    report = opened(backend, tiny).report
    assert {name: text for name, text in report.options.items() if "precision" in name} == {word: precision}
    assert npu.opened.asked[word] == precision


def test_cann_compiles_the_whole_graph_and_writes_no_files(
    tiny: Tiny, npu: Npu, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ASCEND_RT_VISIBLE_DEVICES", "3")
    report = opened(ort.cann, tiny).report
    assert npu.opened.asked == {
        "device_id": "0",
        "enable_cann_graph": "1",
        "enable_cann_subgraph": "0",
        "dump_graphs": "0",
        "dump_om_model": "0",
        "precision_mode_v2": "origin",
    }
    assert report.options.items() >= npu.opened.asked.items()
    assert report.options["ASCEND_RT_VISIBLE_DEVICES"] == "3"
    assert report.device == "ascend:0"
    assert not report.simulated


def test_a_cann_session_can_reach_the_cpu_neither_when_it_opens_nor_when_a_run_fails(
    tiny: Tiny, npu: Npu
) -> None:
    report = opened(ort.cann, tiny).report
    assert npu.opened.options.get_session_config_entry("session.disable_cpu_ep_fallback") == "1"
    assert npu.opened.options.get_session_config_entry("session.record_ep_graph_assignment_info") == "1"
    assert not npu.opened.fallback
    assert report.options["nodes"] == "CANNExecutionProvider: 2"


@pytest.mark.usefixtures("npu")
def test_the_version_of_cann_is_reported(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "compiler").mkdir()
    (tmp_path / "compiler" / "version.info").write_text("Name=x\nVersion=8.0.0.1 \n")
    monkeypatch.setenv("ASCEND_HOME_PATH", str(tmp_path))
    assert opened(ort.cann, tiny).report.runtime["cann"] == "8.0.0.1"
    monkeypatch.delenv("ASCEND_HOME_PATH")
    monkeypatch.delenv("ASCEND_TOOLKIT_HOME", raising=False)
    assert opened(ort.cann, tiny).report.runtime["cann"].startswith("unknown")


@pytest.mark.parametrize(
    "nodes", [("CANNExecutionProvider", "CPUExecutionProvider"), ("CPUExecutionProvider",), ()]
)
def test_nodes_on_another_provider_are_refused(tiny: Tiny, npu: Npu, nodes: tuple[str, ...]) -> None:
    npu.nodes = nodes
    with pytest.raises(DeviceMismatch, match="asked for CANNExecutionProvider alone, the nodes went to"):
        opened(ort.cann, tiny)


def test_an_onnxruntime_that_does_not_tell_where_nodes_are_is_said_so(tiny: Tiny, npu: Npu) -> None:
    npu.nodes = None
    assert opened(ort.cann, tiny).report.options["nodes"].startswith("not told")


def test_another_precision_than_asked_for_is_refused(tiny: Tiny, npu: Npu) -> None:
    npu.gives = "fp16"
    with pytest.raises(DeviceMismatch, match=r"asked .* for precision_mode_v2=origin, onnxruntime gave fp16"):
        opened(ort.cann, tiny)


def test_a_release_with_other_words_altogether_is_refused(tiny: Tiny, npu: Npu) -> None:
    npu.word = "precision_mode_v3"
    with pytest.raises(BackendError, match=r"none of the spellings.*take another release"):
        opened(ort.cann, tiny)


def test_a_chip_without_float32_is_sent_to_float16(tiny: Tiny, npu: Npu) -> None:
    npu.failure = "Conv2D has no kernel for float"
    with pytest.raises(BackendError, match=r"no kernel for float.*--backend onnxruntime-cann-fp16"):
        opened(ort.cann, tiny)
    with pytest.raises(BackendError, match=r"no kernel for float$"):
        opened(ort.cann_fp16, tiny)


def test_float16_outputs_are_widened(tiny: Tiny, npu: Npu) -> None:
    outputs = opened(ort.cann_fp16, tiny).run(np.zeros((2, 3, 32, 32), np.float32))
    assert outputs["embedding"].dtype == np.float32
    assert outputs["embedding"][0, 0, 0, 0] == np.float32(np.float16(0.1))
    assert npu.opened is not None


def test_libraries_that_are_missing_are_told_from_a_missing_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.setattr(importlib.util, "find_spec", {"onnxruntime": object()}.get)
    assert "installed but cannot be imported" in str(ort.cann.unavailable())
    assert "set_env.sh" in str(ort.cann.unavailable())
    with pytest.raises(Unavailable, match="install it again"):
        ort.cpu._runtime()
