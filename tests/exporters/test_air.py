from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from harness import build
from harness.detector import artifact
from harness.detector.artifact import Artifact
from harness.errors import Unavailable

pytestmark = pytest.mark.mindspore


@pytest.fixture
def widget(fitted: Artifact, tmp_path: Path) -> Artifact:
    return artifact.read(Path(shutil.copytree(fitted.path, tmp_path / "widget")))


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Stand in for an Ascend host: the device is chosen before the export, which writes a file nobody else may write."""
    from exporters import runtime

    seen: list[Any] = []

    def write(net: Any, *inputs: Any, file_name: str, file_format: str) -> None:
        seen.append((file_format, [item.shape for item in inputs], net.training))
        Path(file_name).write_bytes(b"air")
        Path(file_name).chmod(0o400)

    monkeypatch.setattr(runtime, "use", seen.append)
    monkeypatch.setattr(runtime.mindspore, "export", write)
    return seen


def test_on_an_ascend_host_mindspore_writes_it(widget: Artifact, calls: list[Any]) -> None:
    made = build.export(widget, "air")
    assert calls == ["ascend", ("AIR", [(1, 3, 64, 64)], False)]
    assert (widget.path / "air-fp32.air").read_bytes() == b"air"
    assert oct((widget.path / made.model).stat().st_mode & 0o777) == "0o644"
    assert (made.input.shape, made.outputs[0].shape, made.gears) == ((1, 3, 64, 64), (1, 100, 16, 16), (1,))
    assert made.agreement == {}
    assert [item.id for item in artifact.read(widget.path).manifest.variants] == ["air-fp32"]


def test_weights_beside_the_file_are_refused(
    widget: Artifact, calls: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from exporters import runtime
    from exporters.errors import ExportError

    write = runtime.mindspore.export

    def write_two(*arguments: Any, file_name: str, **options: Any) -> None:
        write(*arguments, file_name=file_name, **options)
        Path(file_name).with_name("weight").mkdir()

    monkeypatch.setattr(runtime.mindspore, "export", write_two)
    with pytest.raises(ExportError, match="more than one file"):
        build.export(widget, "air")
    assert len(calls) == 2
    assert not list(widget.path.glob("*.air"))


def test_elsewhere_it_is_refused(widget: Artifact) -> None:
    with pytest.raises(Unavailable, match=r"Ascend 910 host; AIR is deprecated.*--format onnx.*finds none"):
        build.export(widget, "air")
