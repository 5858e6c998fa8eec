from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import safetensors.numpy

from harness import storage
from harness.errors import RecordError
from harness.records import record
from harness.records.record import EvidenceArrays, Record
from harness.types import AnyArray, Case
from tests.harness.record_factory import Results, outputs


def path_of(results: Results, made: Record) -> Path:
    return results.folder / record.file_name(made.case, made.inputs_sha256)


def edit(path: Path, change: Callable[[Any], object]) -> Path:
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))
    return path


# --- reading and writing ----------------------------------------------------------------------------------------------


def test_a_record_survives_the_disk(results: Results) -> None:
    made = results.add(
        "onnxruntime-cpu",
        outputs(),
        latency_ms={"total": record.Distribution(mean=1, p50=1, p90=2, p95=2, p99=2)},
        latency_samples_ms={"total": [1.0, 2.0]},
        images_per_second=12.5,
        peak_memory_bytes=1 << 33,
    )
    assert record.read(path_of(results, made)) == made
    assert record.read_all(results.folder) == (made,)


def test_an_absent_value_is_absent_and_not_null(results: Results) -> None:
    made = results.add("onnxruntime-cpu", outputs(), undefined={"aupro": "no defective pixel"})
    document = json.loads(path_of(results, made).read_text())
    assert document["undefined"] == {"aupro": "no defective pixel"}
    assert not {"reason", "load_ms", "first_inference_ms", "peak_memory_bytes"} & document.keys()


@pytest.mark.parametrize(
    "change",
    [
        {"metrics": {"image_auroc": math.nan}},
        {"images_per_second": math.inf},
        {"latency_samples_ms": {"infer": [1.0, math.nan]}},
    ],
)
def test_a_record_without_a_number_is_not_written(results: Results, change: dict[str, Any]) -> None:
    made = results.add("onnxruntime-cpu", outputs())
    before = path_of(results, made).read_bytes()
    with pytest.raises(ValueError, match="JSON"):
        record.write(results.folder, msgspec.structs.replace(made, **change))
    assert path_of(results, made).read_bytes() == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r.update(colour="blue"), r"unknown field `colour`"),
        (lambda r: r["case"].update(epochs=3), r"unknown field `epochs` - at `\$\.case`"),
        (lambda r: r["host"].pop("cores"), r"missing required field `cores` - at `\$\.host`"),
        (lambda r: r.pop("detector_sha256"), "missing required field `detector_sha256`"),
        (lambda r: r["images"][3].update(score="high"), r"Expected `float`.* - at `\$\.images\[3\]\.score`"),
        (lambda r: r["metrics"].update(aupro=None), r"got `null` - at `\$\.metrics\[\.\.\.\]`"),
        (lambda r: r.update(status="done"), r"Invalid enum value 'done' - at `\$\.status`"),
        (lambda r: r.update(schema=2, colour="blue"), "schema 2, this harness reads 1"),
    ],
)
def test_a_record_of_another_form_is_refused_with_its_place(
    results: Results, change: Callable[[Any], object], message: str
) -> None:
    path = edit(path_of(results, results.add("onnxruntime-cpu", outputs())), change)
    with pytest.raises(RecordError, match=rf"{path.name}: .*{message}.*; bench the case again"):
        record.read_all(results.folder)


@pytest.mark.parametrize("data", [b"", b"[]", b"\x80\x04K\x01.", b'{"schema": 1, "status": NaN}'])
def test_what_is_not_a_record_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.json").write_bytes(data)
    with pytest.raises(RecordError, match=r"a\.json: not a record of this harness"):
        record.read(tmp_path / "a.json")


def test_a_folder_without_records_says_how_to_make_some(tmp_path: Path) -> None:
    (tmp_path / ".hidden.json").write_text("half written")
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(RecordError, match=f"{folder}: no records here; .* bench --out {folder}"):
            record.read_all(folder)


@pytest.mark.parametrize("status", ["failed", "skipped"])
@pytest.mark.parametrize("measured_first", [True, False])
def test_a_measurement_and_a_failure_stand_beside_each_other(
    results: Results, status: str, *, measured_first: bool
) -> None:
    measured = results.add("onnxruntime-cpu", outputs())
    other = msgspec.structs.replace(measured, status=status, reason="killed", metrics={}, images=())
    if measured_first:
        written = record.write(results.folder, other)
    else:
        path_of(results, measured).unlink()
        written = record.write(results.folder, other)
        record.write(results.folder, measured)
    assert written.name.endswith(f".{status}.json")
    assert record.read(written) == other
    assert record.read(path_of(results, measured)) == measured
    assert len(record.read_all(results.folder)) == 2


# --- names ------------------------------------------------------------------------------------------------------------


CASE = Case(
    detector="padim",
    backbone="resnet18",
    category="bottle",
    backend="onnxruntime-cpu",
    variant="onnx-fp32",
    dataset="mvtec",
)


