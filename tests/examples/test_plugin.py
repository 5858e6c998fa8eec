"""The template of a plug-in, built into a wheel, installed beside the harness, and used through the command line alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from harness.datasets import synthetic

ROOT = Path(__file__).resolve().parents[2]
TEMPLATE = ROOT / "examples" / "plugin"
RULES = """
[find]
detector = "mean-image"
backbone = "none"
dataset = "data"
categories = ["washer"]
backend = "numpy-copy"
variant = "onnx-fp32"

[[rule]]
name = "better than chance"
kind = "bound"
value = "image_auroc"
of = "each"
at_least = 0.6
"""
WITHOUT_MINDSPORE = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "mindspore":
            raise ImportError("the plug-in must not need MindSpore")

sys.meta_path.insert(0, Refuse())
"""


class Workplace:
    """A folder to work in, whose Python finds the harness and the installed plug-in, and no MindSpore."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.packages = folder / "packages"
        self.packages.mkdir()
        (self.packages / "sitecustomize.py").write_text(WITHOUT_MINDSPORE)

    def run(self, *command: str, code: int = 0) -> str:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(self.packages), str(ROOT)])}
        result = subprocess.run(
            [sys.executable, "-m", *command],
            cwd=self.folder,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == code, result.stderr + result.stdout
        return result.stdout if code == 0 else result.stderr

    def harness(self, *command: str, code: int = 0) -> str:
        return self.run("harness", *command, code=code)


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    pytest.importorskip("hatchling", reason="hatchling, which builds the wheel, is not installed")
    place = Workplace(tmp_path_factory.mktemp("plugin"))
    offline = ("--quiet", "--disable-pip-version-check", "--no-index", "--no-deps")
    place.run("pip", "wheel", *offline, "--no-build-isolation", "-w", "wheels", str(TEMPLATE))
    (wheel,) = (place.folder / "wheels").glob("*.whl")
    place.run("pip", "install", *offline, "--target", str(place.packages), str(wheel))
    synthetic.synthesise(place.folder / "data", ("washer",))
    place.harness("fit", "--detector", "mean-image", "--data", "data", "--category", "washer")
    place.harness(
        *("bench", "artifacts/mean-image", "--data", "data", "--backend", "onnxruntime-cpu"),
        *("--backend", "numpy-copy", "--save-outputs", "--threads", "1"),
    )
    return place


@pytest.mark.parametrize(("module", "limit"), [("backend", 30), ("detector", 60)])
def test_the_template_is_short(module: str, limit: int) -> None:
    text = (TEMPLATE / "harness_plugin_example" / f"{module}.py").read_text()
    assert len([line for line in text.splitlines() if line.strip()]) <= limit
    assert "mindspore" not in text


def test_the_wheel_holds_only_the_template(workplace: Workplace) -> None:
    (wheel,) = (workplace.folder / "wheels").glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    packages = {name.partition("/")[0] for name in names}
    assert packages == {"harness_plugin_example", "harness_plugin_example-1.0.dist-info"}


def test_the_commands_list_what_the_plugin_adds(workplace: Workplace) -> None:
    rows = json.loads(workplace.harness("backends", "--json"))["backends"]
    row = next(row for row in rows if row["backend"] == "numpy-copy")
    assert row == {"backend": "numpy-copy", "runs_here": True, "reason": None, "formats": ["onnx"]}
    assert "floor" in workplace.harness("settings", "mean-image")


def test_an_equal_fit_is_not_repeated_and_other_settings_are_another_fit(workplace: Workplace) -> None:
    fit = ("fit", "--detector", "mean-image", "--data", "data", "--category", "washer")
    assert "fitted before" in workplace.harness(*fit)
    workplace.harness(*fit, "--set", "floor=0.2", code=2)
    workplace.harness(*fit, "--set", "ceiling=0.2", code=2)
    workplace.harness(*fit, "--weights", "random", code=2)
    workplace.harness(*fit, "--device", "ascend", code=2)


def test_a_plugin_backend_and_a_real_one_agree_in_everything(workplace: Workplace) -> None:
    document = json.loads(workplace.harness("parity", "--reference", "onnxruntime-cpu", "--json"))
    (pair,) = document["pairs"]
    assert document["verdict"] == "passed"
    assert {level["name"]: level["verdict"] for level in pair["levels"]}["tensors"] == "passed"
    assert pair["flips"] == []


def test_tables_show_the_plugin(workplace: Workplace) -> None:
    table = workplace.harness("tables")
    assert "mean-image" in table
    assert "numpy-copy" in table


def test_a_gate_judges_the_plugin(workplace: Workplace) -> None:
    (workplace.folder / "rules.toml").write_text(RULES)
    report: dict[str, Any] = json.loads(workplace.harness("gate", "rules.toml", "--json"))
    assert report["verdict"] == "passed"
    (workplace.folder / "rules.toml").write_text(RULES.replace("0.6", "0.999"))
    workplace.harness("gate", "rules.toml", code=1)


def test_the_artifact_says_which_distribution_fitted_it(workplace: Workplace) -> None:
    manifest = json.loads((workplace.folder / "artifacts/mean-image/washer/manifest.json").read_text())
    assert manifest["software"]["harness-plugin-example"] == "1.0"
    assert manifest["settings"]["floor"] == 0.1
    assert "plug-in" in workplace.harness("export", "artifacts/mean-image", "--format", "onnx", code=2)


def test_a_backend_of_the_template_refuses_other_networks(workplace: Workplace, tiny: Any) -> None:
    command = ("bench", str(tiny.artifact), "--data", str(tiny.data), "--backend", "numpy-copy", "--out", "r")
    workplace.harness(*command, "--threads", "1", code=3)
    (record,) = (workplace.folder / "r").glob("*.json")
    assert "runs only networks that copy their input" in json.loads(record.read_text())["reason"]
