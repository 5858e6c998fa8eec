from __future__ import annotations

import csv
import io
import json
from typing import Any

import msgspec
import pytest

from harness import cli, tables
from harness.contracts import DeviceReport
from harness.errors import RecordError
from harness.records import record
from harness.records.record import Data, distribution
from tests.harness.record_factory import HOST, Results, images, outputs


def timed(milliseconds: float, **changes: Any) -> dict[str, Any]:
    return {
        "latency_ms": {"total": distribution([milliseconds, milliseconds, 9 * milliseconds])},
        "images_per_second": 1e3 / milliseconds,
        "peak_memory_bytes": 3_000_000,
        "model_bytes": 2_500_000,
        **changes,
    }


def pivot(results: Results, by: Any, **more: Any) -> tuple[tables.Pivot, ...]:
    return tables.pivot(record.latest(record.read_all(results.folder)), by, **more)


def names(side_by_side: tables.Pivot) -> list[str]:
    return [column.name for column in side_by_side.columns]


def test_backends_stand_side_by_side(results: Results) -> None:
    results.add("one", outputs(), **timed(4.0))
    results.add("two", outputs(), case={"batch_size": 8}, **timed(2.0))
    (side_by_side,) = pivot(results, "backend")
    assert names(side_by_side) == ["one, batch 1", "two, batch 8"]
    assert "padim resnet18" in side_by_side.title
    assert "onnx-fp32" in side_by_side.title
    assert [column.values["bottle"]["p50"] for column in side_by_side.columns] == [4, 2]
    assert side_by_side.columns[1].values["bottle"] == {
        "image_auroc": 1.0,
        "pixel_auroc": pytest.approx(side_by_side.columns[0].values["bottle"]["pixel_auroc"]),
        "aupro": pytest.approx(side_by_side.columns[0].values["bottle"]["aupro"]),
        "flips": 0,
        "p50": 2.0,
        "images_per_second": 500.0,
        "peak_memory": 3.0,
        "model": 2.5,
    }


def test_precisions_begin_with_the_strictest(results: Results) -> None:
    for variant in ("onnx-int8", "onnx-fp16", "onnx-fp32"):
        results.add("cpu", outputs(), case={"variant": variant})
    (side_by_side,) = pivot(results, "precision")
    assert names(side_by_side) == ["float32, onnx-fp32", "float16, onnx-fp16", "int8, onnx-int8"]


def test_flips_are_counted_against_the_first_column(results: Results) -> None:
    records = outputs()
    moved = outputs()
    moved.scores[3] = 2.6  # a good image, over the threshold of 2.5
    moved.scores[4] = 2.4  # a defective one, under it
    moved.scores[0] = 1.1
    results.add("one", records)
    results.add("two", moved)
    (side_by_side,) = pivot(results, "backend")
    assert [column.values["bottle"]["flips"] for column in side_by_side.columns] == [0, 2]


def test_what_has_no_flips_says_why(results: Results) -> None:
    results.add("one", outputs())
    results.add("two", outputs(), images=images(outputs())[::-1])
    (side_by_side,) = pivot(results, "backend")
    assert "flips" not in side_by_side.columns[1].values["bottle"]
    assert side_by_side.columns[1].reasons == {"bottle": "no times of total; no flips: other images than [1]"}


def test_two_fits_of_a_detector_do_not_share_a_table(results: Results) -> None:
    results.add("one", outputs())
    results.add("one", outputs(), case={"detector": "stpm"}, detector_sha256="e" * 64)
    results.add("two", outputs(), detector_sha256="b" * 64)
    with pytest.raises(RecordError, match="of different test images or fits of the detector"):
        pivot(results, "backend")
    results.add("three", outputs(), detector_sha256="b" * 64)
    side_by_side = pivot(results, "backend")
    assert [names(table) for table in side_by_side] == [["one"], ["three", "two"]]
    assert "detector bbbbbbbbbbbb of bottle (padim resnet18)" in side_by_side[1].title
    assert all("of another fit of a detector" in table.notes[-1] for table in side_by_side)


def test_every_category_has_a_fit_of_its_own(results: Results) -> None:
    for backend in ("one", "two"):
        results.add(backend, outputs(), detector_sha256="b" * 64)
    results.add("one", outputs(), case={"category": "cable"}, detector_sha256="c" * 64)
    (side_by_side,) = pivot(results, "backend")
    assert names(side_by_side) == ["one", "two"]


