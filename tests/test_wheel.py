"""The wheel, built and installed where nothing of the checkout is in reach, and without MindSpore."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
SHIPPED = [
    *(f"suites/{path.name}" for path in (ROOT / "benchmarks" / "suites").iterdir()),
    *(f"gates/{path.name}" for path in (ROOT / "benchmarks" / "gates").iterdir()),
    *(f"published/{path.name}" for path in (ROOT / "results" / "published").iterdir()),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Installed:
    wheel: Path
    python: Path
    empty: Path
    """A folder with nothing in it, to run in."""

    def harness(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        command = [str(self.python), "-m", "harness", *arguments]
        return subprocess.run(
            command, cwd=self.empty, env=environment, capture_output=True, text=True, check=False
        )


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    subprocess.run(
        [*pip, "wheel", "--no-deps", "-w", str(folder), str(ROOT)], check=True, capture_output=True
    )
    wheel = next(folder.glob("*.whl"))
    subprocess.run([sys.executable, "-m", "venv", str(folder / "venv")], check=True)
    python = folder / "venv" / "bin" / "python"
    install = [str(python), "-m", "pip", "--disable-pip-version-check", "-q", "install", f"{wheel}[ort]"]
    subprocess.run(install, check=True, capture_output=True)
    (folder / "empty").mkdir()
    return Installed(wheel=wheel, python=python, empty=folder / "empty")


def test_the_wheel_holds_the_three_packages_and_no_tests(installed: Installed) -> None:
    names = zipfile.ZipFile(installed.wheel).namelist()
    packages = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    assert packages == {"harness", "exporters", "backends"}
    data = {name for name in names if not name.endswith(".py") and ".dist-info/" not in name}
    typed = {f"{package}/py.typed" for package in packages}
    assert data == {f"harness/shipped/{path}" for path in SHIPPED} | typed | {"harness/doctor/smoke.onnx"}


def test_the_wheel_says_its_licence_and_carries_it(installed: Installed) -> None:
    with zipfile.ZipFile(installed.wheel) as wheel:
        names = wheel.namelist()
        metadata = wheel.read(next(name for name in names if name.endswith("/METADATA"))).decode()
    assert "\nLicense-Expression: Apache-2.0\n" in metadata
    assert "\nClassifier: Typing :: Typed\n" in metadata
    assert [name for name in names if name.endswith(".dist-info/licenses/LICENSE")] != []


def test_help_runs(installed: Installed) -> None:
    done = installed.harness("--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert "example: python -m harness bench" in " ".join(done.stdout.split())


def test_backends_says_that_mindspore_is_missing_and_how_to_install_it(installed: Installed) -> None:
    done = installed.harness("backends", "--json")
    rows = {row["backend"]: row for row in json.loads(done.stdout)["backends"]}
    assert rows["onnxruntime-cpu"]["runs_here"]
    assert "pip install 'anomaly-parity-harness[mindspore]'" in rows["mindspore-cpu"]["reason"]


def test_a_ready_artifact_is_benched(installed: Installed, tiny: Any) -> None:
    done = installed.harness(
        "bench",
        "--artifact",
        str(tiny.artifact),
        "--data",
        str(tiny.data),
        "--backend",
        "onnxruntime-cpu",
        "--json",
    )
    assert done.returncode == 0, done.stderr
    (record,) = json.loads(done.stdout)["records"]
    assert record["status"] == "measured"
    assert len(list((installed.empty / "results").glob("*.json"))) == 1


def test_fitting_without_mindspore_names_the_extra(installed: Installed, tiny: Any) -> None:
    done = installed.harness("fit", "--weights", "random", "--data", str(tiny.data))
    assert done.returncode == 3
    assert "pip install 'anomaly-parity-harness[mindspore]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_suite_that_travels_with_it_says_all_that_is_missing(installed: Installed, tiny: Any) -> None:
    data = installed.empty / "mvtec"
    shutil.copytree(tiny.data / "widget", data / "bottle")
    done = installed.harness("bench", "--suite", "padim", "--data", str(data), "--backend", "onnxruntime-cpu")
    assert done.returncode == 2
    for words in (
        "the suite padim cannot start",
        "no category cable, capsule,",
        "--weights W: a fit needs weights of wide_resnet50_2",
        "pip install 'anomaly-parity-harness[mindspore]'",
    ):
        assert words in done.stderr


def test_the_published_tables_travel_with_it(installed: Installed) -> None:
    code = "from harness import suites; from harness.suites import published; print(len(published.read().rows), *suites.names())"
    done = subprocess.run(
        [str(installed.python), "-c", code], cwd=installed.empty, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == [
        "1017",
        "fastflow",
        "padim",
        "patchcore",
        "ssim_ae",
        "ssim_ae_texture",
        "stpm",
    ]
