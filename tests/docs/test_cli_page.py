"""The page of commands names every command, and every option with its default."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from harness.cli.program import COMMANDS

HOOK = Path(__file__).resolve().parents[2] / "docs" / "cli_hook.py"


def page(markdown: str) -> str:
    spec = importlib.util.spec_from_file_location("cli_hook", HOOK)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return str(module.on_page_markdown(markdown))


def test_every_command_has_its_heading() -> None:
    lines = page("<!-- commands -->").splitlines()
    assert [name for name in COMMANDS if f"## {name}" not in lines] == []


def test_options_have_their_defaults_and_pages_are_links() -> None:
    text = page("<!-- commands -->")
    assert "| `--warmup` N | untimed runs before the timed ones (default: 3) |" in text
    assert "[docs/reference/gate-rules.md](../reference/gate-rules.md)" in text


def test_other_pages_stay_as_they_are() -> None:
    assert page("# Title") == "# Title"
