from __future__ import annotations

import json

import pytest

from harness import cli
from harness.errors import DatasetError
from harness.records import record
from tests.harness.run.conftest import SMALL, Bench


def arguments(bench: Bench, *more: str) -> list[str]:
    """`reproduce` on one thread; each test that runs it fits and measures in an instant."""
    file = bench.root / "small.toml"
    file.write_text(SMALL, encoding="utf-8")
    where = ["--data", str(bench.data), "--weights", "random", "--out", str(bench.out)]
    return ["reproduce", str(file), *where, "--threads", "1", *more]


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

    bench.faults["widget"] = fail
    assert cli.main(arguments(bench)) == 3
    shown = capsys.readouterr()
    assert shown.err.splitlines()[-1] == "failed: widget: too few images"
    assert "mean of 1" in shown.out


def test_json_is_one_document_with_the_failures(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        raise DatasetError("too few images")

    bench.faults.update(widget=fail, gadget=fail)
    assert cli.main(arguments(bench, "--json")) == 3
    document = json.loads(capsys.readouterr().out)
    assert document == {"records": [], "failures": {"widget": "too few images", "gadget": "too few images"}}


def test_ctrl_c_says_how_to_continue_and_exits_130(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    bench.faults["gadget"] = stop
    assert cli.main(arguments(bench)) == 130
    assert "interrupted: 1 of 2 categories are finished and kept; the same command" in capsys.readouterr().err
    assert len(record.read_all(bench.out)) == 1


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--variant", "onnx-fp32"), "unrecognized arguments: --variant onnx-fp32"),
        (("--mask-threshold", "0"), "unrecognized arguments: --mask-threshold 0"),
        (("--mask-resize", "nearest"), "unrecognized arguments: --mask-resize nearest"),
        (("--artifact", "here"), "unrecognized arguments: --artifact here"),
        (("--save-outputs",), "unrecognized arguments: --save-outputs"),
        (("--inputs", "here"), "unrecognized arguments: --inputs here"),
    ],
)
def test_options_that_a_suite_fixes_are_refused(
    bench: Bench, capsys: pytest.CaptureFixture[str], more: tuple[str, ...], words: str
) -> None:
    with pytest.raises(SystemExit, match="2"):
        cli.main(arguments(bench, *more))
    assert words in capsys.readouterr().err
    assert bench.fitted == []


def test_an_unknown_category_of_a_suite_is_refused(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(arguments(bench, "--category", "sprocket")) == 2
    assert "unknown category of the suite small 'sprocket'" in capsys.readouterr().err
    assert bench.fitted == []


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (["reproduce", "padin", "--data", "d"], "unknown suite 'padin'; did you mean 'padim'"),
        (["bench", "--data", "here"], "or reproduce a published table, which does both"),
    ],
)
def test_wrong_use_is_refused(line: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(line) == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (["reproduce", "padim"], "the following arguments are required: --data"),
        (["bench", "--suite", "padim"], "the following arguments are required: --data"),
        (["bench", "--weights", "w.pth"], "unrecognized arguments: --weights"),
        (["bench", "a", "--data", "d", "--weights", "w.pth"], "unrecognized arguments: --weights w.pth"),
    ],
)
def test_arguments_of_another_command_cannot_be_parsed(
    line: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        cli.main(line)
    assert words in capsys.readouterr().err


def test_everything_missing_is_one_error_with_a_line_each(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["reproduce", "padim", "--data", str(bench.data), "--out", str(bench.out)]
    assert cli.main([*line, "--backend", "fake-absent"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: the suite padim cannot start; missing or wrong:\n  - ")
    assert (
        "no category bottle, cable, capsule, carpet, grid, hazelnut, leather, metal_nut, pill, screw, tile, "
        in error
    )
    assert "--weights W: a fit needs weights of wide_resnet50_2" in error
    assert "fake-absent: there is no such board here" in error
