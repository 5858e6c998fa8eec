from __future__ import annotations

import csv
import io
import json
import re
import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from harness import cli, tables
from harness.contracts import DeviceReport
from harness.errors import MissingExtra, RecordError, UsageError
from harness.records import record
from harness.tables import pareto_plot
from tests.harness.record_factory import HOST, Results, outputs
from tests.harness.tables.test_pivot import of, timed


def add(results: Results, backend: str, auroc: float, milliseconds: float, **more: Any) -> None:
    """A record with this image AUROC, of which nothing else is looked at."""
    results.add(backend, outputs(), metrics={"image_auroc": auroc}, **timed(milliseconds), **more)


def fronts(results: Results, metric: str = "image_auroc") -> tuple[tables.Front, ...]:
    return tables.front(record.latest(record.read_all(results.folder)), metric)


def on_front(results: Results) -> set[str]:
    (pareto,) = fronts(results)
    return {point.case.backend for point in pareto.points if point.on_front}


def test_the_front_is_what_nothing_beats_in_both(results: Results) -> None:
    for backend, auroc, milliseconds in (
        ("fast", 0.7, 1.0),
        ("slow-and-best", 0.9, 9.0),
        ("between", 0.8, 3.0),
        ("beaten", 0.75, 4.0),
        ("as-accurate-but-slower", 0.8, 3.5),
        ("as-fast-but-worse", 0.85, 9.0),
    ):
        add(results, backend, auroc, milliseconds)
    assert on_front(results) == {"fast", "between", "slow-and-best"}
    (pareto,) = fronts(results)
    assert [point.milliseconds for point in pareto.points] == [1.0, 3.0, 3.5, 4.0, 9.0, 9.0]


def test_two_equal_points_are_both_on_the_front(results: Results) -> None:
    add(results, "one", 0.8, 2.0)
    add(results, "two", 0.8, 2.0)
    assert on_front(results) == {"one", "two"}


def test_a_simulator_is_shown_and_beats_nothing(results: Results) -> None:
    device = DeviceReport(device="SIMULATED chip", runtime={}, options={}, simulated=True)
    add(results, "chip", 0.99, 0.1, device=device)
    add(results, "cpu", 0.8, 2.0)
    assert on_front(results) == {"cpu"}
    text = tables.render_fronts(fronts(results), "terminal")
    assert "left out of the Pareto front: SIMULATED, not hardware: 1 of 2 rows" in text
    assert "0.9900" in text


def test_means_are_over_the_categories_that_all_have(results: Results) -> None:
    add(results, "one", 0.6, 1.0)
    add(results, "one", 0.8, 3.0, case={"category": "cable"})
    add(results, "one", 0.1, 99.0, case={"category": "zipper"})
    add(results, "two", 0.6, 1.5)
    add(results, "two", 0.9, 2.5, case={"category": "cable"})
    (pareto,) = fronts(results)
    assert pareto.categories == ("bottle", "cable")
    assert [point.accuracy for point in pareto.points] == pytest.approx([0.7, 0.75])
    assert [point.milliseconds for point in pareto.points] == [2.0, 2.0]
    assert "categories that not all have, left out: zipper" in pareto.notes
    assert on_front(results) == {"two"}


def test_a_point_without_times_or_metric_is_left_out_with_its_reason(results: Results) -> None:
    add(results, "one", 0.6, 1.0)
    results.add("untimed", outputs())
    results.add("failed", outputs(), status="failed", reason="killed", metrics={})
    (pareto,) = fronts(results)
    assert {point.case.backend: point.left_out for point in pareto.points} == {
        "one": None,
        "untimed": "no image AUROC or no times",
        "failed": "no image AUROC or no times",
    }
    assert on_front(results) == {"one"}


def test_no_category_in_common_is_an_error_and_no_front(results: Results) -> None:
    add(results, "one", 0.6, 1.0)
    add(results, "two", 0.6, 1.0, case={"category": "cable"})
    with pytest.raises(RecordError, match="no category of mvtec has image AUROC and times in all"):
        fronts(results)


