"""Every command the documents show is one the program takes, and the test command is the one CI runs."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from harness import registry
from harness.cli import _parser
from harness.commands import COMMANDS

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def commands() -> list[str]:
    blocks = re.findall(r"```\n(.*?)```", README, flags=re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line.startswith("python -m harness")]


@pytest.mark.parametrize("command", commands())
def test_the_command_parses(command: str) -> None:
    options = _parser().parse_args(shlex.split(command)[3:])
    assert options.run in COMMANDS


def test_the_readme_shows_a_command_of_every_kind() -> None:
    shown = {shlex.split(command)[3] for command in commands()}
    assert shown >= {"data", "weights", "fit", "export", "bench", "parity", "tables", "backends"}


def test_ci_runs_the_test_command_of_the_readme_word_for_word() -> None:
    block = next(block for block in re.findall(r"```\n(.*?)```", README, flags=re.DOTALL) if "nox" in block)
    assert block.strip() in (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()


def test_links_in_the_readme_lead_to_files() -> None:
    targets = re.findall(r"\]\(([^)#:]+)\)", README)
    assert [target for target in targets if not (ROOT / target).exists()] == []


def test_every_backend_that_runs_onnx_has_its_row() -> None:
    text = (ROOT / "docs" / "backends.md").read_text(encoding="utf-8")
    rows = re.findall(
        r"`([^`]+)`", "".join(line.split("|")[1] for line in text.splitlines() if line.startswith("| `"))
    )
    assert set(rows) == {name for name in registry.BACKENDS if "onnx" in registry.backend(name).formats}
