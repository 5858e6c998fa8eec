from __future__ import annotations

import csv
import io
import json

import msgspec
import pytest

from harness import tables
from harness.contracts import DeviceReport
from harness.records.record import DEVICE_STAGES, Data, Distribution, Record, Source
from tests.harness.record_factory import HOST, Results, outputs

TOTAL = Distribution(mean=9, p50=10.04, p90=12, p95=15, p99=20.26)
INFER = Distribution(mean=4, p50=4, p90=5, p95=6, p99=7)


@pytest.fixture
def records(results: Results) -> tuple[Record, ...]:
    """One measured with masks cut by the crop, one with an undefined metric, one failed; not sorted."""
    device = DeviceReport(device="Ascend910", runtime={}, options={}, simulated=True)
    data = Data(fingerprint="f", good=4, defective=4, masks_cut=0, masks_emptied=0)
    blank = {
        "device": device,
        "data": data,
        "metrics": {},
        "undefined": {},
        "latency_ms": {"total": TOTAL, "infer": INFER},
        "images_per_second": 100.0,
    }
    cut = blank | {
        "data": msgspec.structs.replace(data, masks_cut=3, masks_emptied=1),
        "metrics": {"image_auroc": 1.0, "pixel_auroc": 0.98765, "aupro": 0.9, "image_ap": 0.5},
    }
    undefined = blank | {
        "metrics": {"image_auroc": 0.5, "pixel_auroc": 0.5},
        "undefined": {"aupro": "no defective pixel"},
    }
    failed = blank | {
        "status": "failed",
        "reason": "killed by SIGKILL",
        "device": None,
        "data": None,
        "latency_ms": {},
        "images_per_second": None,
    }
    fields = {"screw": failed, "bottle": cut, "metal|nut": undefined}
    return tuple(
        results.add("ascend910", outputs(), case={"category": name, "batch_size": 2}, **changes)
        for name, changes in fields.items()
    )


TERMINAL = """\
padim resnet18 on mvtec · ascend910 (SIMULATED, not hardware) · onnx-fp32
device Ascend910 · batch 2 · 1 threads · ms per image for decode + preprocess + infer + head
╭──────────────────┬───────────────┬───────────────┬───────────────┬──────────┬──────────┬──────────┬────────────╮
│ category         │   image AUROC │   pixel AUROC │         AUPRO │   p50 ms │   p90 ms │   p99 ms │   images/s │
├──────────────────┼───────────────┼───────────────┼───────────────┼──────────┼──────────┼──────────┼────────────┤
│ bottle [1]       │        1.0000 │        0.9877 │        0.9000 │     10.0 │     12.0 │     20.3 │      100.0 │
│ metal|nut [2]    │        0.5000 │        0.5000 │             – │     10.0 │     12.0 │     20.3 │      100.0 │
│ screw [3]        │             – │             – │             – │        – │        – │        – │          – │
├──────────────────┼───────────────┼───────────────┼───────────────┼──────────┼──────────┼──────────┼────────────┤
│ mean of 2 (of 3) │        0.7500 │        0.7438 │ 0.9000 (of 1) │     10.0 │     12.0 │     20.3 │      100.0 │
╰──────────────────┴───────────────┴───────────────┴───────────────┴──────────┴──────────┴──────────┴────────────╯
[1] bottle: the crop cuts 3 of 4 masks and empties 1
[2] metal|nut: AUPRO undefined: no defective pixel
[3] screw: failed: killed by SIGKILL"""

MARKDOWN = """\
**padim resnet18 on mvtec · ascend910 (SIMULATED, not hardware) · onnx-fp32**

device Ascend910 · batch 2 · 1 threads · ms per image for decode + preprocess + infer + head

| category         |   image AUROC |   pixel AUROC |         AUPRO |   p50 ms |   p90 ms |   p99 ms |   images/s |
|:-----------------|--------------:|--------------:|--------------:|---------:|---------:|---------:|-----------:|
| bottle [1]       |        1.0000 |        0.9877 |        0.9000 |     10.0 |     12.0 |     20.3 |      100.0 |
| metal\\|nut [2]   |        0.5000 |        0.5000 |             – |     10.0 |     12.0 |     20.3 |      100.0 |
| screw [3]        |             – |             – |             – |        – |        – |        – |          – |
| mean of 2 (of 3) |        0.7500 |        0.7438 | 0.9000 (of 1) |     10.0 |     12.0 |     20.3 |      100.0 |

[1] bottle: the crop cuts 3 of 4 masks and empties 1

[2] metal|nut: AUPRO undefined: no defective pixel

[3] screw: failed: killed by SIGKILL"""

