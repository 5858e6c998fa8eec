"""Where the tests find what lies beside the checkout, and what each skip means."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest

# MindSpore and onnx read these when they are imported, in whichever test comes first.
os.environ.setdefault("PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION", "python")
os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX2")
os.environ.setdefault("GLOG_v", "3")

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real images and weights; never part of the project."""
    if not (SHARED / "data").is_dir():
        pytest.skip(f"real images and weights are not at {SHARED}")
    return SHARED


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if importlib.util.find_spec("mindspore") is not None:
        return
    for item in items:
        if item.get_closest_marker("mindspore"):
            item.add_marker(pytest.mark.skip(reason="MindSpore is not installed"))