def test_no_records_are_an_error(results: Results) -> None:
    results.folder.mkdir(exist_ok=True)
    with pytest.raises(RecordError, match="there are no records"):
        tables.front((), "aupro")


def test_data_sets_have_fronts_of_their_own(results: Results) -> None:
    add(results, "one", 0.6, 1.0)
    add(results, "two", 0.9, 0.5, case={"dataset": "mine"})
    add(results, "three", 0.95, 0.4, case={"mask_threshold": 64})
    add(results, "four", 0.99, 0.3, case={"mask_resize": "area_truncated"})
    assert [[point.on_front for point in pareto.points] for pareto in fronts(results)] == [[True]] * 4


def test_other_test_images_have_a_front_of_their_own(results: Results) -> None:
    add(results, "all", 0.6, 2.0, data=of("a"))
    add(results, "few", 0.9, 1.0, data=of("b"))
    add(results, "few-and-worse", 0.8, 1.5, data=of("b"))
    results.add("failed", outputs(), status="failed", reason="killed", data=of("c"))
    results.add("untimed", outputs(), data=of("d"))
    pareto = {front.part: front for front in fronts(results)}
    assert {
        images: [(point.case.backend, point.on_front) for point in front.points]
        for images, front in pareto.items()
    } == {
        "test images aaaaaaaa of bottle (4 good, 4 defective)": [
            *(("all", True), ("failed", False), ("untimed", False)),
        ],
        "test images bbbbbbbb of bottle (4 good, 4 defective)": [("few", True), ("few-and-worse", False)],
    }
    assert all(str(images) in front.title for images, front in pareto.items())
    assert all("points of other test images" in " ".join(front.notes) for front in pareto.values())
    rows = list(csv.DictReader(io.StringIO(tables.render_fronts(fronts(results), "csv"))))
    assert {(row["backend"], row["part"].split()[2]) for row in rows} >= {
        ("all", "aaaaaaaa"),
        ("few", "bbbbbbbb"),
    }


def test_two_fits_of_a_detector_have_fronts_of_their_own(results: Results) -> None:
    add(results, "cpu", 0.6, 2.0)
    add(results, "cpu", 0.9, 1.0, case={"variant": "onnx-int8"}, detector_sha256="e" * 64)
    add(results, "cpu", 0.7, 1.5, case={"detector": "stpm"}, detector_sha256="f" * 64)
    pareto = {front.part: front for front in fronts(results)}
    assert {
        name: [(point.case.detector, point.on_front) for point in front.points]
        for name, front in pareto.items()
    } == {
        "detector dddddddddddd of bottle (padim resnet18)": [("stpm", True), ("padim", False)],
        "detector eeeeeeeeeeee of bottle (padim resnet18)": [("padim", True)],
    }
    assert all("of another fit of a detector" in " ".join(front.notes) for front in pareto.values())


def test_csv_has_its_notes_on_standard_error(results: Results, capsys: pytest.CaptureFixture[str]) -> None:
    add(results, "one", 0.6, 1.0, detector_sha256="b" * 64, finished="2024-01-01T00:00:00+00:00")
    add(results, "one", 0.6, 1.0)
    arguments = ["tables", "--results", str(results.folder), "--front", "image_auroc"]
    assert cli.main([*arguments, "--format", "csv"]) == 0
    written = capsys.readouterr()
    assert ": 1 older records of other detectors or data are not shown\n" in written.err
    assert "older" not in written.out
    assert cli.main(arguments) == 0
    assert capsys.readouterr().err == ""


def test_the_same_test_images_are_not_named(results: Results) -> None:
    add(results, "one", 0.6, 2.0)
    add(results, "two", 0.9, 1.0)
    (pareto,) = fronts(results)
    assert pareto.part is None
    assert pareto.title == "image AUROC against p50 ms (total) · mvtec · bottle"


BOARD = msgspec.structs.replace(HOST, name="board", processor="small")


