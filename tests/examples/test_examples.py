"""The examples, run as a reader runs them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import pytest

from tests.conftest import Tiny

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
NOTEBOOK = EXAMPLES / "compare_backends.ipynb"
pytest.importorskip("matplotlib", reason="matplotlib, which draws the pictures, is not installed")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")


def test_a_folder_is_scored_and_drawn(tiny: Tiny, tmp_path: Path) -> None:
    images = tiny.data / "widget" / "test" / "scratch"
    result = subprocess.run(
        [sys.executable, str(EXAMPLES / "score_folder.py"), str(tiny.artifact), str(images), "heatmaps"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert [line.partition(":")[0] for line in lines] == [str(path) for path in sorted(images.iterdir())]
    assert all(line.endswith((" good", " defective")) for line in lines)
    pictures = sorted((tmp_path / "heatmaps").iterdir())
    assert [picture.name for picture in pictures] == [f"{path.name}.png" for path in sorted(images.iterdir())]
    assert all(cv2.imread(str(picture)).std() > 0 for picture in pictures)


def test_the_notebook_is_stored_without_outputs() -> None:
    nbformat = pytest.importorskip("nbformat", reason="nbformat, which reads the notebook, is not installed")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert cells
    assert all(cell.outputs == [] and cell.execution_count is None for cell in cells)


@pytest.mark.parametrize("backends", ["onnxruntime-cpu,openvino-cpu", "onnxruntime-cpu,fake-off"])
def test_the_notebook_compares_two_backends(
    tiny: Tiny, fakes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backends: str
) -> None:
    """`fake-off` gives wrong outputs, so images flip or differ."""
    assert fakes.is_dir()
    pytest.importorskip("openvino", reason="openvino, the second backend, is not installed")
    nbclient = pytest.importorskip("nbclient", reason="nbclient, which runs the notebook, is not installed")
    nbformat = pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel", reason="ipykernel, which runs the notebook, is not installed")
    for name, value in {
        "ARTIFACT": str(tiny.artifact),
        "DATA": str(tiny.data),
        "RESULTS": str(tmp_path / "results"),
        "BACKENDS": backends,
        "MPLBACKEND": "agg",
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ["PYTHONPATH"]]),
    }.items():
        monkeypatch.setenv(name, value)
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbclient.NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
    texts = [text for cell in notebook.cells if cell.cell_type == "code" for text in printed(cell)]
    verdict = "passed" if backends.endswith("openvino-cpu") else "failed"
    assert any(f"verdict: {verdict}" in text for text in texts), texts


def printed(cell: Any) -> list[str]:
    return [output.text for output in cell.outputs if output.output_type == "stream"]