def test_a_file_is_named_by_its_case_and_the_digest_of_its_inputs() -> None:
    name = record.file_name(CASE, "0123456789abcdef")
    assert name == "padim_resnet18_bottle_onnxruntime-cpu_onnx-fp32_0123456789ab.json"


@pytest.mark.parametrize(
    ("category", "expected"),
    [
        ("metal nut", "metal-nut"),
        ("../../etc/passwd", "..-..-etc-passwd"),
        ("Schraube ü 螺丝", "Schraube-ü-螺丝"),
        ("a|b?c", "a-b-c"),
        ("..", ".."),
        ("tile:1*?", "tile-1-"),
    ],
)
def test_any_category_gives_a_file_in_the_folder(results: Results, category: str, expected: str) -> None:
    made = results.add("onnxruntime-cpu", outputs(), case={"category": category})
    (file,) = results.folder.glob("*.json")
    assert file.name.startswith(f"padim_resnet18_{expected}_onnxruntime-cpu_onnx-fp32_")
    assert record.read_all(results.folder) == (made,)
    assert record.read_evidence(results.folder, made) is not None
    assert len(list(results.folder.iterdir())) == 2  # the record and the folder of evidence


def test_categories_that_read_alike_do_not_share_a_file(results: Results) -> None:
    for category in ("metal nut", "metal-nut", "metal/nut"):
        results.add("onnxruntime-cpu", outputs(), case={"category": category})
    found = record.read_all(results.folder)
    assert {item.case.category for item in found} == {"metal nut", "metal-nut", "metal/nut"}


# --- the newest -------------------------------------------------------------------------------------------------------


def test_the_newest_record_of_every_case_is_kept(results: Results) -> None:
    days = ["2025-01-02", "2025-01-10", "2025-01-09"]
    made = [
        results.add("onnxruntime-cpu", outputs(), finished=f"{day}T00:00:00+00:00", model_sha256=day)
        for day in days
    ]
    others = [
        results.add("onnxruntime-cpu", outputs(), case=change)
        for change in ({"category": "cable"}, {"threads": 2}, {"mask_threshold": 0})
    ]
    found = record.latest((*made, *others))
    assert made[1] in found
    assert sorted(item.case.category for item in found) == ["bottle", "bottle", "bottle", "cable"]
    assert set(map(id, found)) == set(map(id, (made[1], *others)))
    assert record.latest((*others, *reversed(made))) == found


def test_records_of_another_detector_are_kept_beside_each_other(results: Results) -> None:
    made = [results.add("onnxruntime-cpu", outputs(), detector_sha256=name) for name in ("a", "b")]
    assert set(map(id, record.latest(tuple(made)))) == set(map(id, made))


def test_a_newer_failure_supersedes_a_measurement_whatever_its_data(results: Results) -> None:
    measured = results.add("onnxruntime-cpu", outputs(), finished="2025-01-01T00:00:00+00:00")
    failed = results.add(
        "onnxruntime-cpu", outputs(), status="failed", data=None, finished="2025-01-02T00:00:00+00:00"
    )
    assert record.latest((measured, failed)) == (failed,)
    again = msgspec.structs.replace(measured, finished="2025-01-03T00:00:00+00:00")
    assert record.latest((measured, failed, again)) == (again,)


@pytest.mark.parametrize(
    ("edit", "why"),
    [
        ({"finished": "2999"}, "does not say when it was finished"),
        ({"inputs_sha256": "0" * 64}, "its contents belong into"),
        ({"images": "twice"}, "lists an image twice"),
        ({"images": "fewer"}, "counts other images than it lists"),
        ({"evidence": {"file": "evidence/other.safetensors", "sha256": "0"}}, "its evidence is another"),
        ({"case": "control"}, "control characters"),
        ({"latency_samples_ms": {"warp": [1.0]}}, "a stage that nobody knows"),
    ],
)
def test_a_record_that_contradicts_itself_is_refused(
    results: Results, edit: dict[str, Any], why: str
) -> None:
    results.add("onnxruntime-cpu", outputs())
    (file,) = results.folder.glob("*.json")
    document = json.loads(file.read_text())
    images = document["images"]
    values = {
        "twice": [*images[:-1], images[0] | {"label": images[-1]["label"]}],
        "fewer": images[1:],
        "control": document["case"] | {"dataset": "a\nparity passed"},
    }
    (name, value), *_ = edit.items()
    document[name] = values.get(value, value) if isinstance(value, str) else value
    file.write_text(json.dumps(document))
    with pytest.raises(RecordError, match=why):
        record.read(file)


