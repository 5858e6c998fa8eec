from __future__ import annotations

import argparse
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator

import pytest

from harness.cli.program import COMMANDS, parser

HEAVY = ("numpy", "cv2", "msgspec", "mindspore", "onnx", "onnxruntime", "rich", "tabulate")


def parsers(part: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """A parser and all below it."""
    yield part
    for action in part._actions:
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                yield from parsers(below)


ALL = {part.prog.removeprefix("python -m "): part for part in parsers(parser())}


def modules_after(arguments: list[str]) -> set[str]:
    """The modules that a new process has loaded after a command that only prints."""
    script = (
        "import sys\nfrom harness import cli\n"
        f"try:\n    cli.main({arguments})\nexcept SystemExit as end:\n    assert end.code == 0\n"
        "print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert len(done.stdout.splitlines()) > 1
    return set(done.stdout.splitlines()[-1].split())


@pytest.mark.parametrize("arguments", [["--help"], ["--version"]])
def test_the_programs_help_loads_no_command(arguments: list[str]) -> None:
    loaded = modules_after(arguments)
    ours = {name for name in loaded if name.startswith(("harness", "exporters", "backends"))}
    assert loaded.isdisjoint(HEAVY)
    assert ours == {
        "harness",
        "harness.cli",
        "harness.cli.arguments",
        "harness.cli.program",
        "harness.errors",
    }


def test_the_help_of_a_command_loads_nothing_heavy() -> None:
    script = (
        "import sys\nfrom harness.cli.program import COMMANDS, main\n"
        "for name in COMMANDS:\n    try:\n        main([name, '--help'])\n    except SystemExit as end:\n"
        "        assert end.code == 0\n"
        "print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert set(done.stdout.splitlines()[-1].split()).isdisjoint(HEAVY)


def test_the_module_runs_and_its_help_names_every_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "harness", "--help"], capture_output=True, text=True, check=True
    )
    for command in COMMANDS:
        assert f"\n    {command} " in done.stdout


@pytest.mark.parametrize("name", ALL)
def test_help_fits_on_one_screen(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    lines = ALL[name].format_help().splitlines()
    assert len(lines) <= 40
    assert [line for line in lines if len(line) > 100] == []


@pytest.mark.parametrize("name", ALL)
def test_help_ends_with_an_example_that_the_parser_accepts(name: str) -> None:
    (line,) = ALL[name].format_help().splitlines()[-1:]
    command = line.removeprefix("example: python -m ")
    assert command.startswith(name)
    assert callable(parser().parse_args(shlex.split(command)[1:]).run)


@pytest.mark.parametrize("name", ALL)
def test_every_option_has_help_with_its_default_in_one_form(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "1000")
    formatter = ALL[name]._get_formatter()
    for action in ALL[name]._actions:
        if action.help == argparse.SUPPRESS or isinstance(action, argparse._SubParsersAction):
            continue
        assert action.help, action
        shown = formatter._get_help_string(action) or ""
        has_default = action.default not in (None, argparse.SUPPRESS, []) and action.default is not False
        defaults = len(re.findall(r"\(default: [^()]+\)", shown))
        assert defaults == 1 if has_default else defaults <= 1
        assert re.findall(r"\((?!default: |IndexFlatL2|OM|docs/|less memory|msrun)[^()]*\)", shown) == []
        assert "%(default)s" not in action.help
