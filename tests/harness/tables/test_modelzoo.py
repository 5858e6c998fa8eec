from __future__ import annotations

import csv
import io
import json
from typing import Any

import pytest

from harness import tables
from harness.contracts import DeviceReport
from harness.detector.training_log import TrainingLog
from harness.errors import HarnessError
from harness.records.record import Distribution, Fit, Record
from harness.tables import Block, Cell
from tests.harness.record_factory import HOST, Results, outputs

TRAINING = {
    "epochs": 100,
    "steps": 700,
    "first_loss": 3.5,
    "last_loss": 0.25,
    "step_ms": 900.0,
    "seconds": 1800.0,
    "parameters": 2_780_000,
    "checkpoint_bytes": 22_300_000,
}
FIT = Fit(
    dataset="mvtec",
    images=189,
    seconds=1850.5,
    finished="2025-03-04T05:06:07+00:00",
    host=HOST,
    settings={"epochs": 100, "batch_size": 32, "micro_batch": None, "layers": ["layer2", "layer3"]},
    software={"mindspore": "2.8.0"},
)


def made(results: Results, backend: str, category: str = "bottle", **changes: Any) -> Record:
    complete = {
        "fit": FIT,
        "training": TRAINING,
        "metrics": {"image_auroc": 0.9, "pixel_auroc": 0.75},
        "device": DeviceReport(device="CPU", runtime={"runtime": "1.2"}, options={}, simulated=False),
        "latency_ms": {"infer_head": Distribution(mean=9, p50=8, p90=0, p95=0, p99=0)},
        "images_per_second": 20.0,
    }
    case = {"category": category, "detector": "stpm"} | changes.pop("case", {})
    return results.add(backend, outputs(), case=case, **{**complete, **changes})


def blocks(*records: Record) -> dict[str, Block]:
    return {block.kind: block for block in tables.blocks(records)}


def values(block: Block, column: int = 0) -> dict[str, str | None]:
    return {label: cells[column].text for label, cells in block.rows.items()}


def test_the_training_block_reads_the_training_and_the_fit(results: Results) -> None:
    block = blocks(made(results, "mindspore-cpu"))["training"]
    assert block.subject == "stpm resnet18 on mvtec"
    assert values(block) == {
        "Model version": "stpm resnet18 on mvtec",
        "Resource": "any, 2 cores; memory 8 GiB; Linux",
        "Date": "2025-03-04",
        "MindSpore version": "2.8.0",
        "Dataset": "mvtec",
        "Training images": "189",
        "Training parameters": "epochs=100, batch_size=32, layers=layer2 layer3",
        "Epochs": "100",
        "Steps": "700",
        "First loss": "3.5",
        "Loss": "0.25",
        "Speed (ms/step)": "900",
        "Training time (s)": "1800",
        "Total time of the fit (s)": "1850.5",
        "Parameters (M)": "2.78",
        "Checkpoint (MB)": "22.3",
    }


def test_categories_are_shown_as_a_range_and_counted_where_some_are_silent(results: Results) -> None:
    other = TRAINING | {"last_loss": 0.5}
    records = [made(results, "mindspore-cpu"), made(results, "mindspore-cpu", "tile", training=other)]
    block = blocks(*records)["training"]
    assert values(block)["Loss"] == "0.25 to 0.5, by category"
    assert values(block)["Epochs"] == "100"
    silent = made(results, "mindspore-cpu", "wood", training=None)
    assert (
        values(blocks(*records, silent)["training"])["Loss"] == "0.25 to 0.5, by category (2 of 3 categories)"
    )
    assert values(blocks(*records, silent)["training"])["Epochs"] == "100 (2 of 3 categories)"


def test_one_training_scored_on_two_backends_is_one(results: Results) -> None:
    records = [made(results, "mindspore-cpu"), made(results, "onnxruntime-cpu", "tile", training=None)]
    assert values(blocks(*records)["training"])["Epochs"] == "100 (1 of 2 categories)"


@pytest.mark.parametrize(
    ("changes", "label", "why"),
    [
        ({"training": None}, "Loss", "fitted without a training by gradient"),
        ({"training": TRAINING | {"last_loss": None}}, "Loss", "the record does not say"),
        ({"training": {"epochs": 1}}, "Parameters (M)", "the record does not say"),
        ({"fit": None}, "Dataset", "the record does not say how the detector was fitted"),
        ({"fit": Fit(dataset="d", images=1)}, "Resource", "the record does not say"),
    ],
)
def test_what_a_record_does_not_say_is_absent_with_the_reason_and_never_zero(
    results: Results, changes: dict[str, Any], label: str, why: str
) -> None:
    (cell,) = blocks(made(results, "mindspore-cpu", **changes))["training"].rows[label]
    assert cell.text is None
    assert cell.why_absent == why