CSV = """\
detector,backbone,dataset,backend,variant,batch_size,threads,warmup,mask_threshold,mask_resize,suite,source,stage,\
weights,device,host,simulated,category,status,\
image_auroc,pixel_auroc,aupro,p50,p90,p99,images_per_second,note
padim,resnet18,mvtec,ascend910,onnx-fp32,2,1,3,127,nearest,,,total,\
random,Ascend910,bench (any),True,bottle,measured,1.0,0.98765,0.9,10.04,12,20.26,100.0,the crop cuts 3 of 4 masks and empties 1
padim,resnet18,mvtec,ascend910,onnx-fp32,2,1,3,127,nearest,,,total,\
random,Ascend910,bench (any),True,metal|nut,measured,0.5,0.5,,10.04,12,20.26,100.0,AUPRO undefined: no defective pixel
padim,resnet18,mvtec,ascend910,onnx-fp32,2,1,3,127,nearest,,,total,\
random,,bench (any),True,screw,failed,,,,,,,,failed: killed by SIGKILL"""

MEAN = {
    "image_auroc": {"value": 0.75, "over": 2, "of": 3},
    "pixel_auroc": {"value": 0.743825, "over": 2, "of": 3},
    "aupro": {"value": 0.9, "over": 1, "of": 3},
    "p50": {"value": 10.04, "over": 2, "of": 3},
    "p90": {"value": 12, "over": 2, "of": 3},
    "p99": {"value": 20.26, "over": 2, "of": 3},
    "images_per_second": {"value": 100.0, "over": 2, "of": 3},
}


@pytest.mark.parametrize(("kind", "expected"), [("terminal", TERMINAL), ("md", MARKDOWN), ("csv", CSV)])
def test_the_text_is_as_written_here(records: tuple[Record, ...], kind: tables.Format, expected: str) -> None:
    assert tables.render(tables.tables(records), kind) == expected


def test_the_json_document_holds_settings_rows_and_means(records: tuple[Record, ...]) -> None:
    (table,) = json.loads(tables.render(tables.tables(records), "json"))["tables"]
    assert table.pop("mean") == MEAN
    bottle, nut, screw = table.pop("rows")
    assert table == {
        "detector": "padim",
        "backbone": "resnet18",
        "dataset": "mvtec",
        "backend": "ascend910",
        "variant": "onnx-fp32",
        "batch_size": 2,
        "threads": 1,
        "warmup": 3,
        "mask_threshold": 127,
        "mask_resize": "nearest",
        "suite": None,
        "source": None,
        "stage": "total",
        "weights": "random",
        "device": "Ascend910",
        "host": "bench (any)",
        "simulated": True,
        "notes": [],
    }
    assert (bottle["device"], bottle["host"]) == ("Ascend910", "bench (any)")
    speed = {"p50": 10.04, "p90": 12, "p99": 20.26, "images_per_second": 100.0}
    assert bottle["values"] == {"image_auroc": 1.0, "pixel_auroc": 0.98765, "aupro": 0.9} | speed
    assert nut["values"] == {"image_auroc": 0.5, "pixel_auroc": 0.5} | speed
    assert screw == {
        "category": "screw",
        "status": "failed",
        "device": None,
        "host": "bench (any)",
        "values": {},
        "note": "failed: killed by SIGKILL",
    }


def test_latencies_are_of_the_stage_asked_for(records: tuple[Record, ...]) -> None:
    (table,) = tables.tables(records, stage="infer")
    assert "ms per image for infer" in table.setting
    assert [table.rows[0].values[name] for name in tables.LATENCIES] == [4, 5, 7]
    (table,) = tables.tables(records, stage="head")
    assert not set(tables.LATENCIES) & table.means().keys()


def test_a_mean_says_of_how_many(records: tuple[Record, ...]) -> None:
    complete = [record for record in records if record.case.category == "bottle"]
    assert "│ mean of 1  " in tables.render(tables.tables(complete), "terminal")
    failed = [record for record in records if record.status == "failed"]
    assert "│ mean of 0 (of 1) " in tables.render(tables.tables(failed), "terminal")