def test_times_of_several_hosts_have_no_mean(results: Results) -> None:
    board = msgspec.structs.replace(HOST, name="board", processor="small")
    for category, host in (("bottle", HOST), ("cable", board)):
        results.add("moved", outputs(), case={"category": category}, host=host, **timed(2.0))
        results.add("stayed", outputs(), case={"category": category}, **timed(4.0))
    (side_by_side,) = pivot(results, "backend")
    means = side_by_side.means()[1]
    assert (means["p50"], means["images_per_second"]) == ((None, 4.0), (None, 250.0))
    assert means["peak_memory"] == (3.0, 3.0)
    assert (
        "moved: its categories are of several devices or machines: their times have no mean"
        in side_by_side.notes
    )
    assert not any(note.startswith("stayed: its categories") for note in side_by_side.notes)
    rows = list(csv.DictReader(io.StringIO(tables.render_pivots((side_by_side,), "csv"))))
    assert {(row["category"], row["where"]) for row in rows if row["column"] == "moved"} == {
        ("bottle", "device CPU on bench (any)"),
        ("cable", "device CPU on board (small)"),
    }


def test_a_mean_over_one_host_alone_has_its_times(results: Results) -> None:
    board = msgspec.structs.replace(HOST, name="board", processor="small")
    results.add("one", outputs(), **timed(4.0))
    results.add("two", outputs(), **timed(2.0))
    results.add("two", outputs(), case={"category": "cable"}, host=board, **timed(2.0))
    (side_by_side,) = pivot(results, "backend")
    assert side_by_side.means()[1]["p50"] == (4.0, 2.0)


def test_flips_are_counted_against_the_first_column_that_was_measured(results: Results) -> None:
    moved = outputs()
    moved.scores[3] = 2.6
    results.add("one", outputs(), status="failed", reason="killed")
    results.add("three", moved)
    results.add("two", outputs())
    (side_by_side,) = pivot(results, "backend")
    assert [column.values["bottle"].get("flips") for column in side_by_side.columns] == [None, 0, 1]
    assert side_by_side.reference == 1
    assert "flips against [2]" in tables.render_pivots((side_by_side,), "terminal")
    assert json.loads(tables.render_pivots((side_by_side,), "json"))["pivots"][0]["flips_against"] == "three"


def test_a_category_that_the_reference_did_not_measure_has_no_flips(results: Results) -> None:
    for backend in ("one", "two"):
        results.add(backend, outputs())
    results.add("two", outputs(), case={"category": "cable"})
    (side_by_side,) = pivot(results, "backend")
    assert side_by_side.columns[1].reasons == {
        "bottle": "no times of total",
        "cable": "no times of total; no flips: [1] is not measured",
    }


def test_where_nothing_is_measured_nothing_flips_and_that_is_said(results: Results) -> None:
    for backend in ("one", "two"):
        results.add(backend, outputs(), status="failed", reason="killed")
    (side_by_side,) = pivot(results, "backend")
    assert side_by_side.reference is None
    assert "no flips: no column is measured" in side_by_side.notes
    assert "flips" not in tables.render_pivots((side_by_side,), "terminal").split("no flips")[0]


def of(fingerprint: str) -> Data:
    return Data(fingerprint=fingerprint * 64, good=4, defective=4, masks_cut=0, masks_emptied=0)


@pytest.mark.parametrize(
    ("by", "case"),
    [
        ("backend", {}),
        ("precision", {"backend": "one", "variant": "onnx-fp16"}),
        ("detector", {"backend": "one", "detector": "stpm"}),
    ],
)
def test_columns_of_other_test_images_have_a_table_of_their_own(
    results: Results, by: str, case: dict[str, Any]
) -> None:
    other = {"backend": "two"} | case
    name = other.pop("backend")
    results.add("one", outputs(), data=of("a"))
    results.add(name, outputs(), case=other, data=of("b"))
    with pytest.raises(RecordError, match="of different test images"):
        pivot(results, by)
    results.add(name, outputs(), case={**other, "threads": 2}, data=of("a"))
    side_by_side = pivot(results, by)
    assert sorted(len(table.columns) for table in side_by_side) == [1, 2]
    titles = {len(table.columns): table.title for table in side_by_side}
    assert "test images aaaaaaaa of bottle (4 good, 4 defective)" in titles[2]
    assert "test images bbbbbbbb of bottle (4 good, 4 defective)" in titles[1]
    assert all("columns of other test images" in table.notes[-1] for table in side_by_side)