# --- evidence ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("side", [1, 6, 8, 9])
def test_evidence_survives_the_disk(results: Results, side: int, channels: int) -> None:
    random = np.random.default_rng(0)
    given = EvidenceArrays(
        maps=random.random((3, side, side), np.float32),
        masks=random.random((3, side, side)) > 0.5,
        frames=random.integers(0, 256, (3, side, side, channels), np.uint8),
    )
    made = results.add("onnxruntime-cpu", outputs(good=1, defective=2, side=6))
    evidence = record.write_evidence(results.folder, made.case, made.inputs_sha256, given)
    found = record.read_evidence(results.folder, msgspec.structs.replace(made, evidence=evidence))
    assert found is not None
    for name in ("maps", "masks", "frames"):
        np.testing.assert_array_equal(getattr(found, name), getattr(given, name))
        assert getattr(found, name).dtype == getattr(given, name).dtype


def test_evidence_that_is_gone_or_never_was_is_none(results: Results) -> None:
    made = results.add("onnxruntime-cpu", outputs())
    assert record.read_evidence(results.folder, msgspec.structs.replace(made, evidence=None)) is None
    for file in (results.folder / "evidence").iterdir():
        file.unlink()
    assert record.read_evidence(results.folder, made) is None


def test_altered_evidence_is_refused(results: Results) -> None:
    made = results.add("onnxruntime-cpu", outputs())
    (file,) = (results.folder / "evidence").iterdir()
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(bytes(data))
    with pytest.raises(RecordError, match=rf"{file}: altered since .*; bench the case again"):
        record.read_evidence(results.folder, made)


@pytest.mark.parametrize("name", ["../secret", "/etc/hostname", "evidence/../../secret", "link"])
def test_no_evidence_is_read_from_outside_the_folder(results: Results, name: str) -> None:
    made = results.add("onnxruntime-cpu", outputs())
    secret = results.folder.parent / "secret"
    secret.write_text("secret")
    (results.folder / "link").symlink_to(secret)
    outside = record.Evidence(file=name, sha256=storage.sha256_of_file(secret))
    with pytest.raises(RecordError, match="leaves its folder"):
        record.read_evidence(results.folder, msgspec.structs.replace(made, evidence=outside))


GOOD: dict[str, AnyArray] = {
    "maps": np.zeros((8, 6, 6), np.float32),
    "masks": np.zeros((8, 6, 1), np.uint8),
    "frames": np.zeros((8, 6, 6, 3), np.uint8),
}


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("maps", None),
        ("maps", np.zeros((7, 6, 6), np.float32)),
        ("maps", np.zeros((8, 6, 6), np.float64)),
        ("maps", np.zeros((8, 36), np.float32)),
        ("masks", np.zeros((8, 6, 6), np.float32)),
        ("masks", np.zeros((8, 6, 2), np.uint8)),
        ("masks", np.zeros((1, 6, 1), np.uint8)),
        ("frames", np.zeros((8, 6, 6), np.uint8)),
        ("frames", np.zeros((8, 5, 6, 3), np.uint8)),
        ("frames", np.zeros((8, 6, 6, 2), np.uint8)),
        ("frames", np.zeros((8, 6, 6, 4), np.uint8)),
    ],
)
def test_evidence_that_does_not_fit_its_record_is_refused(
    results: Results, name: str, array: AnyArray | None
) -> None:
    made = results.add("onnxruntime-cpu", outputs(good=4, defective=4, side=6))
    arrays = {key: value for key, value in (GOOD | {name: array}).items() if value is not None}
    path = results.folder / "other.safetensors"
    safetensors.numpy.save_file(arrays, path)
    other = record.Evidence(file=path.name, sha256=storage.sha256_of_file(path))
    with pytest.raises(RecordError, match=r"other\.safetensors: .*(not evidence|do not fit 8 images)"):
        record.read_evidence(results.folder, msgspec.structs.replace(made, evidence=other))


def test_evidence_that_cannot_be_read_is_refused(results: Results) -> None:
    made = results.add("onnxruntime-cpu", outputs())
    path = results.folder / "other.safetensors"
    path.write_bytes(b"\x80\x04K\x01.")
    other = record.Evidence(file=path.name, sha256=storage.sha256_of_file(path))
    with pytest.raises(RecordError, match="not evidence of this harness"):
        record.read_evidence(results.folder, msgspec.structs.replace(made, evidence=other))


@pytest.mark.parametrize(
    "change",
    [
        lambda it: it["metrics"].update(image_auroc=0.999),
        lambda it: it["device"].update(device="another device"),
        lambda it: it["thresholds"].update(image=1e9),
        lambda it: it.pop("record_sha256"),
    ],
)
def test_an_edited_record_is_refused(results: Results, change: Callable[[Any], object]) -> None:
    made = results.add("onnxruntime-cpu", outputs())
    edit(path_of(results, made), change)
    with pytest.raises(RecordError, match="edited or renamed: it has another digest, record_sha256"):
        record.read_all(results.folder)


def test_another_layout_of_the_same_document_is_no_edit(results: Results) -> None:
    made = results.add("onnxruntime-cpu", outputs())
    document = json.loads(path_of(results, made).read_text())
    path_of(results, made).write_text(json.dumps(dict(reversed(document.items())), indent=8))
    assert record.read_all(results.folder) == (made,)