@pytest.mark.parametrize(
    ("name", "value", "distinguished"),
    [
        ("detector", "patchcore", "patchcore resnet18"),
        ("backbone", "wide_resnet50_2", "padim wide_resnet50_2"),
        ("dataset", "visa", "on visa"),
        ("backend", "onnxruntime-cpu", "onnxruntime-cpu"),
        ("variant", "mindir-fp16", "mindir-fp16"),
        ("batch_size", 7, "batch 7"),
        ("threads", 5, "5 threads"),
        ("warmup", 9, "warmup 9"),
        ("mask_threshold", 0, "mask threshold 0"),
        ("mask_resize", "dilated", "mask resize dilated"),
        ("suite", "padim", "suite padim"),
    ],
)
def test_records_that_differ_in_more_than_the_category_do_not_share_a_table(
    records: tuple[Record, ...], name: str, value: object, distinguished: str
) -> None:
    case = msgspec.structs.replace(records[1].case, **{name: value})
    first, second = tables.tables([*records, msgspec.structs.replace(records[1], case=case)])
    assert (len(first.rows), len(second.rows)) == (3, 1)
    assert distinguished not in f"{first.title} {first.setting}"
    assert distinguished in f"{second.title} {second.setting}"


def test_a_table_of_several_weights_or_devices_names_them_all(records: tuple[Record, ...]) -> None:
    weights = msgspec.structs.replace(records[2].weights, source="imagenet.safetensors")
    device = DeviceReport(device="CPU", runtime={}, options={}, simulated=False)
    mixed = [records[1], msgspec.structs.replace(records[2], weights=weights, device=device)]
    (table,) = tables.tables(mixed)
    assert table.weights == "imagenet.safetensors, random"
    assert table.device == "Ascend910, CPU"
    assert table.simulated


@pytest.mark.parametrize(
    ("name", "nodes", "shown"),
    [
        ("cpu", {}, "cpu"),
        ("cpu", {"CPUExecutionProvider": 42}, "cpu"),
        ("cpu", {"OpenVINO": 44, "CPU": 2}, "cpu (44 of 46 nodes, 2 on CPU)"),
        ("cuda:0", {}, "cuda:0"),
        ("cuda:0", {"CUDA": 57}, "cuda:0 (57 of 57 nodes)"),
        ("cuda:0", {"TensorRT": 3, "CPU": 5, "CUDA": 2}, "cuda:0 (3 of 10 nodes, 5 on CPU, 2 on CUDA)"),
    ],
)
def test_a_table_shows_how_much_of_the_graph_the_device_ran(
    records: tuple[Record, ...], name: str, nodes: dict[str, int], shown: str
) -> None:
    device = DeviceReport(device=name, runtime={}, options={}, simulated=False, nodes=nodes)
    (table,) = tables.tables([msgspec.structs.replace(records[1], device=device)])
    assert table.setting.startswith(f"device {shown} · batch")


def test_csv_keeps_reasons_of_any_form_and_every_digit(records: tuple[Record, ...]) -> None:
    reason = 'worker said "no",\nthen died'
    changed = [
        msgspec.structs.replace(records[0], reason=reason),
        msgspec.structs.replace(records[1], metrics={"aupro": 0.1 + 0.2}),
    ]
    rows = list(csv.DictReader(io.StringIO(tables.render(tables.tables(changed), "csv"))))
    assert rows[1]["note"] == f"failed: {reason}"
    assert float(rows[0]["aupro"]) == 0.1 + 0.2
    assert rows[1]["aupro"] == ""


def test_decisions_have_columns_in_the_tables_of_detectors_that_are_judged_by_them(
    records: tuple[Record, ...],
) -> None:
    (record,) = tables.tables(records)
    assert not set(tables.DECISIONS) & set(record.columns)
    decided = {"pixel_ok": 0.25, "pixel_nok": 0.75, "pixel_acc": 0.5}
    judged = [
        msgspec.structs.replace(record, metrics=record.metrics | (decided if record.metrics else {}))
        for record in records
    ]
    (other,) = tables.tables(judged)
    text = tables.render([other], "terminal")
    assert "│   pixel ok │   pixel nok │   pixel acc │" in text
    assert "binary" not in text
    line = next(line for line in text.splitlines() if "bottle" in line)
    assert line.split("│")[5:8] == ["     0.2500 ", "      0.7500 ", "      0.5000 "]
    assert other.means()["pixel_nok"] == (0.75, 2)
    rows = list(csv.DictReader(io.StringIO(tables.render([record, other], "csv"))))
    assert {row["pixel_ok"] for row in rows} == {"", "0.25"}


@pytest.mark.parametrize("stage", DEVICE_STAGES)
def test_times_of_the_device_have_their_table_and_a_word_where_there_are_none(
    results: Results, stage: str
) -> None:
    timed_records = (
        results.add("ascend310", outputs(), latency_ms={"infer": INFER, stage: TOTAL}),
        results.add("onnxruntime-cpu", outputs(), latency_ms={"infer": INFER}),
    )
    one, two = tables.tables(timed_records, stage=stage)
    assert (one.rows[0].values["p50"], one.rows[0].note) == (10.04, None)
    assert f"{stage} (" in one.setting
    assert "p50" not in two.rows[0].values
    assert two.rows[0].note == f"no times of {stage}: onnxruntime-cpu does not give them"


