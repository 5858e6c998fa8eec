from __future__ import annotations

import csv
import io
import json
from typing import Any

import msgspec
import pytest

from harness import tables
from harness.detector.artifact import Weights
from harness.detector.settings import settings
from harness.errors import HarnessError
from harness.records.record import Data, Distribution, Fit, Record
from harness.suites import published
from harness.suites.published import Counts, Published, Row, Source
from harness.tables import Comparison, Line
from harness.tables.against_published import EQUIVALENTS
from tests.harness.record_factory import HOST, Results, outputs

SOURCE = Source(
    name="paper",
    title="The paper",
    settings={"resize": 256, "crop": 200, "protocol": "seed", "mask_resize": "dilated"},
    category={"tile": {"resize": 300}},
    weights="theirs.pth",
    notes=("three digits",),
    device_notes={"ascend310": ("a copy",)},
)
COUNTS = {"bottle": Counts(train=20, good=4, defective=4), "tile": Counts(train=30, good=9, defective=9)}
METRICS = {"image_auroc": 0.9, "pixel_auroc": 0.75, "image_f1_max": 0.5}


def row(category: str, value: float, metric: str = "image_auroc", **changes: str) -> Row:
    fields = {
        "source": "paper",
        "model": "padim",
        "backbone": "resnet18",
        "device": "ascend910",
        "dataset": "set",
    }
    return Row(category=category, metric=metric, value=value, **{**fields, **changes})


def literature(*rows: Row, source: Source = SOURCE, **changes: Any) -> Published:
    return Published(
        rows=rows, sources=(msgspec.structs.replace(source, **changes),), datasets={"set": COUNTS}
    )


def fit_of(detector: str, **options: Any) -> Fit:
    fit = settings(detector, {"resize": 256, **options})
    return Fit(dataset="mvtec", images=18, settings=msgspec.json.decode(msgspec.json.encode(fit)))


def ours(
    results: Results, category: str = "bottle", *, case: dict[str, Any] | None = None, **changes: Any
) -> Record:
    complete = {
        "metrics": METRICS,
        "fit": fit_of("padim"),
        "weights": Weights(source="ours.pth", sha256="0" * 64),
        "data": Data(fingerprint="f" * 64, good=4, defective=4, masks_cut=0, masks_emptied=0),
        "latency_ms": {"infer_head": Distribution(mean=40, p50=30, p90=0, p95=0, p99=0)},
    }
    return results.add(
        "ort", outputs(), case={"category": category, **(case or {})}, **{**complete, **changes}
    )


def only(records: list[Record], published: Published) -> Comparison:
    (comparison,) = tables.compare(records, published).compared
    return comparison


def shown(comparison: Comparison) -> list[tuple[str, str, str, float, float]]:
    return [(line.device, line.metric, line.category, line.ours, line.theirs) for line in comparison.lines]


# --- numbers ----------------------------------------------------------------------------------------------------------


def test_a_line_holds_ours_theirs_and_ours_less_theirs(results: Results) -> None:
    comparison = only([ours(results)], literature(row("bottle", 0.95)))
    assert shown(comparison) == [("ascend910", "image_auroc", "bottle", 0.9, 0.95)]
    assert comparison.lines[0].difference == pytest.approx(-0.05)
    assert comparison.lines[0].same_images


def test_every_device_and_metric_has_its_lines(results: Results) -> None:
    rows = (row("bottle", 0.95), row("bottle", 0.8, "pixel_auroc"), row("bottle", 0.7, device="gpu"))
    assert shown(only([ours(results)], literature(*rows))) == [
        ("ascend910", "image_auroc", "bottle", 0.9, 0.95),
        ("ascend910", "pixel_auroc", "bottle", 0.75, 0.8),
        ("gpu", "image_auroc", "bottle", 0.9, 0.7),
    ]


