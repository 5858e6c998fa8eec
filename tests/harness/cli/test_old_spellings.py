from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from harness import cli
from harness.cli.old_spellings import translated
from harness.cli.program import parser
from harness.errors import UsageError
from tests.conftest import Tiny


@pytest.mark.parametrize(
    ("old", "new", "hint"),
    [
        (
            "bench --data d --artifact a --artifact b --json",
            "bench a b --data d --json",
            "bench --artifact DIR is now: bench DIR",
        ),
        (
            "bench --artifact=a --backend x --backend y --data d",
            "bench a --backend x --backend y --data d",
            "bench --artifact DIR is now: bench DIR",
        ),
        (
            "bench b --artifact a --data d",
            "bench b a --data d",
            "bench --artifact DIR is now: bench DIR",
        ),
        (
            "bench --onnx m --manifest f --data d --category c",
            "bench m --manifest f --data d --category c",
            "bench --onnx FILE is now: bench FILE",
        ),
        (
            "bench --data d --suite padim --weights w --backend x",
            "reproduce padim --backend x --data d --weights w",
            "bench --suite SUITE is now: reproduce SUITE",
        ),
        (
            "bench --backend replay --outputs r --artifact a --variant v",
            "replay r --artifact a --variant v",
            "bench --backend replay --outputs RESULTS is now: replay RESULTS",
        ),
    ],
)
def test_an_earlier_spelling_becomes_the_new_command_with_a_hint(old: str, new: str, hint: str) -> None:
    arguments, hints = translated(shlex.split(old))
    assert arguments == shlex.split(new)
    assert hints == [f"hint: {hint}"]
    assert callable(parser().parse_args(arguments).run)


@pytest.mark.parametrize("line", ["bench", "bench a --data d", "bench --help", "bench a --backend x --json"])
def test_todays_spelling_stays(line: str) -> None:
    assert translated(line.split()) == (line.split(), [])


@pytest.mark.parametrize(
    "line", ["bench --backend replay", "bench --outputs r --artifact a", "bench --backend replay --backend x"]
)
def test_a_replay_with_something_else_is_refused(line: str) -> None:
    with pytest.raises(UsageError, match="replay RESULTS --artifact DIR"):
        translated(line.split())


def test_the_hint_is_one_line_on_standard_error(
    tiny: Tiny, fakes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    del fakes
    where = ["--data", str(tiny.data), "--out", str(tmp_path), "--threads", "1", "--backend", "fake-work"]
    assert cli.main(["bench", "--artifact", str(tiny.artifact), *where, "--json"]) == 0
    shown = capsys.readouterr()
    assert shown.err.splitlines()[0] == "hint: bench --artifact DIR is now: bench DIR"
    assert shown.out.startswith("{")
