"""docs/blame.md shows commands that parse, and names every stage."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import get_args

import pytest

from harness.blame import FLOAT16, FLOAT32, Stage
from harness.cli import _parser
from harness.commands import COMMANDS

TEXT = (Path(__file__).resolve().parents[1] / "docs" / "blame.md").read_text(encoding="utf-8")
LINES = [line for block in re.findall(r"```\n(.*?)```", TEXT, flags=re.DOTALL) for line in block.splitlines()]


@pytest.mark.parametrize("command", [line for line in LINES if line.startswith("python -m harness")])
def test_the_command_parses(command: str) -> None:
    options = _parser().parse_args(shlex.split(command)[3:])
    assert options.run in COMMANDS


def test_every_stage_and_both_tolerances_are_named() -> None:
    assert {stage for stage in get_args(Stage) if f"`{stage}`" not in TEXT} == set()
    assert {f"{FLOAT32:.0e}", f"{FLOAT16:.0e}"} == {"1e-04", "1e-02"}
    assert all(text in TEXT for text in ("1e-4", "1e-2"))
