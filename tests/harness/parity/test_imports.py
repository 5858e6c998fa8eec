"""What `import harness.parity` and `import harness.gates` load."""

from __future__ import annotations

import subprocess
import sys

import pytest

FORBIDDEN = {"harness.run", "harness.cli", "harness.build", "exporters", "backends"}
HEAVY = {"matplotlib", "mindspore", "onnx", "onnxruntime", "openvino", "pytest", "scipy", "torch"}


@pytest.mark.parametrize("package", ["harness.parity", "harness.gates"])
def test_importing_what_judges_loads_neither_what_acts_nor_heavy_libraries(package: str) -> None:
    program = f"import sys, {package}; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = run.stdout.split()
    assert f"{package}.report" in loaded
    parents = {".".join(name.split(".")[:depth]) for name in loaded for depth in (1, 2)}
    assert sorted(parents & (FORBIDDEN | HEAVY)) == []
