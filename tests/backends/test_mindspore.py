from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backends import mindspore as adapter
from backends import ort
from backends.errors import DeviceMismatch
from harness import artifact, record, suite
from harness.artifact import Artifact
from harness.errors import MissingExtra
from harness.record import Record
from harness.suite import BenchRequest
from harness.types import FitRequest


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
        batch_size=3,
    )
    (made,) = suite.run(suite.plan(request), timeout=120, report=list[Record]().append)
    assert (made.status, made.reason) == ("measured", None)
    assert made.device is not None
    assert len(made.device.options["cores"].split(",")) == 1
    assert made.detector_sha256 == artifact.read(exported.path).manifest.detector_sha256
    assert record.read_all(tmp_path) == (made,)
