from __future__ import annotations

import re
from pathlib import Path

import pytest

from harness import build

SOURCE = Path(str(build.__file__))
TARGETS = re.findall(r'registry\.load\("([\w.]+):(\w+)"\)', SOURCE.read_text(encoding="utf-8"))


def test_the_calls_are_read_from_the_source() -> None:
    assert len(TARGETS) >= 8


@pytest.mark.parametrize(("module", "function"), TARGETS)
def test_every_call_names_a_function_of_exporters(module: str, function: str) -> None:
    source = (SOURCE.parents[1] / module.replace(".", "/")).with_suffix(".py").read_text(encoding="utf-8")
    assert any(line.startswith(f"def {function}(") for line in source.splitlines())