def test_a_mean_is_over_the_categories_in_common_unless_ours_has_all(results: Results) -> None:
    rows = (row("bottle", 0.8), row("tile", 0.6), row("mean", 0.71))
    bottle, tile = ours(results), ours(results, "tile", metrics={"image_auroc": 0.5})
    complete = only([bottle, tile], literature(*rows)).lines[-1]
    assert (complete.category, complete.theirs) == ("mean", 0.71)
    assert complete.ours == pytest.approx(0.7)
    common = only([bottle, tile], literature(*rows[:2])).lines[-1]
    assert common.category == "mean of 2 in common"
    assert (common.ours, common.theirs) == pytest.approx((0.7, 0.7))
    assert [line[2] for line in shown(only([bottle], literature(*rows)))] == ["bottle"]


def test_a_mean_without_our_categories_is_not_compared_with_some_of_them(results: Results) -> None:
    with pytest.raises(
        HarnessError, match=r"image_auroc: published as a mean of 2 categories, ours are bottle"
    ):
        tables.compare([ours(results)], literature(row("mean", 0.71)))


def test_the_mean_of_rates_is_the_rate_of_the_mean_time(results: Results) -> None:
    fast = {"infer_head": Distribution(mean=10, p50=10, p90=0, p95=0, p99=0)}
    records = [ours(results), ours(results, "tile", latency_ms=fast)]
    mean = only(records, literature(row("mean", 7.0, "fps"))).lines[-1]
    assert (mean.category, mean.theirs) == ("mean", 7.0)
    assert mean.ours == pytest.approx(1e3 / 25)


def test_times_of_several_hosts_have_no_mean(results: Results) -> None:
    board = msgspec.structs.replace(HOST, name="board", processor="small")
    records = [ours(results), ours(results, "tile", host=board)]
    rows = (row("bottle", 30.0, "latency_ms_per_image"), row("mean", 7.0, "latency_ms_per_image"))
    comparison = only(records, literature(*rows, row("mean", 0.7)))
    assert [(line[1], line[2]) for line in shown(comparison)] == [
        ("latency_ms_per_image", "bottle"),
        ("image_auroc", "mean"),
    ]
    assert comparison.left_out == ("latency_ms_per_image: no mean, ours are of several devices or machines",)


def test_a_category_that_was_not_measured_is_left_out_with_its_reason(results: Results) -> None:
    failed = ours(results, "tile", status="failed", reason="killed")
    other = ours(results, "weave", status="failed", reason="killed")
    comparison = only([ours(results), failed, other], literature(row("bottle", 0.8), row("tile", 0.6)))
    assert comparison.left_out == ("tile: failed: killed",)
    assert only([ours(results), failed], literature(row("bottle", 0.8))).left_out == ()
    comparisons = tables.compare([ours(results), failed], literature(row("bottle", 0.8), row("mean", 0.6)))
    assert "not compared: tile: failed: killed" in tables.render_comparisons(comparisons, "terminal")


def test_a_value_for_all_categories_is_set_beside_each(results: Results) -> None:
    comparison = only([ours(results), ours(results, "tile")], literature(row("all", 25.0, "fps")))
    assert shown(comparison) == [
        ("ascend910", "fps", "bottle", 25.0, 25.0),
        ("ascend910", "fps", "tile", 25.0, 25.0),
    ]


def test_a_sample_of_a_log_keeps_its_name(results: Results) -> None:
    comparison = only([ours(results)], literature(row("bottle (README log sample)", 0.95)))
    assert comparison.lines[0].category == "bottle (README log sample)"


@pytest.mark.parametrize(("good", "defective", "same"), [(4, 4, True), (4, 5, False), (3, 4, False)])
def test_test_sets_are_told_apart_by_both_counts(
    results: Results, good: int, defective: int, *, same: bool
) -> None:
    data = Data(fingerprint="f" * 64, good=good, defective=defective, masks_cut=0, masks_emptied=0)
    (line,) = only([ours(results, data=data)], literature(row("bottle", 0.8))).lines
    assert line.same_images == same