def test_one_category_of_other_test_images_is_enough_for_another_table(results: Results) -> None:
    for backend, cable in (("one", "a"), ("two", "b"), ("three", "a")):
        results.add(backend, outputs(), data=of("c"))
        results.add(backend, outputs(), case={"category": "cable"}, data=of(cable))
    results.add("four", outputs(), data=of("c"))
    results.add("dead", outputs(), status="failed", reason="killed", data=of("z"))
    side_by_side = pivot(results, "backend")
    assert [names(table) for table in side_by_side] == [["dead", "four", "one", "three"], ["two"]]
    assert "bottle" not in side_by_side[0].title  # of the same images in both
    assert "test images bbbbbbbb of cable" in side_by_side[1].title


def test_of_a_backend_on_several_test_images_the_newest_decides(results: Results) -> None:
    results.add("one", outputs(), data=of("a"), finished="2025-01-02T00:00:00+00:00", model_sha256="f" * 64)
    results.add("one", outputs(), data=of("b"))
    results.add("two", outputs(), data=of("a"))
    (side_by_side,) = pivot(results, "backend")
    assert "one: 1 older records of other detectors or data are not shown" in side_by_side.notes


def test_what_differs_but_the_spread_is_in_every_columns_name(results: Results) -> None:
    results.add("one", outputs(), case={"warmup": 3})
    results.add("one", outputs(), case={"warmup": 5, "threads": 2})
    (side_by_side,) = pivot(results, "backend")
    assert names(side_by_side) == ["one, 1 threads, warmup 3", "one, 2 threads, warmup 5"]


def test_records_that_newer_ones_hide_are_counted(results: Results) -> None:
    for day, detector in (("01", "a"), ("03", "b"), ("02", "c")):
        finished = f"2025-01-{day}T00:00:00+00:00"
        results.add("one", outputs(), detector_sha256=detector * 64, finished=finished)
    results.add("two", outputs(), detector_sha256="b" * 64)
    (side_by_side,) = pivot(results, "backend")
    assert side_by_side.columns[0].detectors == {"bottle": "b" * 64}
    assert "one: 2 older records of other detectors or data are not shown" in side_by_side.notes


def test_detectors_have_no_flips_and_no_note_about_them(results: Results) -> None:
    results.add("cpu", outputs())
    results.add("cpu", outputs(), case={"detector": "stpm"}, detector_sha256="b" * 64)
    (side_by_side,) = pivot(results, "detector")
    assert names(side_by_side) == ["padim resnet18", "stpm resnet18"]
    assert all("flips" not in column.values["bottle"] for column in side_by_side.columns)
    assert not any("flips" in note for note in side_by_side.notes)


def test_means_are_over_what_every_column_has(results: Results) -> None:
    for backend, milliseconds in (("one", 2.0), ("two", 4.0)):
        results.add(backend, outputs(), **timed(milliseconds))
        results.add(backend, outputs(), case={"category": "cable"}, **timed(2 * milliseconds))
    results.add("one", outputs(), case={"category": "zipper"}, **timed(100.0))
    (side_by_side,) = pivot(results, "backend")
    shared, means = side_by_side.means()
    assert shared == ("bottle", "cable")
    assert means["p50"] == (3.0, 6.0)
    assert side_by_side.categories == ("bottle", "cable", "zipper")
    assert means["images_per_second"] == pytest.approx((1e3 / 3, 1e3 / 6))  # of the mean time
    text = tables.render_pivots((side_by_side,), "terminal")
    _, mean = text.split("mean of 2 (of 3)")
    (times,) = [line for line in mean.splitlines() if "p50 ms" in line]
    assert times.replace("│", " ").split() == ["p50", "ms", "3.0", "6.0"]


def test_a_mean_that_a_category_lacks_is_absent(results: Results) -> None:
    for backend in ("one", "two"):
        results.add(backend, outputs(), **timed(2.0))
        results.add(
            backend, outputs(), case={"category": "cable"}, **(timed(2.0) if backend == "one" else {})
        )
    (side_by_side,) = pivot(results, "backend")
    assert side_by_side.means()[1]["p50"] == (2.0, None)


