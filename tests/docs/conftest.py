"""A folder as a reader of the documents has it: images, weights, a fitted and exported PaDiM, and its first records."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from exporters.weights.convert import random_backbone
from harness.cli import main
from tests.conftest import write_category
from tests.docs.blocks import ROOT, blocks
from tests.exporters.weights.test_torch import pickled, tensor, zip_bytes
from tests.harness.onnx_models.models import Toy, as_anomalib

GATES = ROOT / "docs" / "how-to" / "gate-in-ci.md"
STEPS = (
    "weights convert resnet18-f37072fd.pth resnet18.safetensors",
    "fit --detector padim --backbone resnet18 --weights resnet18.safetensors --data DIR --category bottle",
    "export artifacts/padim-resnet18/bottle --format onnx --format mindir",
    "bench artifacts/padim-resnet18 --data DIR --backend onnxruntime-cpu --backend mindspore-cpu --save-outputs",
)


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shared by all pages, which get links to its files."""
    pytest.importorskip("mindspore", reason="MindSpore, which fits the documents' detector, is not installed")
    folder = tmp_path_factory.mktemp("documents")
    write_category(folder / "DIR" / "bottle", side=80, train=12)
    _write_checkpoint(folder / "resnet18-f37072fd.pth")
    before = Path.cwd()
    os.chdir(folder)
    try:
        for step in STEPS:
            assert main(step.split()) == 0
        shutil.copytree("results", "board-results")
        as_anomalib().write(folder / "model.onnx")
        Toy().write(folder / "other.onnx")
        (rules,) = (block for block in blocks(GATES) if block.file == "rules.toml")
        (folder / "RULES.toml").write_text(rules.text, encoding="utf-8")
    finally:
        os.chdir(before)
    return folder


@pytest.fixture
def page_folder(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of `prepared` that a page may add to, as the working directory; files are replaced and never changed."""
    folder = Path(shutil.copytree(prepared, tmp_path / "page", copy_function=os.link))
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A new working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _write_checkpoint(path: Path) -> None:
    """Untrained parameters, as torchvision stores trained ones."""
    parameters = random_backbone("resnet18", seed=0)
    state = {name: tensor(array, str(key)) for key, (name, array) in enumerate(parameters.items())}
    raw = {str(key): array.tobytes() for key, array in enumerate(parameters.values())}
    path.write_bytes(zip_bytes(pickled(state), raw))
