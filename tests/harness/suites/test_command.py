from __future__ import annotations

import json
from typing import Any

import pytest

from harness import cli
from harness.errors import DatasetError
from harness.records import record
from tests.harness.suites.conftest import SMALL, Bench


def arguments(bench: Bench, *more: str) -> list[str]:
    """`bench --suite` on one thread; each test that runs it fits and measures in an instant."""
    file = bench.root / "small.toml"
    file.write_text(SMALL, encoding="utf-8")
    where = ["--data", str(bench.data), "--weights", "random", "--out", str(bench.out)]
    return ["bench", "--suite", str(file), *where, "--threads", "1", *more]


def test_a_suite_is_fitted_measured_and_shown(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(arguments(bench, "--backend", "fake-work", "--backend", "fake-chatter")) == 0
    shown = capsys.readouterr().out
    assert "widget: fitted in 1.5 s, exported before, 0 cases measured before, 2 to go" in shown
    assert "padim resnet18 on data · suite small · fake-work · onnx-fp32" in shown
    assert "padim resnet18 on data · suite small · fake-chatter · onnx-fp32" in shown
    assert "mean of 2" in shown
    assert "passed" in shown


def test_a_failed_category_is_listed_at_the_end_and_is_no_success(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise DatasetError("too few images")

    bench.ail["widget"] = fail
    assert cli.main(arguments(bench)) == 3
    shown = capsys.readouterr()
    assert shown.err.splitlines()[-1] == "failed: widget: too few images"
    assert "mean of 1" in shown.out


def test_json_is_one_document_with_the_failures(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        raise DatasetError("too few images")

    bench.ail.update(widget=fail, gadget=fail)
    assert cli.main(arguments(bench, "--json")) == 3
    document = json.loads(capsys.readouterr().out)
    assert document == {"records": [], "failures": {"widget": "too few images", "gadget": "too few images"}}


def test_ctrl_c_says_how_to_go_on_with_exit_code_130(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    bench.ail["gadget"] = stop
    assert cli.main(arguments(bench)) == 130
    assert "interrupted: 1 of 2 categories are finished and kept; the same command" in capsys.readouterr().err
    assert len(record.read_all(bench.out)) == 1


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--variant", "onnx-fp32"), "--variant is the suite's"),
        (("--mask-threshold", "0"), "--mask-threshold is the suite's"),
        (("--mask-resize", "nearest"), "--mask-resize is the suite's"),
        (("--artifact", "here"), "--artifact is the suite's"),
        (("--category", "sprocket"), "unknown category of the suite small 'sprocket'"),
        (("--suite", "padin"), "unknown suite 'padin'; did you mean 'padim'"),
    ],
)
def test_what_a_suite_decides_itself_is_refused_on_the_command_line(
    bench: Bench, capsys: pytest.CaptureFixture[str], more: tuple[str, ...], words: str
) -> None:
    assert cli.main(arguments(bench, *more)) == 2
    assert words in capsys.readouterr().err
    assert bench.fitted == []


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (["bench", "--suite", "padim"], "bench --suite needs --data DIR"),
        (["bench", "--weights", "w.pth"], "bench --weights needs --suite NAME"),
        (
            ["bench", "--weights", "w.pth", "--artifact", "a", "--data", "d"],
            "bench --weights needs --suite NAME",
        ),
        (["bench", "--data", "here"], "or name a --suite, which does both"),
    ],
)
def test_what_goes_together_is_asked_for_together(
    asked: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(asked) == 2
    assert words in capsys.readouterr().err


def test_everything_missing_is_one_error_with_a_line_each(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[Any] = ["bench", "--suite", "padim", "--data", str(bench.data), "--out", str(bench.out)]
    assert cli.main([*asked, "--backend", "fake-absent"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: the suite padim cannot start; missing or wrong:\n  - ")
    assert (
        "no category bottle, cable, capsule, carpet, grid, hazelnut, leather, metal_nut, pill, screw, tile, "
        in error
    )
    assert "--weights W: a fit needs weights of wide_resnet50_2" in error
    assert "fake-absent: there is no such board here" in error