def test_a_simulator_is_the_last_column_and_marked(results: Results) -> None:
    device = DeviceReport(device="SIMULATED chip", runtime={}, options={}, simulated=True)
    results.add("a-chip", outputs(), device=device)
    results.add("cpu", outputs())
    (side_by_side,) = pivot(results, "backend")
    assert names(side_by_side) == ["cpu", "a-chip, SIMULATED"]


def test_a_simulator_that_was_skipped_is_marked_and_last_too(results: Results) -> None:
    results.add("ascend310-simulated", outputs(), status="skipped", reason="not here", device=None)
    results.add("cpu", outputs())
    results.add("another-one-that-is-not-here", outputs(), status="skipped", reason="not here", device=None)
    (side_by_side,) = pivot(results, "backend")
    assert names(side_by_side) == ["another-one-that-is-not-here", "cpu", "ascend310-simulated, SIMULATED"]
    assert side_by_side.reference == 1


def test_a_failed_record_says_so_and_has_no_numbers(results: Results) -> None:
    results.add("one", outputs(), **timed(2.0))
    results.add("two", outputs(), status="failed", reason="killed", **timed(2.0))
    (side_by_side,) = pivot(results, "backend")
    assert side_by_side.columns[1].values == {"bottle": {}}
    assert "two: bottle: failed: killed" in side_by_side.notes
    rows = list(csv.DictReader(io.StringIO(tables.render_pivots((side_by_side,), "csv"))))
    assert {(row["value"], row["note"]) for row in rows if row["backend"] == "two"} == {
        ("", "failed: killed")
    }


def test_other_data_sets_detectors_and_backends_have_tables_of_their_own(results: Results) -> None:
    for backend in ("one", "two"):
        results.add(backend, outputs())
        results.add(backend, outputs(), case={"dataset": "mine"})
        results.add(backend, outputs(), case={"detector": "stpm"})
        results.add(backend, outputs(), case={"mask_threshold": 64})
        results.add(backend, outputs(), case={"mask_resize": "area_truncated"})
        results.add(backend, outputs(), case={"variant": "onnx-fp16"})
    assert len(pivot(results, "backend")) == 5
    assert len(pivot(results, "detector")) == 2
    assert len(pivot(results, "precision")) == 2


@pytest.mark.parametrize("by", ["backend", "precision", "detector"])
def test_one_column_is_nothing_to_compare(results: Results, by: str) -> None:
    results.add("one", outputs())
    with pytest.raises(
        RecordError, match=f"no two columns to compare: bench the same data with another {by}"
    ):
        pivot(results, by)


@pytest.mark.parametrize("kind", ["terminal", "md"])
def test_text_shows_every_column_with_its_device(
    results: Results, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    results.add("one", outputs(), **timed(4.0))
    results.add("two", outputs(), **timed(2.0))
    assert cli.main(["tables", "--results", str(results.folder), "--pivot", "backend", "--format", kind]) == 0
    text = capsys.readouterr().out
    assert "[2] device CPU on bench (any)" in text
    rows = [[cell.strip() for cell in line.replace("│", "|").split("|")] for line in text.splitlines()]
    assert ["", "", "p50 ms", "4.0", "2.0", ""] in rows
    assert ["", "bottle", "image AUROC", "1.0000", "1.0000", ""] in rows


def test_json_holds_every_value(results: Results, capsys: pytest.CaptureFixture[str]) -> None:
    results.add("one", outputs(), **timed(4.0))
    results.add("two", outputs(), **timed(2.0))
    assert cli.main(["tables", "--results", str(results.folder), "--pivot", "backend", "--json"]) == 0
    (side_by_side,) = json.loads(capsys.readouterr().out)["pivots"]
    assert [column["values"]["bottle"]["p50"] for column in side_by_side["columns"]] == [4.0, 2.0]
    assert side_by_side["mean"]["over"] == ["bottle"]


@pytest.mark.parametrize(
    "arguments",
    [
        ("--pivot", "backend", "--front", "aupro"),
        ("--pivot", "backend", "--style", "modelzoo"),
        ("--pivot", "backend", "--against", "published"),
        ("--picture", "x.png"),
    ],
)
def test_two_tables_at_once_are_refused(results: Results, arguments: tuple[str, ...]) -> None:
    results.add("one", outputs())
    assert cli.main(["tables", "--results", str(results.folder), *arguments]) == 2
