from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("onnx", reason="onnx is not installed")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")

from harness import registry
from harness.detector import artifact
from tests.conftest import Tiny
from tests.harness.blame.nodes.graphs import Bench


@pytest.fixture
def bench(tmp_path: Path, tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """The backends `leaky`, `drifting`, `fused` and `gathered` are known too."""
    for name in ("leaky", "drifting", "fused", "gathered"):
        monkeypatch.setitem(registry.BACKENDS, name, f"tests.harness.blame.nodes.graphs:{name}")
    folder = tmp_path / "models"
    folder.mkdir()
    return Bench(folder=folder, base=artifact.read(tiny.artifact))
