"""The command line of parity."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.cli import main
from tests.harness.parity.pairs import (
    with_score,
)
from tests.harness.record_factory import Results, outputs


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--margin", "1"], "not a number from 0 to below 1"),
        (["--margin", "nan"], "not a number"),
        (["--margin", "-0.1"], "not a number"),
        (["--tolerance", "1e-3"], "not OUTPUT=SHARE"),
        (["--tolerance", "a=inf"], "not a number"),
        (["--tolerance", "a=x"], "not a number"),
        (["--tolerance", "a=0.1", "--tolerance", "a=0.2"], "names an output twice"),
        (["--tolerance", "a=0.1"], "no outputs were compared"),
        (["--profile", "fp16"], "invalid choice"),
        (["--sign", "page.pdf"], "ends in .html or .md"),
    ],
)
def test_wrong_use_is_refused_with_its_reason(
    results: Results, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    results.compared(outputs(), outputs())
    command = ["parity", "--results", str(results.folder), "--reference", "reference", *arguments]
    try:
        code = main(command)
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else -1
    assert code == 2
    assert words in capsys.readouterr().err


def test_profile_and_margin_reach_the_report_from_the_command_line(
    results: Results, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results.compared(outputs(), with_score(outputs(), 6, outputs().scores[6] + 1.5e-3))
    command = ["parity", "--results", str(results.folder), "--reference", "reference", "--json"]
    assert main(command) == 1
    capsys.readouterr()
    page = tmp_path / "page.md"
    assert main([*command, "--profile", "float16", "--sign", str(page)]) == 0
    assert json.loads(capsys.readouterr().out)["pairs"][0]["profile"]["name"] == "float16"
    assert page.read_text().startswith("# Parity passed\n")
    assert main([*command, "--profile", "float16", "--margin", "0.01"]) == 3
    assert json.loads(capsys.readouterr().out)["pairs"][0]["metrics"][0]["non_inferior"] == "not measured"