def test_a_table_says_what_was_played(results: Results) -> None:
    played_record = results.add(
        "replay",
        outputs(),
        case={"source": "ascend310"},
        latency_ms={"head": INFER},
        source=Source(outputs_sha256="0" * 64),
    )
    (table,) = tables.tables([played_record])
    assert "replay (ascend310) · onnx-fp32" in table.title
    assert table.rows[0].note == "no times of total: not measured here, its outputs came from files"


def test_the_mean_of_rates_is_the_rate_of_the_mean_time(records: tuple[Record, ...]) -> None:
    slow = msgspec.structs.replace(records[2], images_per_second=1.0)  # 1000 ms an image, the other 10 ms
    (table,) = tables.tables([records[1], slow])
    assert table.means()["images_per_second"][0] == pytest.approx(1e3 / 505)
    assert table.means()["image_auroc"] == (0.75, 2)


BOARD = msgspec.structs.replace(HOST, name="board", processor="small")
CPU = DeviceReport(device="CPU", runtime={}, options={}, simulated=False)


@pytest.mark.parametrize(
    ("moved", "place", "setting"),
    [
        (
            {"host": BOARD},
            "Ascend910 on board (small)",
            "device Ascend910 · hosts bench (any), board (small)",
        ),
        ({"device": CPU}, "CPU on bench (any)", "device Ascend910, CPU · batch"),
    ],
)
def test_times_of_several_devices_or_hosts_have_no_mean_and_every_row_its_place(
    records: tuple[Record, ...], moved: dict[str, object], place: str, setting: str
) -> None:
    table_shown = tables.tables([records[1], msgspec.structs.replace(records[2], **moved)])
    (table,) = table_shown
    assert table.means().keys() == {"image_auroc", "pixel_auroc", "aupro"}
    assert table.setting.replace("board (small), bench (any)", "bench (any), board (small)").startswith(
        setting
    )
    text = tables.render(table_shown, "terminal")
    assert "no mean of times: they are of several devices or machines" in text
    cells = [[cell.strip() for cell in line.split("│")] for line in text.splitlines()]
    assert [row[2] for row in cells if len(row) > 2] == ["measured on", "Ascend910 on bench (any)", place, ""]
    (mean,) = [row for row in cells if row[1:2] == ["mean of 2"]]
    assert mean[-5:-1] == ["–", "–", "–", "–"]
    rows = list(csv.DictReader(io.StringIO(tables.render(table_shown, "csv"))))
    assert [f"{row['device']} on {row['host']}" for row in rows] == ["Ascend910 on bench (any)", place]
    (document,) = json.loads(tables.render(table_shown, "json"))["tables"]
    assert "p50" not in document["mean"]
    assert document["notes"] == list(table.notes)


def test_a_row_without_times_elsewhere_takes_no_mean_away(records: tuple[Record, ...]) -> None:
    scored = msgspec.structs.replace(records[2], host=BOARD, latency_ms={}, images_per_second=None)
    (table,) = tables.tables([records[1], scored])
    assert table.means()["p50"] == (10.04, 1)
    assert table.notes == ()
    failed = msgspec.structs.replace(records[0], host=BOARD)
    (table,) = tables.tables([records[1], failed])
    assert "measured on" not in tables.render([table], "terminal")
    assert "hosts bench (any), board (small)" in table.setting


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {"detector_sha256": "c" * 64},
            " of detector dddddddddddd is not shown, this one is of detector cccccccccccc",
        ),
        (
            {"data": Data(fingerprint="9" * 64, good=4, defective=4, masks_cut=0, masks_emptied=0)},
            " of test images ffffffffffff is not shown, this one is of test images 999999999999",
        ),
        (
            {"data": None, "detector_sha256": "c" * 64},
            (
                " of detector dddddddddddd and test images ffffffffffff is not shown, "
                "this one is of detector cccccccccccc and unknown test images"
            ),
        ),
        ({}, " is not shown"),
    ],
)
def test_of_an_older_record_it_is_said_what_really_differs(
    results: Results, changes: dict[str, object], expected: str
) -> None:
    old = results.add("cpu", outputs(), device=CPU, host=BOARD)
    new = msgspec.structs.replace(old, host=HOST, finished="2025-02-01T00:00:00+00:00", **changes)
    (table,) = tables.tables([old, new])
    assert table.rows[0].note == f"an older record (2025-01-01T00:00Z){expected}"
    assert table.host == "bench (any)"  # of what is shown
