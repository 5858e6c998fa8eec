"""Fenced blocks of a Markdown page, and how one is run."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from harness.cli import main

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
RUN = ("sh", "python")
SHOWN = ("text", "toml", "yaml", "json")
"""Languages of blocks that show something and are not run."""

_FENCE = re.compile(
    r"(?P<comments>(?:^[ ]*<!--.*?-->\n)*)^(?P<indent>[ ]*)```(?P<language>\S*)[^\n]*\n(?P<text>.*?)^(?P=indent)```$",
    flags=re.MULTILINE | re.DOTALL,
)
_EXIT_CODE = re.compile(r"\s+# exit code (\d+)\b.*$")
_HARNESS = re.compile(r"^(?:\.venv/bin/)?python -m harness(?: |$)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A fenced block, and what the comments above it say."""

    page: str
    line: int
    language: str
    text: str
    reason: str | None
    """Why it is not run, from `<!-- not run: REASON -->`."""
    setup: str
    """Commands of `<!-- setup: COMMANDS -->`, which bring about what the page assumes."""
    file: str | None = None
    """The file that the block shows, from `<!-- file: NAME -->`; it is written."""

    def __str__(self) -> str:
        return f"{self.page}: {self.text.splitlines()[0]}: {self.reason}"


def blocks(path: Path) -> list[Block]:
    """The page's blocks in order."""
    text = path.read_text(encoding="utf-8")
    return [
        Block(
            page=path.relative_to(ROOT).as_posix(),
            line=text.count("\n", 0, match.start("language")) + 1,
            language=match["language"],
            text=re.sub(f"^{match['indent']}", "", match["text"], flags=re.MULTILINE),
            reason=_comment(match["comments"], "not run"),
            setup=_comment(match["comments"], "setup") or "",
            file=_comment(match["comments"], "file"),
        )
        for match in _FENCE.finditer(text)
    ]


def run(block: Block, names: dict[str, Any]) -> None:
    """Run a block, or write the file that it shows, in the working directory.

    Args:
        block: Its commands, or its Python code.
        names: What the page's Python blocks have defined so far.

    Raises:
        AssertionError: a command ends with another exit code than its line says (0 without `# exit code N`).
    """
    with mock.patch.dict(os.environ):  # a command that is a process of its own leaves no variables behind
        for command in _commands(block.setup):
            _run_command(command, f"{block.page}:{block.line}")
        if block.file is not None:
            Path(block.file).write_text(block.text, encoding="utf-8")
        elif block.language == "python":
            exec(compile(block.text, f"{block.page}:{block.line}", "exec"), names)  # noqa: S102 - it is our own page
        elif block.language in RUN:
            for command in _commands(block.text):
                _run_command(command, f"{block.page}:{block.line}")


def _environment() -> dict[str, str]:
    """With this Python first on the path, as in an activated environment."""
    return {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


def _comment(comments: str, name: str) -> str | None:
    match = re.search(rf"<!-- {name}: (.*?) -->", comments, flags=re.DOTALL)
    return match[1] if match else None


def _commands(text: str) -> Iterator[str]:
    """Lines without comments; those that end in a backslash are joined."""
    lines = text.replace("\\\n", " ").splitlines()
    return (line.strip() for line in lines if line.strip() and not line.strip().startswith("#"))


def _run_command(command: str, place: str) -> None:
    match = _EXIT_CODE.search(command)
    expected = int(match[1]) if match else 0
    command = _EXIT_CODE.sub("", command)
    if _HARNESS.match(command):
        try:
            code = main(shlex.split(_HARNESS.sub("", command), comments=True))
        except SystemExit as end:  # argparse
            code = int(end.code or 0)
    else:
        code = subprocess.run(["bash", "-ec", command], env=_environment(), check=False).returncode
    assert code == expected, f"{place}: {command}: exit code {code}, expected {expected}"
