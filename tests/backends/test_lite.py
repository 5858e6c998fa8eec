from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest

from backends import lite
from backends.errors import BackendError, DeviceMismatch
from backends.simulators import lite as simulator
from harness.build import FitRequest
from harness.detector import artifact
from harness.detector.artifact import Artifact, TensorSpec
from harness.errors import ArtifactError, Unavailable
from harness.records import record
from harness.records.record import Record
from harness.run import plan
from harness.run.options import RunOptions
from harness.run.plan import BenchRequest
from harness.storage import sha256_of_file
from harness.types import AnyArray
from tests.conftest import Tiny, patch_embedding


@pytest.fixture
def made(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Artifact:
    """The tiny detector with a file for its MINDIR, which the simulator answers for without MindSpore."""
    found = artifact.read(tiny.artifact)
    kernels = found.net()["conv.weight"]
    file = tmp_path / "mindir-fp32.mindir"
    file.write_bytes(b"mindir")
    (onnx,) = found.manifest.variants
    variant = msgspec.structs.replace(
        onnx, id="mindir-fp32", format="mindir", files={file.name: sha256_of_file(file)}
    )

    def program(path: str) -> simulator.Program:
        assert path == str(file)
        return simulator.Program(
            shape=(1, 3, 32, 32), run=lambda batch: {"embedding": patch_embedding(kernels, batch)}
        )

    monkeypatch.setattr(simulator, "program_of", program)
    monkeypatch.setattr(lite, "is_installed", lambda _: True)
    manifest = msgspec.structs.replace(found.manifest, variants=(variant,))
    return Artifact(path=tmp_path, manifest=manifest, sha256="")


def opened(made: Artifact, backend: lite.Lite = lite.ascend_simulated) -> lite.LiteSession:
    return backend.open(made, made.manifest.variants[0], threads=1)


def batch(rows: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).normal(size=(rows, 3, 32, 32)).astype(np.float32)


def expected(tiny: Tiny, images: Any) -> Any:
    return patch_embedding(np.asarray(artifact.read(tiny.artifact).net()["conv.weight"]), images)


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The simulator under the name and without the mark of the real module."""
    names = {name: getattr(simulator, name) for name in ("Context", "Model", "ModelType")}
    module = SimpleNamespace(__version__="2.3", **names)
    monkeypatch.setitem(sys.modules, "mindspore_lite", module)
    return module


def test_batches_of_any_size_follow_one_another(made: Artifact, tiny: Tiny) -> None:
    session = opened(made)
    for rows in (1, 3, 2, 1):
        outputs = session.run(batch(rows, rows))
        assert list(outputs) == ["embedding"]
        np.testing.assert_array_equal(outputs["embedding"], expected(tiny, batch(rows, rows)))
    assert dict(session.device_ms) == {}


def test_outputs_stay_what_they_were_when_the_session_runs_again(made: Artifact, tiny: Tiny) -> None:
    session = opened(made)
    first = session.run(batch(2, 1))["embedding"]
    session.run(batch(2, 2))
    np.testing.assert_array_equal(first, expected(tiny, batch(2, 1)))


def test_a_batch_that_is_not_contiguous_arrives_as_it_is(made: Artifact, tiny: Tiny) -> None:
    turned = batch(2).transpose(0, 1, 3, 2)
    found = opened(made).run(turned)["embedding"]
    np.testing.assert_allclose(found, expected(tiny, turned), atol=1e-5)


def test_the_simulated_backend_is_marked_everywhere(made: Artifact) -> None:
    report = opened(made).report
    assert report.simulated
    assert report.device == "SIMULATED ascend:0"
    assert "SIMULATED" in report.runtime["mindspore_lite"]


def test_a_simulator_is_refused_where_hardware_was_asked_for(
    made: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "mindspore_lite", simulator)
    assert "is a simulator" in str(lite.ascend.unavailable())
    with pytest.raises(DeviceMismatch, match="--backend ascend-lite-simulated"):
        opened(made, lite.ascend)


def test_the_simulator_needs_mindspore(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lite, "is_installed", {}.get)
    assert r"pip install 'anomaly-parity-harness[mindspore]'" in str(lite.ascend_simulated.unavailable())
    assert "mindspore_lite" in str(lite.ascend.unavailable())


def test_without_mindspore_lite_the_wheel_is_named(made: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mindspore_lite", None)
    assert "download the wheel" in str(lite.ascend.unavailable())
    with pytest.raises(Unavailable, match="pip install"):
        opened(made, lite.ascend)


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("backend", "mode"), [(lite.ascend, "enforce_origin"), (lite.ascend_fp16, "enforce_fp16")]
)
def test_target_precision_and_the_cpu_behind_it_are_reported(
    made: Artifact, monkeypatch: pytest.MonkeyPatch, backend: lite.Lite, mode: str
) -> None:
    monkeypatch.setenv("ASCEND_RT_VISIBLE_DEVICES", "1")
    report = opened(made, backend).report
    assert not report.simulated
    assert report.device == "ascend:0"
    assert report.options == {
        "target": "ascend",
        "precision_mode": mode,
        "cpu_fallback": "added by MindSpore Lite; which node ran where is not told",
        "threads_asked": "1",
        "ASCEND_RT_VISIBLE_DEVICES": "1",
    }
    assert set(report.runtime) == {"mindspore_lite", "cann"}
    assert backend.unavailable() is None


@pytest.mark.usefixtures("installed")
def test_float16_is_what_the_row_says_and_no_other(made: Artifact, tiny: Tiny) -> None:
    exact = expected(tiny, batch(1))
    np.testing.assert_array_equal(opened(made, lite.ascend).run(batch(1))["embedding"], exact)
    rounded = opened(made, lite.ascend_fp16).run(batch(1))["embedding"]
    assert 0 < np.abs(rounded - exact).max() < 1e-2


class Stubborn(simulator.Context):
    """Takes any target, and stays on the CPU."""

    @property
    def target(self) -> list[str]:
        return ["cpu"]

    @target.setter
    def target(self, target: Any) -> None:
        pass


class NoAscend(simulator.Context):
    """A build for the CPU alone."""

    @property
    def target(self) -> list[str]:
        return ["cpu"]

    @target.setter
    def target(self, target: Any) -> None:
        if target != ["cpu"]:
            raise RuntimeError("Ascend is not compiled in")


def test_another_target_than_asked_for_is_refused(made: Artifact, installed: SimpleNamespace) -> None:
    installed.Context = Stubborn
    with pytest.raises(DeviceMismatch, match=r"asked MindSpore Lite for device 0 of ascend .* took"):
        opened(made, lite.ascend)


def test_a_wheel_for_the_cpu_is_refused(made: Artifact, installed: SimpleNamespace) -> None:
    installed.Context = NoAscend
    with pytest.raises(Unavailable, match=r"no usable Ascend target .*not compiled in"):
        opened(made, lite.ascend)


@pytest.mark.parametrize("attribute", ["device_id", "precision_mode"])
def test_another_device_or_precision_than_asked_for_is_refused(
    made: Artifact, installed: SimpleNamespace, attribute: str
) -> None:
    class Forgetful:
        device_id, precision_mode = 0, "enforce_origin"

        def __setattr__(self, name: str, value: object) -> None:
            super().__setattr__(name, value if name != attribute else {"device_id": 3}.get(name, "other"))

    class Context(simulator.Context):
        def __init__(self) -> None:
            super().__init__()
            self.ascend = Forgetful()  # type: ignore[assignment]

    installed.Context = Context
    with pytest.raises(DeviceMismatch, match="it took"):
        opened(made, lite.ascend)


@pytest.fixture
def release_1(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    module = SimpleNamespace(**vars(simulator.release_1))
    del module.SIMULATED
    monkeypatch.setitem(sys.modules, "mindspore_lite", module)
    return module


@pytest.mark.usefixtures("release_1")
def test_release_1_runs_in_its_own_form_with_no_cpu_behind_it(made: Artifact, tiny: Tiny) -> None:
    session = opened(made, lite.ascend_fp16)
    for rows in (1, 2, 2):
        found = session.run(batch(rows, rows))["embedding"]
        np.testing.assert_allclose(found, expected(tiny, batch(rows, rows)), atol=2e-2)
    assert session.report.options["cpu_fallback"] == "none asked for"
    assert "cannot be asked for" in session.report.options["precision_mode"]


@pytest.mark.usefixtures("release_1")
def test_release_1_is_not_taken_for_float32(made: Artifact) -> None:
    with pytest.raises(Unavailable, match="computes in float16: ask for --backend ascend-lite-fp16"):
        opened(made, lite.ascend)


def respond(monkeypatch: pytest.MonkeyPatch, made: Artifact, found: Any, shape: Any = (1, 3, 32, 32)) -> Any:
    """A session whose model answers with the outputs `found`."""
    program = simulator.Program(shape=shape, run=lambda _: dict(found))
    monkeypatch.setattr(simulator, "program_of", lambda _: program)
    return opened(made)


def test_names_of_lites_own_are_taken_in_order(made: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.arange(6 * 64, dtype=np.float16).reshape(1, 6, 8, 8)
    outputs = respond(monkeypatch, made, {"Default/conv-op0": values}).run(batch(1))
    assert outputs["embedding"].dtype == np.float32
    np.testing.assert_array_equal(outputs["embedding"], values)


def test_outputs_with_the_variants_names_are_taken_by_name() -> None:
    specs = tuple(TensorSpec(name=name, dtype="float32", shape=(None, 2)) for name in ("map", "score"))
    arrays: dict[str, AnyArray] = {"score": np.ones((1, 2)), "map": np.zeros((1, 2))}
    found = lite._by_name(arrays, specs, rows=1)
    assert list(found) == ["map", "score"]
    assert found["score"].sum() == 2


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ({}, "gives 0 outputs"),
        ({"a": np.zeros((1, 6, 8, 8)), "b": np.zeros(1)}, r"gives 2 outputs \(a, b\), the manifest says 1"),
        ({"a": np.zeros((1, 8, 8, 6))}, r"'embedding' in the shape \(1, 8, 8, 6\), the manifest says \(1, 6"),
        ({"a": np.zeros((2, 6, 8, 8))}, r"in the shape \(2, 6, 8, 8\)"),
    ],
)
def test_outputs_that_are_not_the_variants_are_refused(
    made: Artifact, monkeypatch: pytest.MonkeyPatch, found: Any, message: str
) -> None:
    floats = {name: array.astype(np.float32) for name, array in found.items()}
    with pytest.raises(BackendError, match=message):
        respond(monkeypatch, made, floats).run(batch(1))


def test_a_model_that_cannot_be_resized_is_named_with_the_batch_size_that_works(
    made: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise RuntimeError("resize failed! Error is static")

    monkeypatch.setattr(simulator.Model, "resize", refuse)
    session = opened(made)
    session.run(batch(1))
    with pytest.raises(BackendError, match=r"\(3, 3, 32, 32\): resize failed.*--batch-size 1"):
        session.run(batch(3))


def test_a_resize_that_does_nothing_is_noticed(made: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulator.Model, "resize", lambda *_: None)
    with pytest.raises(BackendError, match=r"asked for the input shape \(2, .*got \(1, "):
        opened(made).run(batch(2))


def test_a_batch_of_another_type_is_refused(made: Artifact) -> None:
    with pytest.raises(BackendError, match="data type not equal"):
        opened(made).run(batch(1).astype(np.float64))


def test_a_model_that_cannot_be_built_is_named_with_the_float16_row(
    made: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: str) -> simulator.Program:
        raise RuntimeError("build_from_file failed! Error is Conv2D")

    monkeypatch.setattr(simulator, "program_of", refuse)
    with pytest.raises(BackendError, match=r"mindir-fp32\.mindir: .*Conv2D; .*ascend-lite-fp16"):
        opened(made)


def test_an_altered_model_is_refused(made: Artifact) -> None:
    (made.path / "mindir-fp32.mindir").write_bytes(b"other")
    with pytest.raises(ArtifactError, match="does not match the digest"):
        opened(made)


@pytest.mark.mindspore
def test_a_mindir_is_benched_on_the_simulator_and_agrees_with_mindspore_to_the_bit(
    exported: Artifact, request_to_fit: FitRequest, tmp_path: Path
) -> None:
    request = BenchRequest(
        artifacts=(exported.path,),
        data=request_to_fit.category.root.parent,
        categories=(),
        backends=("ascend-lite-simulated", "mindspore-cpu"),
        out=tmp_path,
        options=RunOptions(batch_size=3),
    )
    ours, theirs = plan.run(plan.plan(request), timeout=120, report=list[Record]().append)
    assert (ours.status, ours.reason) == ("measured", None)
    assert ours.device is not None
    assert ours.device.simulated
    assert ours.metrics == theirs.metrics
    assert record.read_all(tmp_path)