def test_other_numbers_of_images_are_marked_line_by_line(results: Results) -> None:
    records = [ours(results), ours(results, "tile")]
    comparison = only(records, literature(row("bottle", 0.8), row("tile", 0.6)))
    assert [line.same_images for line in comparison.lines] == [True, False, False]
    text = tables.render_comparisons(tables.compare(records, literature(row("tile", 0.6))), "terminal")
    assert "│ tile ≠ " in text
    assert "≠: of other test images" in text


# --- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        ("image_auroc", 0.9),
        ("image_f1_max", 0.5),
        ("pixel_auroc", 0.75),
        ("pixel_auroc_rounded", 0.75),
        ("latency_ms_per_image", 40),
        ("fps", 25),
        ("ssim_threshold", 1.0),
        ("ok_accuracy", 0.1),
        ("nok_accuracy_rounded", 0.2),
        ("accuracy", 0.3),
        ("train_ms_per_step", 900),
        ("train_ms_per_step_median", 900),
        ("train_loss", 0.25),
        ("train_minutes", 90),
        ("train_hours", 1.5),
        ("params_million", 2.5),
        ("checkpoint_mb", 10),
    ],
)
def test_each_published_metric_meets_its_counterpart(results: Results, metric: str, expected: float) -> None:
    training = {
        "last_loss": 0.25,
        "first_loss": 3.0,
        "step_ms": 900,
        "seconds": 5400,
        "parameters": 2_500_000,
        "checkpoint_bytes": 10_000_000,
    }
    decisions = {"pixel_ok": 0.1, "pixel_nok": 0.2, "pixel_acc": 0.3, "pixel_auc_binary": 0.4}
    record = ours(results, training=training, metrics=METRICS | decisions)
    assert shown(only([record], literature(row("bottle", 1.0, metric))))[0][3] == expected


@pytest.mark.parametrize(
    "metric", ["image_ok_accuracy", "image_nok_accuracy", "image_accuracy", "l1_threshold"]
)
def test_figures_of_images_never_meet_figures_of_pixels(results: Results, metric: str) -> None:
    decisions = {"pixel_ok": 0.1, "pixel_nok": 0.2, "pixel_acc": 0.3}
    rows = (row("bottle", 0.9), row("bottle", 0.9, metric))
    comparison = only([ours(results, metrics=METRICS | decisions)], literature(*rows))
    assert [line.metric for line in comparison.lines] == ["image_auroc"]
    assert comparison.left_out == (f"{metric}: nothing of ours is that",)


@pytest.mark.parametrize(
    ("score", "met"), [("max", "image_auroc_max"), ("top10", "image_auroc_top10"), ("reweighted", None)]
)
def test_an_auroc_of_one_image_score_meets_that_score_alone(
    results: Results, score: str, met: str | None
) -> None:
    rows = [row("bottle", 0.9, "pixel_auroc", model="patchcore")]
    rows += [row("bottle", 0.9, f"image_auroc_{name}", model="patchcore") for name in ("max", "top10")]
    record = ours(results, case={"detector": "patchcore"}, fit=fit_of("patchcore", score=score))
    comparison = only([record], literature(*rows))
    assert [line.metric for line in comparison.lines] == [name for name in ("pixel_auroc", met) if name]
    assert f"(bottle): our image score is {score}" in comparison.left_out[0]


def test_a_score_the_record_does_not_name_meets_no_variant(results: Results) -> None:
    rows = [row("bottle", 0.9, name, model="patchcore") for name in ("pixel_auroc", "image_auroc_max")]
    comparison = only([ours(results, case={"detector": "patchcore"}, fit=None)], literature(*rows))
    assert comparison.left_out == (
        "image_auroc_max (bottle): our image score is one the record does not name",
    )


def test_a_source_may_call_a_metric_by_less_than_it_is(results: Results) -> None:
    rows = [row("bottle", 0.9, name, model="patchcore") for name in ("pixel_auroc", "image_auroc")]
    published = literature(*rows, metrics={"image_auroc": "image_auroc_top10"})
    record = ours(results, case={"detector": "patchcore"}, fit=fit_of("patchcore", score="top10"))
    assert [line.metric for line in only([record], published).lines] == ["pixel_auroc", "image_auroc_top10"]
    record = ours(results, case={"detector": "patchcore"}, fit=fit_of("patchcore", score="max"))
    assert [line.metric for line in only([record], published).lines] == ["pixel_auroc"]


