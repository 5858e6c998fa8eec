from __future__ import annotations

import csv
import io
import json
from typing import Any

import pytest

from harness import cli
from tests.harness.record_factory import Results, outputs


@pytest.fixture
def folder(results: Results) -> str:
    results.add("onnxruntime-cpu", outputs())
    results.add("onnxruntime-cpu", outputs(), case={"category": "weave", "dataset": "synthetic"})
    return str(results.folder)


def shown(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert cli.main(["tables", *arguments]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("kind", ["terminal", "md"])
def test_tables_against_published(folder: str, capsys: pytest.CaptureFixture[str], kind: str) -> None:
    text = shown(capsys, "--results", folder, "--against", "published", "--format", kind)
    assert "against MindSpore model zoo, research/cv/PaDiM, wide_resnet50_2" in text
    assert "differs: backbone: ours resnet18, theirs wide_resnet50_2" in text
    assert "not compared: padim resnet18 on synthetic" in text


def test_tables_against_published_as_json(folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    document = json.loads(shown(capsys, "--results", folder, "--against", "published", "--json"))
    assert {line["theirs"]["source"] for line in document["comparisons"]} == {"seed 000", "anomalib README"}
    assert len(document["not_compared"]) == 1


def test_tables_against_published_as_csv_say_beside_it_what_is_not_compared(
    folder: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["tables", "--results", folder, "--against", "published", "--format", "csv"]) == 0
    written = capsys.readouterr()
    assert {line["their_device"] for line in csv.DictReader(io.StringIO(written.out))} == {
        "ascend910",
        "ascend310",
        "gpu",
    }
    assert "not compared: padim resnet18 on synthetic" in written.err


@pytest.mark.parametrize("kind", ["terminal", "md", "csv", "json"])
def test_nothing_to_compare_is_an_error_and_never_an_empty_table(
    results: Results, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    results.add("onnxruntime-cpu", outputs(), case={"category": "weave"})
    arguments = ["tables", "--results", str(results.folder), "--against", "published", "--format", kind]
    assert cli.main(arguments) == 3
    written = capsys.readouterr()
    assert written.out == ""
    assert "nothing to compare with the published tables: " in written.err
    assert "the records are of weave" in written.err


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("terminal", "Training performance: padim resnet18 on mvtec"),
        ("md", "**Inference performance: padim resnet18 on mvtec**"),
        ("csv", "inference,padim resnet18 on mvtec,"),
        ("json", '"kind": "evaluation"'),
    ],
)
def test_tables_in_the_style_of_the_model_zoo(
    folder: str, capsys: pytest.CaptureFixture[str], kind: str, words: str
) -> None:
    assert words in shown(capsys, "--results", folder, "--style", "modelzoo", "--format", kind)


def test_one_kind_of_table_at_a_time(folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    flags: list[Any] = ["tables", "--results", folder, "--against", "published", "--style", "modelzoo"]
    assert cli.main(flags) == 2
    assert "ask for one at a time" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--style", "modelzoo", "--stage", "infer"), "--style modelzoo takes no --stage"),
        (("--against", "published", "--stage", "total"), "--against takes no --stage"),
        (("--format", "csv", "--json"), "--json and --format csv: ask for one of them"),
    ],
)
def test_an_option_that_would_be_ignored_is_wrong_use(
    folder: str, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str
) -> None:
    assert cli.main(["tables", "--results", folder, *arguments]) == 2
    written = capsys.readouterr()
    assert message in written.out + written.err


def test_json_twice_is_json(folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert json.loads(shown(capsys, "--results", folder, "--json", "--format", "json"))["tables"]


def test_csv_of_a_comparison_says_beside_it_what_is_left_out_of_one(
    results: Results, folder: str, capsys: pytest.CaptureFixture[str]
) -> None:
    results.add("onnxruntime-cpu", outputs(), case={"category": "cable"}, status="failed", reason="killed")
    assert cli.main(["tables", "--results", folder, "--against", "published", "--format", "csv"]) == 0
    assert "wide_resnet50_2: cable: failed: killed\n" in capsys.readouterr().err


def test_plain_tables_stay_what_they_were(folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert shown(capsys, "--results", folder).startswith(
        "padim resnet18 on mvtec · onnxruntime-cpu · onnx-fp32"
    )
