from __future__ import annotations

import dataclasses
import importlib.util
import sys
import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from backends import ort
from backends.errors import BackendError, DeviceMismatch
from backends.ort_session import BoundSession, OnnxRuntimeSession
from harness.detector import artifact
from harness.errors import MissingExtra, Unavailable
from harness.types import AnyArray
from tests.conftest import Tiny

onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")


def opened(backend: ort.OnnxRuntime, tiny: Tiny, *, threads: int = 1) -> OnnxRuntimeSession | BoundSession:
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
    if hasattr(onnxruntime.InferenceSession, "get_provider_graph_assignment_info"):
        assert report.nodes == {"CPUExecutionProvider": 1}
    else:
        assert report.options["nodes"] == "not told by this onnxruntime (from 1.24 on)"


def test_a_provider_the_installed_flavour_lacks_is_refused_with_the_flavour_to_install(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(DeviceMismatch, match=r"no CUDAExecutionProvider.*\[ort-gpu\]"):
        opened(ort.gpu, tiny)


class OnCpu:
    """A session for CUDA that onnxruntime silently opened on the CPU."""

    def __init__(self, model: str, options: Any, providers: Any, enable_fallback: int) -> None:
        assert Path(model).is_file()
        assert options.get_session_config_entry("session.disable_cpu_ep_fallback") == "1"
        assert providers[0][0] == "CUDAExecutionProvider"
        assert not enable_fallback

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


def test_without_onnxruntime_the_extra_to_install_is_named(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.setattr(importlib.util, "find_spec", {}.get)
    assert "pip install 'anomaly-parity-harness[ort]'" in str(ort.cpu.unavailable())
    with pytest.raises(MissingExtra, match=r"\[ort\]"):
        opened(ort.cpu, tiny)


def test_a_provider_that_is_not_the_first_is_refused(
    tiny: Tiny, npu: Chip, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ChipSession, "get_providers", lambda _: ["CPUExecutionProvider", npu.provider])
    with pytest.raises(DeviceMismatch, match="asked for CANNExecutionProvider, onnxruntime gave CPUExec"):
        opened(ort.cann, tiny)


class RefusedError(RuntimeError):
    """What a provider answers."""


@dataclass
class Chip:
    """An onnxruntime with one more provider, which may know other words and take fewer nodes than one would like."""

    provider: str = "CANNExecutionProvider"
    word: str = "precision_mode_v2"
    """The spelling of the precision that this release knows."""
    given: Mapping[str, str] = field(default_factory=dict)
    """Options that are not what was asked for."""
    nodes: tuple[tuple[str, int], ...] = (("CANNExecutionProvider", 2),)
    """Parts of the graph, and how many nodes each has."""
    failure: str = ""
    opened: Any = None

    def __call__(self, model: str, options: Any, providers: Any, enable_fallback: int) -> Any:
        assert Path(model).is_file()
        assert not enable_fallback
        (name, asked), *behind = providers
        assert name == self.provider
        unknown = {"precision_mode", "precision_mode_v2"} & asked.keys() - {self.word}
        if unknown:
            raise RefusedError(f'Unknown provider option: "{unknown.pop()}".')
        if self.failure:
            raise RefusedError(self.failure)
        self.opened = ChipSession(self, options, asked, behind)
        return self.opened

    def get_provider_graph_assignment_info(self) -> list[Any]:
        return [
            SimpleNamespace(ep_name=name, get_nodes=lambda count=count: [1] * count)
            for name, count in self.nodes
        ]


class ChipSession:
    def __init__(self, chip: Chip, options: Any, asked: Mapping[str, str], behind: Any) -> None:
        self.options, self.asked, self.behind, self.fallback = options, dict(asked), behind, True
        self.chip = chip

    def get_provider_graph_assignment_info(self) -> list[Any]:
        return self.chip.get_provider_graph_assignment_info()

    def get_providers(self) -> list[str]:
        return [self.chip.provider, "CPUExecutionProvider"]

    def get_provider_options(self) -> dict[str, dict[str, str]]:
        return {self.chip.provider: {**self.asked, **self.chip.given}}

    def disable_fallback(self) -> None:
        self.fallback = False

    def get_inputs(self) -> list[Any]:
        return [SimpleNamespace(name="image")]

    def run(self, names: tuple[str, ...], feeds: Mapping[str, AnyArray]) -> list[AnyArray]:
        return [np.full((len(feeds["image"]), 6, 8, 8), 0.1, np.float16) for _ in names]


@pytest.fixture
def npu(monkeypatch: pytest.MonkeyPatch) -> Chip:
    return chip(monkeypatch)


def chip(monkeypatch: pytest.MonkeyPatch, **settings: Any) -> Chip:
    made = Chip(**settings)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [made.provider])
    monkeypatch.setattr(onnxruntime, "InferenceSession", made)
    return made


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
    tiny: Tiny, npu: Chip, backend: ort.OnnxRuntime, word: str, precision: str
) -> None:
    npu.word = word
    report = opened(backend, tiny).report
    assert {name: text for name, text in report.options.items() if "precision" in name} == {word: precision}
    assert npu.opened.asked[word] == precision