def test_every_published_metric_has_a_counterpart_or_is_known_to_have_none() -> None:
    without = {row.metric for row in published.read().rows} - set(EQUIVALENTS)
    scores = {f"image_auroc_top{count}" for count in (5, 8, 15, 20, 40, 60, 100)}
    scores |= {f"image_auroc_{name}" for name in ("mean", "var", "best_of_all")}
    of_images = {"image_ok_accuracy", "image_nok_accuracy", "image_accuracy"}
    assert without == scores | of_images | {"l1_threshold", "train_ms_per_step_mean"}


def test_a_value_we_do_not_have_is_left_out_with_its_reason(results: Results) -> None:
    record = ours(results, metrics={"image_auroc": 0.9}, undefined={"pixel_auroc": "no pixel is defective"})
    rows = [row("bottle", 0.9, name) for name in ("image_auroc", "pixel_auroc", "train_loss", "ok_accuracy")]
    assert only([record], literature(*rows)).left_out == (
        "pixel_auroc (bottle): no pixel is defective",
        "train_loss (bottle): it was fitted without a training by gradient",
        "ok_accuracy (bottle): the record has no pixel_ok",
    )


# --- differences ------------------------------------------------------------------------------------------------------


def test_differences_name_what_ours_and_theirs(results: Results) -> None:
    records = [ours(results), ours(results, "tile")]
    assert only(records, literature(row("bottle", 0.8), row("tile", 0.6))).differences == (
        "weights: ours ours.pth, theirs theirs.pth",
        "training images: ours 18, theirs 20 (bottle); ours 18, theirs 30 (tile)",
        "crop: ours 224, theirs 200",
        "protocol: ours standard, theirs seed",
        "mask_resize: ours nearest, theirs dilated",
        "test images: ours 4 good and 4 defective of mvtec, theirs 9 good and 9 defective (tile)",
        "resize: ours 256, theirs 300 (tile)",
        "settings: no other than these are stated",
    )


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        (
            {"weights": Weights(source="random", sha256="0" * 64, seed=0)},
            "weights: ours untrained, theirs theirs.pth",
        ),
        ({"fit": fit_of("padim", crop=200)}, None),
        ({"fit": None}, "settings: ours are not in the records (bottle); fit again"),
        (
            {"fit": Fit(dataset="mvtec", images=18)},
            "settings: ours are not in the records (bottle); fit again",
        ),
    ],
)
def test_differences_follow_the_record(results: Results, changes: dict[str, Any], line: str | None) -> None:
    differences = only([ours(results, **changes)], literature(row("bottle", 0.8))).differences
    if line is None:
        assert not [line for line in differences if line.startswith("crop")]
    else:
        assert line in differences


def test_equal_settings_images_and_weights_leave_nothing_to_say(results: Results) -> None:
    record = ours(
        results,
        case={"mask_resize": "dilated"},
        fit=msgspec.structs.replace(fit_of("padim", crop=200, protocol="seed"), images=20),
        weights=Weights(source="theirs.pth", sha256="0" * 64),
    )
    comparison = only([record], literature(row("bottle", 0.8)))
    assert comparison.differences == ("settings: no other than these are stated",)


def test_a_source_that_states_nothing_is_said_to(results: Results) -> None:
    silent = literature(row("bottle", 0.8), settings={}, category={}, weights=None)
    stated = only([ours(results)], silent).differences
    assert "weights: ours ours.pth, theirs not stated" in stated
    assert "settings: the source states none" in stated


