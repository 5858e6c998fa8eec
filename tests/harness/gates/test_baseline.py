from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from harness.cli import main
from harness.errors import NotMeasured, UsageError
from harness.gates import gate, update
from harness.gates.baseline import SUMMARY
from harness.gates.interleaved import FILE
from harness.records import record
from tests.harness.gates.gatefiles import (
    BOUND,
    LATENCY,
    MEMORY,
    NONINFERIOR,
    RELATIVE,
    Bench,
    add,
    timed,
    write_run,
)

PIXELS = NONINFERIOR.replace("image_auroc", "pixel_auroc")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_baseline_holds_exactly_the_files_that_its_rules_need(bench: Bench) -> None:
    added = add(bench.results)
    add(bench.results, case={"category": "cable"})
    write_run(bench.results.folder, [timed(1.0)])
    name = record.path_of(bench.results.folder, added).name
    update(bench.rules(MEMORY, BOUND, LATENCY), bench.results.folder)
    assert contents(bench.baseline.folder).keys() == {name, SUMMARY}
    assert added.evidence is not None
    update(bench.rules(MEMORY, PIXELS, RELATIVE), bench.results.folder)
    assert contents(bench.baseline.folder).keys() == {name, SUMMARY, added.evidence.file, FILE}


def test_files_are_copied_as_they_are_and_come_out_the_same_twice(bench: Bench) -> None:
    add(bench.results)
    write_run(bench.results.folder, [timed(1.0)])
    rules = bench.rules(PIXELS, RELATIVE)
    assert update(rules, bench.results.folder)[0] == "+ # Baseline"
    once = contents(bench.baseline.folder)
    source = contents(bench.results.folder)
    assert all(data == source[name] for name, data in once.items() if name != SUMMARY)
    assert update(rules, bench.results.folder) == ()
    assert contents(bench.baseline.folder) == once


def test_an_update_returns_the_removed_and_the_new_lines(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    add(bench.results)
    rules = str(bench.rules(MEMORY))
    main(["baseline", "update", rules, "--results", str(bench.results.folder)])
    capsys.readouterr()
    add(bench.results, peak_memory_bytes=250_000_000)
    assert main(["baseline", "update", rules, "--results", str(bench.results.folder)]) == 0
    gone, come = capsys.readouterr().out.splitlines()
    assert gone.startswith("- | padim_resnet18_bottle_onnxruntime-cpu")
    assert " | 1.000000 | " in gone
    assert " | 100.0 | 1.0 | bench | " in gone
    assert " | 250.0 | 1.0 | bench | " in come


def test_a_new_measurement_passes_against_the_updated_baseline(bench: Bench) -> None:
    add(bench.results)
    rules = bench.rules(MEMORY, NONINFERIOR, PIXELS)
    update(rules, bench.results.folder)
    add(bench.results, finished="2025-02-02T00:00:00+00:00")
    assert gate(rules, bench.results.folder).verdict == "passed"


@pytest.mark.parametrize(
    ("rule", "changes"),
    [
        (MEMORY, {"status": "failed", "reason": "it broke"}),
        (MEMORY, {"case": {"variant": "other"}}),
        (NONINFERIOR, {"metrics": {}, "undefined": {"image_auroc": "one class"}}),
        (MEMORY + 'find.categories = ["bottle", "cable"]\n', {}),
        (RELATIVE, {}),
    ],
    ids=["failed", "missing", "undefined", "a category missing", "no benchmarks"],
)
def test_records_that_are_not_measured_change_no_baseline(
    bench: Bench, rule: str, changes: dict[str, Any]
) -> None:
    add(bench.results)
    update(bench.rules(MEMORY), bench.results.folder)
    before = contents(bench.baseline.folder)
    shutil.rmtree(bench.results.folder)
    add(bench.results, **changes)
    with pytest.raises(NotMeasured, match="the baseline was not changed: rule 'rule 0'"):
        update(bench.rules(rule), bench.results.folder)
    assert contents(bench.baseline.folder) == before
    assert {path.name for path in bench.folder.iterdir()} == {"results", "baseline", "rules.toml"}


def test_an_unreadable_record_changes_no_baseline(bench: Bench) -> None:
    add(bench.results)
    (bench.results.folder / "stray.json").write_text("{}")
    with pytest.raises(NotMeasured, match=r"stray\.json"):
        update(bench.rules(MEMORY), bench.results.folder)
    assert not bench.baseline.folder.exists()


def test_a_folder_of_something_else_is_not_replaced(bench: Bench) -> None:
    add(bench.results)
    bench.baseline.folder.mkdir()
    (bench.baseline.folder / "thesis.txt").write_text("years of work")
    with pytest.raises(UsageError, match="not a baseline"):
        update(bench.rules(MEMORY), bench.results.folder)
    assert contents(bench.baseline.folder) == {"thesis.txt": b"years of work"}


def test_rules_that_need_no_baseline_cannot_update_one(bench: Bench) -> None:
    add(bench.results)
    with pytest.raises(UsageError, match="no rule compares with a baseline"):
        update(bench.rules(BOUND, LATENCY), bench.results.folder)