def test_cann_compiles_the_whole_graph_and_writes_no_files(
    tiny: Tiny, npu: Chip, monkeypatch: pytest.MonkeyPatch
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


def test_a_run_that_fails_is_not_repeated_on_the_cpu(tiny: Tiny, npu: Chip) -> None:
    opened(ort.cann, tiny)
    assert not npu.opened.fallback


def test_the_nodes_are_counted_the_provider_asked_for_first(tiny: Tiny, npu: Chip) -> None:
    npu.nodes = (("CPUExecutionProvider", 1), ("CANNExecutionProvider", 2), ("CPUExecutionProvider", 3))
    report = opened(ort.cann, tiny).report
    assert list(report.nodes.items()) == [("CANNExecutionProvider", 2), ("CPUExecutionProvider", 4)]
    assert npu.opened.options.get_session_config_entry("session.record_ep_graph_assignment_info") == "1"
    assert "nodes" not in report.options


@pytest.mark.usefixtures("npu")
def test_the_version_of_cann_is_reported(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "compiler").mkdir()
    (tmp_path / "compiler" / "version.info").write_text("Name=x\nVersion=8.0.0.1 \n")
    monkeypatch.setenv("ASCEND_HOME_PATH", str(tmp_path))
    assert opened(ort.cann, tiny).report.runtime["cann"] == "8.0.0.1"
    monkeypatch.delenv("ASCEND_HOME_PATH")
    monkeypatch.delenv("ASCEND_TOOLKIT_HOME", raising=False)
    assert opened(ort.cann, tiny).report.runtime["cann"].startswith("unknown")


@pytest.mark.parametrize("nodes", [(("CPUExecutionProvider", 7),), ()])
def test_a_provider_that_took_no_node_is_refused(
    tiny: Tiny, npu: Chip, nodes: tuple[tuple[str, int], ...]
) -> None:
    npu.nodes = nodes
    with pytest.raises(
        DeviceMismatch, match=rf"CANNExecutionProvider, it took none of the model's {7 * len(nodes)} nodes"
    ):
        opened(ort.cann, tiny)


def test_where_nobody_counts_the_nodes_none_may_go_to_the_cpu(
    tiny: Tiny, npu: Chip, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(Chip, "get_provider_graph_assignment_info")
    report = opened(ort.cann, tiny).report
    assert report.nodes == {}
    assert report.options["nodes"].startswith("not told")
    assert npu.opened.options.get_session_config_entry("session.disable_cpu_ep_fallback") == "1"


def test_another_precision_than_asked_for_is_refused(tiny: Tiny, npu: Chip) -> None:
    npu.given = {"precision_mode_v2": "fp16"}
    with pytest.raises(DeviceMismatch, match=r"asked .* for precision_mode_v2=origin, onnxruntime gave fp16"):
        opened(ort.cann, tiny)


def test_a_release_with_other_words_altogether_is_refused(tiny: Tiny, npu: Chip) -> None:
    npu.word = "precision_mode_v3"
    with pytest.raises(BackendError, match=r"none of the spellings.*take another release"):
        opened(ort.cann, tiny)


def test_a_chip_without_float32_is_sent_to_float16(tiny: Tiny, npu: Chip) -> None:
    npu.failure = "Conv2D has no kernel for float"
    with pytest.raises(BackendError, match=r"no kernel for float.*--backend onnxruntime-cann-fp16"):
        opened(ort.cann, tiny)
    with pytest.raises(BackendError, match=r"no kernel for float$"):
        opened(ort.cann_fp16, tiny)


def test_float16_outputs_are_widened(tiny: Tiny, npu: Chip) -> None:
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


CUDA, TENSORRT = "CUDAExecutionProvider", "TensorrtExecutionProvider"


@pytest.mark.parametrize("backend", [ort.gpu, ort.tensorrt, ort.tensorrt_fp16])
def test_cuda_does_not_round_float32_to_tf32(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, backend: ort.OnnxRuntime
) -> None:
    made = chip(monkeypatch, provider=backend.provider, nodes=((backend.provider, 3),))
    assert opened(backend, tiny).report.options["NVIDIA_TF32_OVERRIDE"] == "not set"
    for name, value in backend.environment.items():
        monkeypatch.setenv(name, value)
    report = opened(backend, tiny).report
    asked = dict(made.opened.behind).get(CUDA, made.opened.asked)
    assert asked["use_tf32"] == "0"
    assert asked["cudnn_conv_algo_search"] == "HEURISTIC"
    assert report.options["NVIDIA_TF32_OVERRIDE"] == "0"


@pytest.mark.parametrize(
    ("backend", "option"),
    [(ort.gpu, "use_tf32"), (ort.tensorrt, "trt_fp16_enable"), (ort.openvino, "precision")],
)
def test_a_lower_precision_than_asked_for_is_refused_on_every_provider(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, backend: ort.OnnxRuntime, option: str
) -> None:
    chip(monkeypatch, provider=backend.provider, nodes=((backend.provider, 3),), given={option: "1"})
    with pytest.raises(DeviceMismatch, match=rf"for {option}=.*, onnxruntime gave 1"):
        opened(backend, tiny)


@pytest.mark.parametrize(
    ("backend", "enabled", "precision"), [(ort.tensorrt, "0", None), (ort.tensorrt_fp16, "1", "fp16")]
)
def test_tensorrt_computes_in_float16_only_where_asked_for_and_leaves_nodes_to_cuda(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, backend: ort.OnnxRuntime, enabled: str, precision: str | None
) -> None:
    made = chip(monkeypatch, provider=TENSORRT, nodes=((CUDA, 1), (TENSORRT, 3)))
    report = opened(backend, tiny).report
    assert made.opened.asked == {
        "device_id": "0",
        "trt_engine_cache_enable": "0",  # an engine of another model or driver could be taken
        "trt_fp16_enable": enabled,
    }
    assert report.options["trt_fp16_enable"] == enabled
    assert report.options.get("precision") == precision
    assert [name for name, _ in made.opened.behind] == [CUDA]
    assert report.nodes == {TENSORRT: 3, CUDA: 1}
    assert report.device == "cuda:0"


@pytest.mark.parametrize("threads", [1, 2])
def test_openvinos_provider_is_told_float32_and_the_threads(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, threads: int
) -> None:
    name = "OpenVINOExecutionProvider"
    made = chip(monkeypatch, provider=name, nodes=((name, 3),))
    report = opened(ort.openvino, tiny, threads=threads).report
    assert made.opened.asked == {
        "device_type": "CPU",
        "precision": "FP32",
        "num_streams": "1",
        "num_of_threads": str(threads),
    }
    assert report.options.items() >= made.opened.asked.items()
    assert report.device == "cpu"


def test_directml_gets_no_memory_pattern(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    made = chip(monkeypatch, provider="DmlExecutionProvider", nodes=(("DmlExecutionProvider", 3),))
    opened(ort.directml, tiny)
    assert not made.opened.options.enable_mem_pattern
    assert made.opened.asked == {"device_id": "0"}


@pytest.mark.parametrize(("backend", "loads"), [(ort.gpu, 1), (ort.openvino, 0)])
def test_the_cuda_libraries_that_pip_installed_are_found(
    monkeypatch: pytest.MonkeyPatch, backend: ort.OnnxRuntime, loads: int
) -> None:
    loaded: list[int] = []
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [backend.provider])
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: loaded.append(1))
    assert backend.unavailable() is None
    assert len(loaded) == loads


# Binding is the same for every memory, so the host's stands in for a device's.
bound = dataclasses.replace(ort.cpu, memory="cpu")


def test_bound_to_device_memory_the_outputs_are_the_same_bits(tiny: Tiny) -> None:
    plain, session = opened(ort.cpu, tiny), opened(bound, tiny)
    rng = np.random.default_rng(0)
    kept = []
    for count in (2, 1, 2):
        batch = rng.normal(size=(count, 3, 32, 32)).astype(np.float32)
        kept.append((session.run(batch)["embedding"], plain.run(batch)["embedding"]))
    for found, expected in kept:  # after the last run, which must not have written over the first
        np.testing.assert_array_equal(found, expected)
        assert found.dtype == np.float32


def test_bound_to_device_memory_an_array_in_another_order_gives_the_same(tiny: Tiny) -> None:
    batch = np.random.default_rng(1).normal(size=(2, 3, 32, 32)).astype(np.float32).transpose(0, 1, 3, 2)
    expected = opened(ort.cpu, tiny).run(np.ascontiguousarray(batch))["embedding"]
    np.testing.assert_array_equal(opened(bound, tiny).run(batch)["embedding"], expected)


def test_bound_to_device_memory_copies_and_execution_are_timed_apart(tiny: Tiny) -> None:
    session = opened(bound, tiny)
    assert session.device_ms == {}
    session.run(np.zeros((1, 3, 32, 32), np.float32))
    assert set(session.device_ms) == {"h2d", "compute", "d2h"}
    assert min(session.device_ms.values()) > 0


def test_bound_to_device_memory_each_time_is_taken_when_its_work_is_done(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = opened(bound, tiny)
    clock, events = iter((0, 1_000_000, 3_000_000, 7_000_000)), []

    def now() -> int:
        events.append("time")
        return next(clock)

    monkeypatch.setattr("backends.ort_session.time.perf_counter_ns", now)
    for name in ("synchronize_inputs", "synchronize_outputs"):
        monkeypatch.setattr(onnxruntime.IOBinding, name, lambda _, name=name: events.append(name))
    session.run(np.zeros((1, 3, 32, 32), np.float32))
    assert events == ["time", "synchronize_inputs", "time", "synchronize_outputs", "time", "time"]
    assert session.device_ms == {"h2d": 1.0, "compute": 2.0, "d2h": 4.0}


@pytest.mark.parametrize("backend", [ort.cpu, bound])
@pytest.mark.parametrize(("shape", "kind"), [((1, 3, 16, 32), np.float32), ((1, 3, 32, 32), np.float64)])
def test_a_batch_the_model_does_not_take_is_refused(
    tiny: Tiny, backend: ort.OnnxRuntime, shape: tuple[int, ...], kind: type[np.floating[Any]]
) -> None:
    session = opened(backend, tiny)
    session.run(np.zeros((1, 3, 32, 32), np.float32))
    with pytest.raises(BackendError, match="onnxruntime failed on a batch of shape"):
        session.run(np.zeros(shape, kind))


@pytest.mark.parametrize("backend", [ort.cpu, bound])
def test_a_closed_session_holds_no_model(tiny: Tiny, backend: ort.OnnxRuntime) -> None:
    session = opened(backend, tiny)
    model = weakref.ref(session._session)
    session.close()
    assert model() is None