def test_the_backbone_is_ours_where_the_source_has_it_and_else_said_to_differ(results: Results) -> None:
    wide = row("bottle", 0.8, backbone="wide_resnet50_2 (racm)")
    comparison = only([ours(results)], literature(wide, row("bottle", 0.7)))
    assert [line.theirs for line in comparison.lines] == [0.7]
    comparison = only([ours(results)], literature(wide))
    assert comparison.backbone == "wide_resnet50_2 (racm)"
    assert comparison.differences[0] == "backbone: ours resnet18, theirs wide_resnet50_2"
    assert "against The paper, wide_resnet50_2 (racm)" in tables.render_comparisons(
        tables.compare([ours(results)], literature(wide)), "terminal"
    )


def test_notes_are_of_the_source_and_of_the_devices_compared(results: Results) -> None:
    assert only([ours(results)], literature(row("bottle", 0.8))).notes == ("three digits",)
    copied = literature(row("bottle", 0.8, device="ascend310"))
    assert only([ours(results)], copied).notes == ("three digits", "a copy")


# --- nothing to compare -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"case": {"detector": "stpm"}}, "published for stpm are no categories, the records are of bottle"),
        ({"status": "failed", "reason": "killed"}, r"nothing was measured \(bottle failed\)"),
        ({"metrics": {}}, r"image_auroc \(bottle\): the record has no image_auroc"),
    ],
)
def test_nothing_to_compare_is_said_with_the_reason(
    results: Results, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(HarnessError, match=rf"^nothing to compare with the published tables: .*{message}"):
        tables.compare([ours(results, **changes)], literature(row("bottle", 0.8)))


def test_a_category_nobody_published_is_said_beside_those_compared(results: Results) -> None:
    records = [ours(results), ours(results, "weave", case={"dataset": "synthetic"})]
    comparisons = tables.compare(records, literature(row("bottle", 0.8)))
    assert len(comparisons.compared) == 1
    assert [reason.partition(": ")[2] for reason in comparisons.reasons] == [
        "published for padim are bottle categories, the records are of weave"
    ]
    assert "not compared: padim resnet18 on synthetic" in tables.render_comparisons(comparisons, "terminal")


def test_a_metric_published_for_other_categories_alone_is_passed_over(results: Results) -> None:
    comparison = only([ours(results)], literature(row("bottle", 0.8), row("tile", 0.6, "pixel_auroc")))
    assert [line.metric for line in comparison.lines] == ["image_auroc"]
    assert comparison.left_out == ()


def test_the_newest_record_of_a_category_is_compared(results: Results) -> None:
    old = ours(results)
    new = ours(
        results, metrics={"image_auroc": 0.4}, finished="2025-02-01T00:00:00+00:00", detector_sha256="c" * 64
    )
    comparison = only([old, new], literature(row("bottle", 0.8)))
    assert shown(comparison)[0][3] == 0.4
    note = "bottle: an older record (2025-01-01T00:00Z) of detector dddddddddddd is not shown, this one is of detector cc"
    assert comparison.notes[0].startswith(note)
    assert note in tables.render_comparisons(
        tables.compare([old, new], literature(row("bottle", 0.8))), "csv"
    )


def test_suites_and_settings_are_compared_apart(results: Results) -> None:
    records = [ours(results), ours(results, case={"suite": "padim"})]
    comparisons = tables.compare(records, literature(row("bottle", 0.8))).compared
    assert [comparison.table.suite for comparison in comparisons] == [None, "padim"]


# --- text -------------------------------------------------------------------------------------------------------------

TERMINAL = """\
padim resnet18 on mvtec · ort · onnx-fp32 · batch 1 · 1 threads against The paper, resnet18
╭───────────┬─────────────┬────────────┬────────┬──────────┬─────────────────╮
│ device    │ metric      │ category   │   ours │   theirs │   ours − theirs │
├───────────┼─────────────┼────────────┼────────┼──────────┼─────────────────┤
│ ascend910 │ image_auroc │ bottle     │ 0.9000 │   0.9500 │         -0.0500 │
│ ascend910 │ fps         │ bottle     │   25.0 │      5.0 │           +20.0 │
╰───────────┴─────────────┴────────────┴────────┴──────────┴─────────────────╯
differs: weights: ours ours.pth, theirs theirs.pth
differs: training images: ours 18, theirs 20
differs: crop: ours 224, theirs 200
differs: protocol: ours standard, theirs seed
differs: mask_resize: ours nearest, theirs dilated
differs: settings: no other than these are stated
note: three digits
not compared: image_accuracy: nothing of ours is that"""

MARKDOWN = """\
**padim resnet18 on mvtec · ort · onnx-fp32 · batch 1 · 1 threads against The paper, resnet18**

| device    | metric      | category   |   ours |   theirs |   ours − theirs |
|:----------|:------------|:-----------|-------:|---------:|----------------:|
| ascend910 | image_auroc | bottle     | 0.9000 |   0.9500 |         -0.0500 |
| ascend910 | fps         | bottle     |   25.0 |      5.0 |           +20.0 |

differs: weights"""

GIVEN = literature(row("bottle", 0.95), row("bottle", 5.0, "fps"), row("bottle", 1.0, "image_accuracy"))


def test_the_terminal_shows_the_numbers_and_all_that_differs(results: Results) -> None:
    assert tables.render_comparisons(tables.compare([ours(results)], GIVEN), "terminal") == TERMINAL


def test_markdown_is_the_same_in_pipes(results: Results) -> None:
    assert tables.render_comparisons(tables.compare([ours(results)], GIVEN), "md").startswith(MARKDOWN)


def test_csv_has_one_line_per_number_and_every_column_once(results: Results) -> None:
    text = tables.render_comparisons(tables.compare([ours(results)], GIVEN), "csv")
    header = text.splitlines()[0].split(",")
    assert len(set(header)) == len(header)
    first, second = csv.DictReader(io.StringIO(text))
    assert (first["device"], first["their_device"]) == ("CPU", "ascend910")
    assert (first["backbone"], first["their_backbone"]) == ("resnet18", "resnet18")
    assert (first["metric"], first["category"], first["same_images"]) == ("image_auroc", "bottle", "True")
    assert (float(first["ours"]), float(first["theirs"])) == (0.9, 0.95)
    assert float(first["difference"]) == 0.9 - 0.95
    assert "crop: ours 224, theirs 200" in second["differences"]


def test_json_holds_everything(results: Results) -> None:
    document = json.loads(tables.render_comparisons(tables.compare([ours(results)], GIVEN), "json"))
    (comparison,) = document["comparisons"]
    assert document["not_compared"] == []
    assert comparison["ours"]["backend"] == "ort"
    assert comparison["theirs"] == {"source": "paper", "title": "The paper", "backbone": "resnet18"}
    assert comparison["lines"][0] == {
        "device": "ascend910",
        "metric": "image_auroc",
        "category": "bottle",
        "ours": 0.9,
        "theirs": 0.95,
        "same_images": True,
        "difference": 0.9 - 0.95,
    }
    assert comparison["left_out"] == ["image_accuracy: nothing of ours is that"]
    assert "crop: ours 224, theirs 200" in comparison["differences"]


# --- the tables that come with the program ----------------------------------------------------------------------------


def test_a_bottle_of_padim_meets_the_model_zoo_and_anomalib(results: Results) -> None:
    comparisons = tables.compare([ours(results)]).compared
    lines: dict[str, list[Line]] = {
        comparison.source.name: list(comparison.lines) for comparison in comparisons
    }
    assert set(lines) == {"seed 000", "anomalib README"}
    assert ("ascend910", "image_auroc", 0.998) in [(x.device, x.metric, x.theirs) for x in lines["seed 000"]]
    assert ("gpu", "image_auroc", 0.994) in [(x.device, x.metric, x.theirs) for x in lines["anomalib README"]]
    zoo = next(comparison for comparison in comparisons if comparison.source.name == "seed 000")
    assert "draw: ours numpy, theirs modelzoo" in zoo.differences
    assert any("is a copy" in note for note in zoo.notes)
