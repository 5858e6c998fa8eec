"""File and description become one artifact, also if two processes make it at once."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("onnx", reason="onnx, which builds the models, is not installed")

from harness import onnx_models
from harness.detector import artifact
from harness.errors import UsageError
from tests.harness.onnx_models.models import Toy


def test_the_second_of_two_processes_uses_the_artifact_of_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = onnx_models.read_graph(Toy(metadata={"harness.range": "unit"}).write(tmp_path / "model.onnx"))
    described, out, copy, first = onnx_models.recognise(graph), tmp_path / "out", shutil.copyfile, []

    def copy_while_another_finishes(source: Any, target: Any) -> None:
        monkeypatch.setattr(shutil, "copyfile", copy)
        first.append(onnx_models.adopt(graph, described, "widget", out))
        copy(source, target)

    monkeypatch.setattr(shutil, "copyfile", copy_while_another_finishes)
    second = onnx_models.adopt(graph, described, "widget", out)
    assert [second] == first
    assert artifact.read(second).manifest.category == "widget"
    assert [path.name for path in second.parent.iterdir()] == ["widget"]


def test_a_folder_with_other_contents_is_refused(tmp_path: Path) -> None:
    graph = onnx_models.read_graph(Toy(metadata={"harness.range": "unit"}).write(tmp_path / "model.onnx"))
    described = onnx_models.recognise(graph)
    path = onnx_models.adopt(graph, described, "widget", tmp_path / "out")
    (path / "manifest.json").unlink()
    with pytest.raises(UsageError, match="not empty; name a new folder"):
        onnx_models.adopt(graph, described, "widget", tmp_path / "out")


def test_an_artifact_that_cannot_be_written_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = onnx_models.read_graph(Toy(metadata={"harness.range": "unit"}).write(tmp_path / "model.onnx"))

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(OSError, match="No space left"):
        onnx_models.adopt(graph, onnx_models.recognise(graph), "widget", tmp_path / "out")
