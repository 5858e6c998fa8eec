from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from backends import openvino as adapter
from backends.errors import BackendError, DeviceMismatch
from harness import registry, storage
from harness.detector import artifact
from harness.detector.artifact import Artifact, TensorSpec
from harness.errors import MissingExtra, Unavailable
from harness.types import Float32
from tests.conftest import Tiny, patch_embedding

openvino = pytest.importorskip("openvino", reason="OpenVINO is not installed")


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a worker sets: the tests of MindSpore leave a limit of oneDNN in the environment."""
    for name, value in adapter.cpu.environment.items():
        monkeypatch.setenv(name, value)


def opened(backend: adapter.OpenVino, tiny: Tiny, *, threads: int = 1) -> adapter.OpenVinoSession:
    found = artifact.read(tiny.artifact)
    return backend.open(found, found.manifest.variants[0], threads=threads)


def images(count: int) -> Float32:
    return np.random.default_rng(count).normal(size=(count, 3, 32, 32)).astype(np.float32)


def expected(tiny: Tiny, batch: Float32) -> Float32:
    return patch_embedding(artifact.read(tiny.artifact).net()["conv.weight"], batch)


def error_of(found: Float32, tiny: Tiny, batch: Float32) -> float:
    """Largest difference from the definition, relative to its largest value."""
    truth = expected(tiny, batch)
    return float(np.abs(found - truth).max() / np.abs(truth).max())


@pytest.mark.parametrize("count", [1, 3])
def test_float32_is_computed_whatever_openvino_would_choose(tiny: Tiny, count: int) -> None:
    session = opened(adapter.cpu, tiny)
    batch = images(count)
    assert error_of(session.run(batch)["embedding"], tiny, batch) < 2e-6
    assert session.report.options["precision"] == "f32"
    assert session.report.options["precision_asked"] == "f32"


@pytest.mark.parametrize("count", [1, 3])
def test_openvinos_own_choice_is_taken_only_where_asked_for_and_said(tiny: Tiny, count: int) -> None:
    if "BF16" not in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        pytest.skip("this CPU has no bfloat16, so OpenVINO's own choice is float32")
    session = opened(adapter.cpu_default, tiny)
    batch = images(count)
    assert 2e-4 < error_of(session.run(batch)["embedding"], tiny, batch) < 2e-2
    assert session.report.options["precision"] == "bf16"
    assert "OpenVINO" in session.report.options["precision_asked"]
    assert "bf16 1" in session.report.options["nodes_by_precision"]


def test_the_device_the_threads_and_the_streams_in_effect_are_reported(tiny: Tiny) -> None:
    report = opened(adapter.cpu, tiny).report
    assert report.device == report.options["execution_devices"].lower() == "cpu"
    assert report.runtime == {"openvino": openvino.__version__}
    assert report.options["inference_num_threads"] == "1"
    assert report.options["num_streams"] == "1"
    assert set(report.options["nodes_by_precision"].split()[::2]) == {"f32"}
    assert not report.simulated


def test_the_threads_asked_for_are_passed_on(tiny: Tiny, faked: Callable[..., FakeCore]) -> None:
    core = faked()
    opened(adapter.cpu, tiny, threads=3)
    assert core.settings == {"NUM_STREAMS": 1, "INFERENCE_NUM_THREADS": 3, "INFERENCE_PRECISION_HINT": "f32"}


def test_two_sessions_and_two_runs_give_the_same_bits(tiny: Tiny) -> None:
    batch = images(3)
    first, second = opened(adapter.cpu, tiny), opened(adapter.cpu, tiny)
    found = [session.run(batch)["embedding"] for session in (first, first, second)]
    assert {array.tobytes() for array in found} == {found[0].tobytes()}


def test_outputs_outlive_the_next_run(tiny: Tiny) -> None:
    session = opened(adapter.cpu, tiny)
    for count in (1, 3):
        kept = session.run(images(count))["embedding"]
        before = kept.copy()
        session.run(images(count) + 1)
        np.testing.assert_array_equal(kept, before)


def test_an_array_in_another_order_gives_the_same(tiny: Tiny) -> None:
    turned = images(2).transpose(0, 1, 3, 2)
    found = opened(adapter.cpu, tiny).run(turned)["embedding"]
    assert error_of(found, tiny, np.ascontiguousarray(turned)) < 2e-6


def test_the_model_is_compiled_for_one_image_and_for_any_number_never_more(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes = []
    compile_model = openvino.Core.compile_model

    def seen(core: Any, model: Any, *arguments: Any) -> Any:
        shapes.append(str(model.inputs[0].partial_shape))
        return compile_model(core, model, *arguments)

    monkeypatch.setattr(openvino.Core, "compile_model", seen)
    session = opened(adapter.cpu, tiny)
    for count in (1, 3, 2, 1, 3):
        assert session.run(images(count))["embedding"].shape == (count, 6, 8, 8)
    assert shapes == ["[1,3,32,32]", "[?,3,32,32]"]


def test_a_variant_of_a_fixed_batch_is_not_reshaped(tiny: Tiny, tmp_path: Path) -> None:
    session = opened_fixed(tiny, tmp_path, batch=2)
    batch = images(2)
    assert error_of(session.run(batch)["embedding"], tiny, batch) < 2e-6
    with pytest.raises(BackendError, match=r"failed on a batch of shape \(1, 3, 32, 32\)"):
        session.run(images(1))


def opened_fixed(tiny: Tiny, folder: Path, *, batch: int) -> adapter.OpenVinoSession:
    """A copy of the tiny detector whose graph takes `batch` images and no other number."""
    import onnx

    found = artifact.read(tiny.artifact)
    variant = found.manifest.variants[0]
    model = onnx.load(str(found.path / variant.model))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = batch
    path = folder / variant.model
    onnx.save(model, str(path))
    fixed = TensorSpec(name="image", dtype="float32", shape=(batch, 3, 32, 32))
    fields = {name: getattr(variant, name) for name in variant.__struct_fields__}
    fields |= {"input": fixed, "files": {variant.model: storage.sha256_of_file(path)}}
    copy = Artifact(path=folder, manifest=found.manifest, sha256=found.sha256)
    return adapter.cpu.open(copy, type(variant)(**fields), threads=1)


@pytest.mark.parametrize("shape", [(1, 3, 16, 32), (3, 3, 16, 32), (3, 32, 32)])
def test_a_batch_of_another_shape_is_refused(tiny: Tiny, shape: tuple[int, ...]) -> None:
    with pytest.raises(BackendError, match="OpenVINO failed on a batch of shape") as caught:
        opened(adapter.cpu, tiny).run(np.zeros(shape, np.float32))
    assert "\n" not in str(caught.value)


def test_a_batch_of_another_type_is_refused_before_openvino_converts_it(tiny: Tiny) -> None:
    with pytest.raises(BackendError, match="a batch of uint8 for an input of float32"):
        opened(adapter.cpu, tiny).run(np.zeros((1, 3, 32, 32), np.uint8))


def test_an_output_the_model_does_not_have_is_named(tiny: Tiny) -> None:
    session = opened(adapter.cpu, tiny)
    session._outputs = ("embedding", "score")
    with pytest.raises(BackendError, match="score"):
        session.run(images(1))


def test_float16_outputs_are_widened(tiny: Tiny) -> None:
    session = opened(adapter.cpu, tiny)
    half = np.full((1, 6, 8, 8), 0.1, np.float16)
    session._requests[1] = SimpleNamespace(infer=lambda *_, **__: {"embedding": half})
    found = session.run(images(1))["embedding"]
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, half)


def test_without_openvino_the_extra_to_install_is_named(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapter, "is_installed", {}.get)
    assert "pip install 'anomaly-parity-harness[openvino]'" in str(adapter.cpu.unavailable())
    with pytest.raises(MissingExtra, match=r"\[openvino\]"):
        opened(adapter.cpu, tiny)


def test_an_openvino_that_is_broken_is_told_from_a_missing_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    monkeypatch.setattr(adapter, "is_installed", lambda _: True)
    assert "is installed but cannot be imported" in str(adapter.cpu.unavailable())


ROWS = [name for name in registry.BACKENDS if name.startswith("openvino-")]


@pytest.mark.parametrize("name", ROWS)
def test_a_lower_precision_runs_only_where_it_is_named(name: str) -> None:
    backend = registry.backend(name)
    assert isinstance(backend, adapter.OpenVino)
    assert name == f"openvino-{backend.device.lower()}" + ("" if backend.precision == "f32" else "-default")
    assert (name in registry.REDUCED_PRECISION) == (backend.precision is None)


# What OpenVINO may say on other machines.


INTERRUPTED = """
import gc, os, signal, sys
from pathlib import Path
from backends import openvino
from harness.detector import artifact
signal.signal(signal.SIGINT, signal.default_int_handler)
found = artifact.read(Path(sys.argv[1]))
sessions = [openvino.cpu.open(found, found.manifest.variants[0], threads=1) for _ in range(2)]
while sessions:
    del sessions[0]
    gc.collect()