def test_each_device_of_each_host_has_a_front_of_its_own(results: Results) -> None:
    gpu = DeviceReport(device="cuda:0", runtime={}, options={}, simulated=False)
    namesake = msgspec.structs.replace(HOST, processor="another")
    add(results, "best", 0.9, 1.0)
    add(results, "beaten", 0.8, 2.0)
    add(results, "board", 0.7, 30.0, host=BOARD)
    add(results, "board-and-slower", 0.7, 40.0, host=BOARD)
    add(results, "gpu", 0.8, 5.0, device=gpu)
    add(results, "namesake", 0.6, 6.0, host=namesake)
    assert on_front(results) == {"best", "board", "gpu", "namesake"}
    (pareto,) = fronts(results)
    assert {point.where for point in pareto.points} == {
        *("CPU on bench (any)", "CPU on bench (another)", "cuda:0 on bench (any)", "CPU on board"),
    }
    text = tables.render_fronts((pareto,), "terminal")
    assert "★ on the Pareto front of its device and machine: no other there is" in text
    assert "4 devices or machines, a Pareto front of each" in text
    assert "machine board: small" in text


def test_a_mean_over_times_of_two_hosts_is_on_no_front(results: Results) -> None:
    for category, host in (("bottle", HOST), ("cable", BOARD)):
        add(results, "moved", 0.9, 1.0, case={"category": category}, host=host)
        add(results, "stayed", 0.8, 2.0, case={"category": category})
    (pareto,) = fronts(results)
    assert {point.case.backend: point.left_out for point in pareto.points} == {
        "moved": "its categories are of several devices or machines",
        "stayed": None,
    }
    assert on_front(results) == {"stayed"}
    assert [point.milliseconds for point in pareto.points] == [2.0, None]
    assert "devices or machines, a Pareto front of each" not in " ".join(pareto.explained)


def test_only_what_the_means_are_over_has_a_place(results: Results) -> None:
    add(results, "one", 0.9, 1.0)
    add(results, "one", 0.9, 1.0, case={"category": "cable"}, host=BOARD)
    add(results, "two", 0.8, 2.0)
    results.add("dead", outputs(), status="failed", reason="killed", device=None)
    (pareto,) = fronts(results)
    assert {point.case.backend: (point.where, point.on_front) for point in pareto.points} == {
        "one": ("CPU on bench", True),
        "two": ("CPU on bench", False),
        "dead": ("unknown on bench", False),
    }


def test_what_is_too_near_to_be_seen_is_said_to_decide(results: Results) -> None:
    add(results, "one", 0.79312, 6.9)
    add(results, "two", 0.79314, 7.8)
    assert on_front(results) == {"one", "two"}
    text = tables.render_fronts(fronts(results), "terminal")
    assert text.count("0.7931") == 2
    assert "as fast and as accurate and better in one (unrounded values)" in text


def test_the_size_of_a_model_is_of_its_largest_category(results: Results) -> None:
    for category, size in (("bottle", 1_000_000), ("cable", 3_000_000), ("zipper", 2_000_000)):
        results.add("one", outputs(), case={"category": category}, **timed(1.0, model_bytes=size))
    (pareto,) = fronts(results)
    assert [point.model_mb for point in pareto.points] == [3.0]


