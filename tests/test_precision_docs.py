"""docs/precision.md shows commands that parse."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from harness.cli import _parser
from harness.commands import COMMANDS

TEXT = (Path(__file__).resolve().parents[1] / "docs" / "precision.md").read_text(encoding="utf-8")


def test_every_command_parses() -> None:
    blocks = re.findall(r"```\n(.*?)```", TEXT, flags=re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines() if line.startswith("python -m harness")]
    shown = [_parser().parse_args(shlex.split(line)[3:]).run for line in lines]
    assert {"export", "bench", "tune"} <= set(shown) <= set(COMMANDS)