def test_the_training_framework_evaluates_and_other_runtimes_infer(results: Results) -> None:
    shown = blocks(
        *(made(results, name) for name in ("mindspore-cpu", "onnxruntime-cpu", "ascend910", "ascend310"))
    )
    assert shown["evaluation"].columns == (
        "mindspore-cpu onnx-fp32, batch 1, 1 threads",
        "ascend910 onnx-fp32, batch 1, 1 threads",
    )
    assert [column.split()[0] for column in shown["inference"].columns] == ["onnxruntime-cpu", "ascend310"]


def test_a_measured_block_has_a_row_per_category_and_the_average(results: Results) -> None:
    low = {"image_auroc": 0.5}
    records = [
        made(results, "onnxruntime-cpu"),
        made(results, "onnxruntime-cpu", "tile", metrics=low, undefined={"pixel_auroc": "no masks"}),
        made(results, "onnxruntime-cpu", "wood", status="failed", reason="killed", metrics={}, device=None),
    ]
    block = blocks(*records)["inference"]
    assert values(block) == {
        "Model version": "stpm resnet18 on mvtec",
        "Resource": "CPU; any, 2 cores; memory 8 GiB; Linux (2 of 3 categories)",
        "Date": "2025-01-01 (2 of 3 categories)",
        "Runtime": "runtime 1.2 (2 of 3 categories)",
        "Dataset": "mvtec (2 of 3 categories)",
        "batch_size": "1 (2 of 3 categories)",
        "bottle_auc": "img_auc: 0.9000, pixel_auc: 0.7500",
        "tile_auc": "img_auc: 0.5000",
        "wood_auc": None,
        "Average": "img_auc: 0.7000 (of 2), pixel_auc: 0.7500 (of 1)",
        "Speed (ms per image, infer + head)": "8 (2 of 3 categories)",
        "Images per second, all stages": "20 (2 of 3 categories)",
    }
    assert block.rows["tile_auc"][0].why_absent == "pixel_auc no masks"
    assert block.rows["wood_auc"][0].why_absent == "failed: killed"


def test_decisions_are_shown_as_ok_nok_and_acc(results: Results) -> None:
    metrics = {"pixel_auroc": 0.75, "pixel_ok": 0.1, "pixel_nok": 0.2, "pixel_acc": 0.3}
    block = blocks(made(results, "mindspore-cpu", metrics=metrics))["evaluation"]
    assert values(block)["bottle_auc"] == "pixel_auc: 0.7500, ok: 0.1000, nok: 0.2000, acc: 0.3000"
    assert values(block)["Average"] == values(block)["bottle_auc"]


def test_a_category_only_one_backend_has_is_absent_from_the_other(results: Results) -> None:
    records = [made(results, "onnxruntime-cpu"), made(results, "ascend310", "tile")]
    block = blocks(*records)["inference"]
    assert block.rows["tile_auc"][0] == Cell(text=None, why_absent="no record of this category")
    assert block.rows["bottle_auc"][1] == Cell(text=None, why_absent="no record of this category")


def test_a_simulated_device_is_called_that(results: Results) -> None:
    device = DeviceReport(device="Ascend310", runtime={}, options={}, simulated=True)
    block = blocks(made(results, "ascend310", device=device))["inference"]
    assert str(values(block)["Resource"]).startswith("Ascend310 (SIMULATED, not hardware); ")
    assert block.rows["Runtime"][0] == Cell(text=None, why_absent="the record does not say")


def test_no_backend_of_a_kind_is_said(results: Results) -> None:
    shown = blocks(made(results, "onnxruntime-cpu"))
    assert shown["evaluation"].rows == {
        "Records": (Cell(text=None, why_absent="there is no record of a backend of MindSpore"),)
    }
    shown = blocks(made(results, "mindspore-cpu"))
    (cell,) = shown["inference"].rows["Records"]
    assert cell.why_absent == "there is no record of a backend of another runtime than MindSpore"


def test_suites_detectors_and_data_sets_have_blocks_of_their_own(results: Results) -> None:
    cases: list[dict[str, str]] = [{}, {"suite": "stpm"}, {"detector": "padim"}, {"dataset": "visa"}]
    shown = tables.blocks([made(results, "mindspore-cpu", case=case) for case in cases])
    assert [block.subject for block in shown if block.kind == "training"] == [
        "stpm resnet18 on mvtec",
        "stpm resnet18 on mvtec (suite stpm)",
        "padim resnet18 on mvtec",
        "stpm resnet18 on visa",
    ]


def test_no_records_are_no_table() -> None:
    with pytest.raises(HarnessError, match="no records to show"):
        tables.blocks([])


