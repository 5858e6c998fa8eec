from __future__ import annotations

import io
import sys

import pytest

from harness import progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_log_gets_a_plain_line_when_one_is_due(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seconds = iter([0.0, 4.0, 11.0, 20.0, 21.5])
    monkeypatch.setattr("time.monotonic", lambda: next(seconds))
    with progress.progress("bench bottle", 83) as advance:
        for steps in (8, 8, 60, 7):
            advance(steps)
    captured = capsys.readouterr()
    assert captured.err.splitlines() == [
        "bench bottle: 16/83 images, 0:00:46 left",  # 67 images at 11 s for 16
        "bench bottle: 83/83 images, 0:00:00 left",
    ]
    assert captured.out == ""


def test_a_log_says_nothing_of_what_is_quick(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.progress("bench bottle", 2) as advance:
        advance(2)
    assert capsys.readouterr() == ("", "")


def test_lines_name_the_unit(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(progress, "_SECONDS_BETWEEN_LINES", 0.0)
    with progress.progress("fit", 3, unit="positions") as advance:
        advance(1)
    assert capsys.readouterr().err == "fit: 1/3 positions, 0:00:00 left\n"


def test_a_note_says_how_it_goes(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(progress, "_SECONDS_BETWEEN_LINES", 0.0)
    with progress.progress("train stpm", 4, unit="steps") as advance:
        advance(0, "not begun")  # no rate, no time left
        advance(2, "loss 0.5")
    assert capsys.readouterr().err == "train stpm: 2/4 steps, loss 0.5, 0:00:00 left\n"


def test_a_terminal_gets_a_bar_on_standard_error_that_goes_away(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    with progress.progress("bench bottle", 83) as advance:
        advance(16)
        advance(20, "loss 0.5")
    drawn = terminal.getvalue()
    assert "bench bottle" in drawn
    assert "36/83" in drawn
    assert "loss 0.5" in drawn
    assert drawn.endswith("\x1b[2K")  # the last thing drawn erases the line
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("stream", [Terminal, io.StringIO])
def test_an_error_passes_through(monkeypatch: pytest.MonkeyPatch, stream: type[io.StringIO]) -> None:
    monkeypatch.setattr(sys, "stderr", stream())
    with pytest.raises(ValueError, match="inside"), progress.progress("bench", 2):
        raise ValueError("inside")
