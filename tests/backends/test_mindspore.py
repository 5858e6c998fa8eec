from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from backends import mindspore as adapter
from backends import ort
from backends.errors import DeviceMismatch
from harness.build import FitRequest
from harness.detector import artifact
from harness.detector.artifact import Artifact
from harness.errors import MissingExtra
from harness.records import record
from harness.records.record import Record
from harness.run import plan
from harness.run.options import RunOptions
from harness.run.plan import BenchRequest
from tests.conftest import Tiny


def test_the_variables_that_must_be_set_before_import_are_declared() -> None:
    names = {"PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION": "python", "ONEDNN_MAX_CPU_ISA": "AVX2"}
    for backend in (adapter.cpu, adapter.ascend910):
        assert names.items() <= dict(backend.environment).items()


def test_without_mindspore_the_extra_to_install_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mindspore", None)
    monkeypatch.setattr(importlib.util, "find_spec", {}.get)
    assert "pip install 'anomaly-parity-harness[mindspore]'" in str(adapter.cpu.unavailable())
    with pytest.raises(MissingExtra, match=r"\[mindspore\]"):
        adapter.cpu._runtime()


class Elsewhere:
    """A MindSpore that takes any target and stays on the CPU."""

    __version__ = "9"
    GRAPH_MODE = 0

    def set_device(self, target: str) -> None:
        pass

    def set_context(self, **settings: Any) -> None:
        pass

    def get_context(self, name: str) -> str:
        return {"device_target": "CPU"}[name]


def test_another_target_than_asked_for_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mindspore", Elsewhere())
    with pytest.raises(DeviceMismatch, match="asked MindSpore for Ascend, it gave CPU"):
        adapter.ascend910._runtime()


class Npu:
    """A MindSpore with an Ascend target, as far as the adapter asks."""

    __version__ = "9"
    GRAPH_MODE = 0

    def __init__(self, *, soc: str = "Ascend910B2", devices: int = 8, device: int = 0) -> None:
        self.asked: dict[str, object] = {}
        self.context = {"device_target": "CPU", "device_id": device}
        note = self.asked.__setitem__
        precision = SimpleNamespace(
            precision_mode=lambda value: note("precision_mode", value),
            conv_allow_hf32=lambda value: note("conv_allow_hf32", value),
            matmul_allow_hf32=lambda value: note("matmul_allow_hf32", value),
        )
        ascend = SimpleNamespace(device_count=lambda: devices, op_precision=precision)
        self.device_context = SimpleNamespace(ascend=ascend)
        self.hal = SimpleNamespace(get_device_name=lambda _id, _target: soc)
        self.nn = SimpleNamespace(GraphCell=lambda graph: graph)
        self.Tensor = lambda array: array

    def set_device(self, target: str) -> None:
        self.context["device_target"] = target

    def set_context(self, **settings: Any) -> None:
        pass

    def get_context(self, name: str) -> object:
        return self.context[name]

    def load(self, path: str) -> str:
        return path


def test_an_ascend_910_is_asked_for_float32_and_says_which_chip_it_is(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    npu = Npu(device=2)
    monkeypatch.setitem(sys.modules, "mindspore", npu)
    monkeypatch.setenv("ASCEND_HOME_PATH", str(tmp_path))
    monkeypatch.setenv("ASCEND_RT_VISIBLE_DEVICES", "0,1,2")
    (tmp_path / "version.info").write_text("Version=8.2.0")
    found = artifact.read(tiny.artifact)
    report = adapter.ascend910.open(found, found.manifest.variants[0], threads=1).report
    assert npu.asked == {
        "precision_mode": "must_keep_origin_dtype",
        "conv_allow_hf32": False,
        "matmul_allow_hf32": False,
    }
    assert report.runtime == {"mindspore": "9", "cann": "8.2.0"}
    assert report.device == "ascend:2"
    expected = {
        "device_target": "Ascend",
        "device_id": "2",
        "device_count": "8",
        "soc": "Ascend910B2",
        "precision_mode": "must_keep_origin_dtype",
        "conv_allow_hf32": "False",
        "matmul_allow_hf32": "False",
        "ASCEND_RT_VISIBLE_DEVICES": "0,1,2",
    }
    assert expected.items() <= report.options.items()


@pytest.mark.parametrize(
    ("npu", "message"),
    [
        (Npu(devices=0), "Ascend device 0, it finds 0: see npu-smi"),
        (Npu(devices=2, device=2), "Ascend device 2, it finds 2: see npu-smi"),
        (Npu(soc="Ascend310P3"), "the chip here is Ascend310P3: .*--backend ascend310"),
    ],
)
def test_another_device_than_a_910_is_refused(
    monkeypatch: pytest.MonkeyPatch, npu: Npu, message: str
) -> None:
    monkeypatch.setitem(sys.modules, "mindspore", npu)
    with pytest.raises(DeviceMismatch, match=message):
        adapter.ascend910._runtime()


def test_a_chip_named_in_an_unknown_form_is_let_through_and_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mindspore", Npu(soc="910_93"))
    assert adapter._ascend(adapter.ascend910._runtime())["soc"] == "910_93"


def test_a_precision_that_was_set_before_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    npu = Npu()

    def refuse(_: object) -> None:
        raise RuntimeError("The 'precision_mode' can not be set repeatedly.")

    npu.device_context.ascend.op_precision.precision_mode = refuse
    monkeypatch.setitem(sys.modules, "mindspore", npu)
    with pytest.raises(DeviceMismatch, match="can not be set repeatedly"):
        adapter.ascend910._runtime()


@pytest.mark.mindspore
def test_the_target_and_the_cores_are_reported(exported: Artifact) -> None:
    session = adapter.cpu.open(exported, exported.variant(("mindir",)), threads=1)
    options = session.report.options
    assert options["device_target"] == "CPU"
    assert options["cores"] == ",".join(map(str, sorted(os.sched_getaffinity(0))))
    assert session.report.runtime["mindspore"]
    session.close()


@pytest.mark.mindspore
def test_mindir_and_onnx_of_one_network_agree(exported: Artifact) -> None:
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    batch = np.random.default_rng(5).standard_normal((2, 3, 64, 64)).astype(np.float32)
    ours, theirs = (
        backend.open(exported, exported.variant(backend.formats), threads=1).run(batch)["embedding"]
        for backend in (adapter.cpu, ort.cpu)
    )
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4 * float(np.abs(theirs).max()))


@pytest.mark.mindspore
def test_a_mindir_is_benched_in_a_worker_of_its_own(
    exported: Artifact, request_to_fit: FitRequest, tmp_path: Path
) -> None:
    request = BenchRequest(
        artifacts=(exported.path,),
        data=request_to_fit.category.root.parent,
        categories=(),
        backends=("mindspore-cpu",),
        out=tmp_path,
        options=RunOptions(batch_size=3),
    )
    (made,) = plan.run(plan.plan(request), timeout=120, report=list[Record]().append)
    assert (made.status, made.reason) == ("measured", None)
    assert made.device is not None
    assert len(made.device.options["cores"].split(",")) == 1
    assert made.detector_sha256 == artifact.read(exported.path).manifest.detector_sha256
    assert record.read_all(tmp_path) == (made,)