def test_the_newest_record_counts(results: Results) -> None:
    old = made(results, "mindspore-cpu")
    new = made(
        results,
        "mindspore-cpu",
        metrics={"image_auroc": 0.1},
        finished="2025-02-01T00:00:00+00:00",
        detector_sha256="c" * 64,
    )
    shown = blocks(old, new)
    assert values(shown["evaluation"])["bottle_auc"] == "img_auc: 0.1000"
    (note,) = shown["evaluation"].notes
    assert note == (
        "mindspore-cpu onnx-fp32, batch 1, 1 threads: bottle: an older record (2025-01-01T00:00Z) of detector "
        "dddddddddddd is not shown, this one is of detector cccccccccccc"
    )
    assert (shown["training"].notes, shown["inference"].notes) == ((note,), ())
    text = tables.render_blocks(tables.blocks([old, new]), "md")
    assert text.count(note) == 2
    assert note in tables.render_blocks(tables.blocks([old, new]), "json")


def test_columns_that_differ_are_named_by_what_differs(results: Results) -> None:
    cases: list[dict[str, Any]] = [{}, {"mask_resize": "dilated"}, {"mask_threshold": 64}, {"warmup": 9}]
    shown = blocks(*(made(results, "ort", case=case) for case in cases))["inference"]
    usual = "ort onnx-fp32, batch 1, 1 threads"
    named = ("", ", mask resize dilated", ", mask threshold 64", ", warmup 9")
    assert shown.columns == tuple(usual + name for name in named)


def test_columns_of_several_detectors_are_said_to_be(results: Results) -> None:
    records = [
        made(results, "mindspore-cpu", finished="2025-02-01T00:00:00+00:00"),
        made(results, "ort", detector_sha256="c" * 64),
        made(results, "ort", "tile"),
    ]
    settings = "onnx-fp32, batch 1, 1 threads"
    note = (
        f"bottle is of several detectors: dddddddddddd in the training and mindspore-cpu {settings}; "
        f"cccccccccccc in ort {settings}"
    )
    assert {block.notes for block in tables.blocks(records)} == {(note,)}


# --- text -------------------------------------------------------------------------------------------------------------

MARKDOWN = """\
**Evaluation performance: stpm resnet18 on mvtec**

| Parameters    | mindspore-cpu onnx-fp32, batch 1, 1 threads   |
|:--------------|:----------------------------------------------|
| Model version | stpm resnet18 on mvtec                        |
| Resource      | – [1]                                         |
| Date          | – [1]                                         |
| Runtime       | – [1]                                         |
| Dataset       | – [1]                                         |
| batch_size    | – [1]                                         |
| bottle_auc    | – [2]                                         |
| Average       | – [1]                                         |

[1] nothing was measured

[2] failed: killed"""


def test_markdown_numbers_the_reasons_of_what_is_absent(results: Results) -> None:
    failed = made(results, "mindspore-cpu", status="failed", reason="killed", metrics={}, device=None)
    text = tables.render_blocks(tables.blocks([failed]), "md")
    assert MARKDOWN in text
    assert text.startswith("**Training performance: stpm resnet18 on mvtec**")
    assert "**Inference performance: stpm resnet18 on mvtec**" in text


def test_the_terminal_draws_the_three_blocks(results: Results) -> None:
    text = tables.render_blocks(tables.blocks([made(results, "mindspore-cpu")]), "terminal")
    assert [line for line in text.splitlines() if "performance" in line] == [
        f"{kind} performance: stpm resnet18 on mvtec" for kind in ("Training", "Evaluation", "Inference")
    ]
    assert "│ bottle_auc    │ img_auc: 0.9000, pixel_auc: 0.7500" in text


def test_csv_has_a_line_per_value_with_the_reason_of_an_absent_one(results: Results) -> None:
    record = made(results, "mindspore-cpu", training=None)
    lines = list(csv.DictReader(io.StringIO(tables.render_blocks(tables.blocks([record]), "csv"))))
    loss = next(line for line in lines if line["parameter"] == "Loss")
    assert loss == {
        "block": "training",
        "subject": "stpm resnet18 on mvtec",
        "column": "fit",
        "parameter": "Loss",
        "value": "",
        "why_absent": "fitted without a training by gradient",
    }


def test_json_has_values_and_reasons(results: Results) -> None:
    document = json.loads(tables.render_blocks(tables.blocks([made(results, "mindspore-cpu")]), "json"))
    training, evaluation, _ = document["blocks"]
    assert training["rows"]["Epochs"] == [{"value": "100", "why_absent": None}]
    assert evaluation["columns"] == ["mindspore-cpu onnx-fp32, batch 1, 1 threads"]


def test_the_summary_of_a_training_is_what_the_training_block_reads(results: Results) -> None:
    log = TrainingLog(
        losses=(3.5, 0.25),
        unseen_losses=(1.0,),
        step_ms=(900.0, 900.0),
        seconds=1800.0,
        epochs=100,
        kept_epoch=100,
        parameters=2_780_000,
        checkpoint_bytes=22_300_000,
        batch_size=32,
        micro_batch=None,
        workers=1,
        device="cpu",
        precision="fp32",
    )
    shown = values(blocks(made(results, "mindspore-cpu", training=log.summary()))["training"])
    complete = values(blocks(made(results, "mindspore-cpu"))["training"])
    assert shown == complete | {"Steps": "2"}
