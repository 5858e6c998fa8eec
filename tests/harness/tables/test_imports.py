"""What `import harness.tables` loads."""

from __future__ import annotations

import subprocess
import sys

FORBIDDEN = ("harness.run", "harness.cli", "exporters", "backends")
HEAVY = ("matplotlib", "mindspore", "onnx", "onnxruntime", "openvino", "scipy", "torch")


def test_importing_the_tables_loads_neither_what_runs_nor_heavy_libraries() -> None:
    program = "import sys, harness.tables; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = run.stdout.split()
    assert "harness.tables.table" in loaded
    assert [name for name in loaded if name.startswith(tuple(f"{root}." for root in FORBIDDEN))] == []
    assert sorted({name.split(".")[0] for name in loaded} & {*FORBIDDEN, *HEAVY}) == []
