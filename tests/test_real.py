"""The whole road on real images with real weights: what the numbers must be for anybody to believe the rest."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.real, pytest.mark.mindspore]


@pytest.fixture(scope="module")
def bottle(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """PaDiM with ResNet-18 fitted on MVTec AD's bottle, exported, and benched on both CPU backends."""
    folder = tmp_path_factory.mktemp("bottle")
    weights, data = shared / "weights" / "resnet18_layers123.safetensors", shared / "data" / "mvtec"
    where = ("--data", data, "--category", "bottle")
    harness(folder, "fit", "--weights", weights, *where)
    harness(folder, "export", "artifacts/padim-resnet18/bottle", "--format", "onnx", "--format", "mindir")
    backends = ("--backend", "onnxruntime-cpu", "--backend", "mindspore-cpu")
    harness(folder, "bench", *backends, "--artifact", "artifacts/padim-resnet18", *where)
    return folder


def harness(folder: Path, *arguments: object) -> str:
    command = [sys.executable, "-m", "harness", *map(str, arguments)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def rows(folder: Path) -> dict[str, dict[str, Any]]:
    found = json.loads(harness(folder, "tables", "--json"))["tables"]
    return {table["backend"]: table["rows"][0]["values"] for table in found}


@pytest.mark.parametrize("backend", ["onnxruntime-cpu", "mindspore-cpu"])
def test_padim_on_bottle_is_as_good_as_published(bottle: Path, backend: str) -> None:
    values = rows(bottle)[backend]
    assert values["image_auroc"] >= 0.990  # published for ResNet-18: 0.994 to 0.996
    assert values["pixel_auroc"] >= 0.978  # 0.981 to 0.983


def test_the_backends_agree_on_bottle(bottle: Path) -> None:
    report = json.loads(harness(bottle, "parity", "--reference", "mindspore-cpu", "--json"))
    assert report["verdict"] == "passed"
    assert [level["verdict"] for level in report["pairs"][0]["levels"]] == ["passed"] * 5


def test_the_report_draws_five_pictures_of_bottle(bottle: Path) -> None:
    harness(bottle, "parity", "--reference", "mindspore-cpu", "--report", "pictures")
    assert len(list((bottle / "pictures").glob("bottle_onnxruntime-cpu_difference_*.png"))) == 5