def shown(results: Results, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert cli.main(["tables", "--results", str(results.folder), "--front", "image_auroc", *arguments]) == 0
    return capsys.readouterr().out


def test_as_csv_and_json(results: Results, capsys: pytest.CaptureFixture[str]) -> None:
    add(results, "one", 0.6, 1.0)
    add(results, "two", 0.5, 2.0)
    rows = list(csv.DictReader(io.StringIO(shown(results, capsys, "--format", "csv"))))
    assert [(row["backend"], row["accuracy"], row["on_front"]) for row in rows] == [
        ("one", "0.6", "True"),
        ("two", "0.5", "False"),
    ]
    (pareto,) = json.loads(shown(results, capsys, "--json", "--stage", "total"))["fronts"]
    assert [point["on_front"] for point in pareto["points"]] == [True, False]


@pytest.mark.parametrize(("suffix", "begin"), [("png", b"\x89PNG"), ("svg", b"<?xml")])
def test_the_picture_is_the_same_bytes_every_time(
    results: Results, tmp_path: Path, capsys: pytest.CaptureFixture[str], suffix: str, begin: bytes
) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    add(results, "one", 0.6, 1.0)
    add(results, "two", 0.9, 2.0, case={"variant": "onnx-int8"})
    results.add("untimed", outputs())
    one, two = tmp_path / f"one.{suffix}", tmp_path / f"two.{suffix}"
    for path in (one, two):
        shown(results, capsys, "--picture", str(path))
    assert one.read_bytes().startswith(begin)
    assert one.read_bytes() == two.read_bytes()
    if suffix == "svg":
        text = one.read_text(encoding="utf-8")
        assert "two, onnx-int8: 0.9000, 2.0 ms" in text
        assert "untimed" not in text


def test_the_picture_marks_the_front_and_leaves_hollow_what_is_not_compared(results: Results) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    from matplotlib.figure import Figure

    simulated = DeviceReport(device="SIMULATED chip", runtime={}, options={}, simulated=True)
    add(results, "chip", 0.95, 0.5, device=simulated)
    add(results, "fast", 0.6, 1.0)
    add(results, "beaten", 0.5, 2.0)
    add(results, "best", 0.9, 4.0)
    panel = Figure().subplots()
    pareto_plot._draw(panel, fronts(results)[0])
    *points, line = panel.get_lines()
    assert [(point.get_marker(), point.get_markerfacecolor() == "none") for point in points] == [
        ("o", True),
        ("*", False),
        ("o", False),
        ("*", False),
    ]
    assert [tuple(np.ravel(point.get_xydata())) for point in points] == [
        (0.5, 0.95),
        (1.0, 0.6),
        (2.0, 0.5),
        (4.0, 0.9),
    ]
    assert np.asarray(line.get_xydata()).tolist() == [[1.0, 0.6], [4.0, 0.9]]
    assert line.get_drawstyle() == "steps-post"  # until the next one nothing more accurate is to be had
    assert panel.get_xscale() == "log"


def test_the_picture_says_what_the_table_says_and_draws_no_line_between_hosts(
    results: Results, tmp_path: Path
) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    from matplotlib.figure import Figure

    add(results, "one", 0.9, 4.0)
    add(results, "two", 0.6, 1.0, detector_sha256="b" * 64, finished="2024-01-01T00:00:00+00:00")
    add(results, "two", 0.6, 1.0)
    add(results, "board", 0.7, 3.0, host=BOARD, case={"variant": "onnx-" + 150 * "x"})
    results.add("untimed", outputs())
    pareto = fronts(results)
    panel = Figure().subplots()
    pareto_plot._draw(panel, pareto[0])
    lines = [line for line in panel.get_lines() if line.get_drawstyle() == "steps-post"]
    assert [np.asarray(line.get_xydata()).tolist() for line in lines] == [[[1, 0.6], [4, 0.9]], [[3, 0.7]]]

    pareto_plot.write(pareto, tmp_path / "front.svg")
    text = (tmp_path / "front.svg").read_text(encoding="utf-8")
    for note in (
        *(
            "left out of the Pareto front: no image AUROC or no times: 1 of 4 rows",
            "1 older records of other detectors",
        ),
        *(
            "2 devices or machines, a Pareto front of each",
            "machine board: small",
            "(unrounded values)",
            "CPU on board",
        ),
    ):
        assert note in text
    assert "hollow" not in text  # the untimed one has no place
    assert max(map(len, re.findall(r"<text[^>]*>([^<]*)", text))) <= 160


def test_another_suffix_is_refused_before_anything_is_drawn(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"ends in \.png or \.svg"):
        pareto_plot.write((), tmp_path / "front.jpg")


def test_without_matplotlib_it_says_what_to_install(
    results: Results, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(results, "one", 0.6, 1.0)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtra, match=r"--picture needs matplotlib.*\[plots\]"):
        pareto_plot.write(fronts(results), tmp_path / "front.png")
    assert not list(tmp_path.glob("front*"))