try:
    os.kill(os.getpid(), signal.SIGINT)
except KeyboardInterrupt:
    print("in order")
"""


def test_ctrl_c_after_two_sessions_is_no_crash(tiny: Tiny) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", INTERRUPTED, str(tiny.artifact)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "in order\n")


@dataclasses.dataclass(kw_only=True)
class FakeCore:
    """An OpenVINO with one more device, which may do other than it is asked to."""

    available_devices: tuple[str, ...] = ("CPU", "GPU.0", "GPU.1")
    runs_on: tuple[str, ...] | None = None
    computes_in: str | None = None
    nodes: tuple[tuple[str, str], ...] = (("Convolution", "f32"), ("Const", "f16"))
    stored: str = "f32"
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)

    def read_model(self, path: str) -> Any:
        assert Path(path).is_file()
        element = SimpleNamespace(get_type_name=lambda: self.stored)
        op = SimpleNamespace(outputs=lambda: [SimpleNamespace(get_element_type=lambda: element)])
        shape = SimpleNamespace(partial_shape=[None, 3, 32, 32])
        return SimpleNamespace(inputs=[shape], reshape=lambda _: None, get_ops=lambda: [op])

    def get_property(self, device: str, name: str) -> Any:
        if name == "FULL_DEVICE_NAME":
            return f"the {device} of a test"
        return {"NUM_STREAMS": "RW"} | ({"INFERENCE_NUM_THREADS": "RW"} if device == "CPU" else {})

    def compile_model(self, _model: Any, device: str, settings: dict[str, Any]) -> Any:
        self.settings = settings
        used = self.computes_in or settings.get("INFERENCE_PRECISION_HINT", "f16")
        said = {
            "EXECUTION_DEVICES": self.runs_on or (f"{device}.0" if device == "GPU" else device,),
            "INFERENCE_PRECISION_HINT": SimpleNamespace(get_type_name=lambda: used),
            "SUPPORTED_PROPERTIES": {"NUM_STREAMS": "RO"},
            "NUM_STREAMS": 1,
        }
        return SimpleNamespace(
            get_property=said.__getitem__, get_runtime_model=self.runtime_model, create_infer_request=object
        )

    def runtime_model(self) -> Any:
        infos = [
            {"layerType": SimpleNamespace(value=kind), "runtimePrecision": SimpleNamespace(value=precision)}
            for kind, precision in self.nodes
        ]
        ops = [SimpleNamespace(get_rt_info=lambda info=info: info) for info in infos]
        return SimpleNamespace(get_ordered_ops=lambda: ops)


@pytest.fixture
def faked(monkeypatch: pytest.MonkeyPatch) -> Callable[..., FakeCore]:
    def fake(**settings: Any) -> FakeCore:
        core = FakeCore(**settings)
        monkeypatch.setattr(openvino, "Core", lambda: core)
        return core

    return fake


def test_a_gpu_is_asked_for_float32_and_no_threads(tiny: Tiny, faked: Callable[..., FakeCore]) -> None:
    core = faked()
    report = opened(adapter.gpu, tiny).report
    assert core.settings == {"NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    assert report.device == "gpu"
    assert report.options["execution_devices"] == "GPU.0"
    assert report.options["full_device_name"] == "the GPU of a test"
    assert report.options["nodes_by_precision"] == "f32 1"  # constants do not compute


@pytest.mark.parametrize("backend", [adapter.gpu_default, adapter.cpu_default])
def test_where_the_choice_is_openvinos_no_precision_is_asked_for(
    tiny: Tiny, faked: Callable[..., FakeCore], backend: adapter.OpenVino
) -> None:
    core = faked(nodes=(("Convolution", "f16"),))
    assert opened(backend, tiny).report.options["precision"] == "f16"
    assert "INFERENCE_PRECISION_HINT" not in core.settings


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"runs_on": ("CPU",)}, "asked OpenVINO for GPU, it gave CPU"),
        ({"runs_on": ("GPU.0", "CPU")}, "it gave GPU.0, CPU"),
        ({"runs_on": ("",)}, "asked OpenVINO for GPU"),
        ({"computes_in": "f16"}, "for f32, it computes in f16: .*--backend openvino-gpu-default"),
        ({"nodes": (("Convolution", "bf16"), ("Add", "f32"))}, "it computes in bf16"),
        ({"nodes": (("Convolution", "f16"),)}, "it computes in f16"),
    ],
)
def test_another_device_or_precision_than_asked_for_is_refused(
    tiny: Tiny, faked: Callable[..., FakeCore], wrong: dict[str, Any], said: str
) -> None:
    faked(**wrong)
    with pytest.raises(DeviceMismatch, match=said):
        opened(adapter.gpu, tiny)


def test_what_the_model_itself_stores_in_float16_is_no_lowering(
    tiny: Tiny, faked: Callable[..., FakeCore]
) -> None:
    faked(nodes=(("Convert", "f16"), ("Convolution", "f32"), ("Add", "f32")), stored="f16")
    assert opened(adapter.gpu, tiny).report.options["nodes_by_precision"] == "f16 1, f32 2"


def test_a_device_that_tells_nothing_of_its_nodes_is_said_so(
    tiny: Tiny, faked: Callable[..., FakeCore], monkeypatch: pytest.MonkeyPatch
) -> None:
    def silent(_: FakeCore) -> None:
        raise RuntimeError("not implemented")

    monkeypatch.setattr(FakeCore, "runtime_model", silent)
    faked(available_devices=("CPU", "NPU"))
    assert opened(adapter.npu_default, tiny).report.options["nodes_by_precision"] == "not told"


@pytest.mark.parametrize("listed", [("CPU",), ()])
def test_a_device_openvino_does_not_list_is_refused_with_those_it_does(
    tiny: Tiny, faked: Callable[..., FakeCore], listed: tuple[str, ...]
) -> None:
    faked(available_devices=listed)
    with pytest.raises(
        Unavailable, match=f"no NPU here, only {' '.join(listed) or 'nothing'}: install Intel's driver"
    ):
        opened(adapter.npu_default, tiny)
