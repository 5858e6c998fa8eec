from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np
import pytest

from harness import metrics, registry
from harness.detector import artifact
from harness.detector.preprocess import Preprocessor
from harness.errors import DatasetError
from harness.heads.padim import PadimHead
from harness.heads.resampling import resampling_matrix
from harness.records import record
from harness.records.record import METRICS, STAGES, Record
from harness.run import inputs as inputs_module
from harness.run import pipeline, plan
from harness.run.job import Job
from harness.run.plan import BenchRequest
from harness.types import AnyArray, Float32
from tests.conftest import Tiny, patch_embedding, write_image

pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")


def measured(tiny: Tiny, out: Path, *, batch_size: int = 1, data: Path | None = None) -> Record:
    """The record of one case run in this process."""
    session, job = opened(tiny.request(out, batch_size=batch_size, data=data or tiny.data, force=True))
    return pipeline.run(job, session, load_ms=1.5, advance=list[int]().append)


def opened(request: BenchRequest) -> tuple[Any, Job]:
    """A session for the only case of `request`."""
    (job,) = plan.plan(request).jobs
    return registry.backend("onnxruntime-cpu").open(job.artifact, job.variant, threads=1), job


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("results")


@pytest.fixture(scope="module")
def scored(tiny: Tiny, out: Path) -> Record:
    return measured(tiny, out)


@pytest.fixture
def data(tiny: Tiny, tmp_path: Path) -> Path:
    """A copy of the data set that a test may change; no compared digest contains its name."""
    return Path(shutil.copytree(tiny.data, tmp_path / "data"))


def scores(scored: Record) -> list[float]:
    return [image.score for image in scored.images]


def maps(out: Path, scored: Record) -> Float32:
    evidence = record.read_evidence(out, scored)
    assert evidence is not None
    return evidence.maps


def test_the_record_file_has_every_name_of_the_contract(out: Path, scored: Record) -> None:
    document = msgspec.json.decode((out / record.file_name(scored.case, scored.inputs_sha256)).read_bytes())
    assert {"status", "case", "metrics", "latency_ms", "images_per_second", "detector_sha256"} <= set(
        document
    )
    assert {"detector", "backbone", "category", "backend", "variant"} <= set(document["case"])
    assert set(document["metrics"]) == {
        *("image_auroc", "pixel_auroc", "aupro"),
        *("image_ap", "pixel_ap", "image_f1_max", "pixel_f1_max"),
    }
    assert set(document["latency_ms"]) == {"decode", "preprocess", "infer", "head", "infer_head", "total"}
    for stage in document["latency_ms"].values():
        assert set(stage) == {"mean", "p50", "p90", "p95", "p99"}
    assert document["status"] == "measured"


def test_the_record_says_what_ran_on_what(tiny: Tiny, scored: Record) -> None:
    detector = artifact.read(tiny.artifact)
    assert scored.detector_sha256 == detector.manifest.detector_sha256
    assert scored.model_sha256 == detector.manifest.variants[0].files["onnx-fp32.onnx"]
    assert scored.weights.source == "random"
    assert (scored.case.dataset, scored.case.category, scored.load_ms) == ("data", "widget", 1.5)
    assert scored.device is not None
    assert scored.device.device == "cpu"
    assert scored.data is not None
    assert (scored.data.good, scored.data.defective) == (4, 4)


def test_every_sample_of_every_stage_is_kept(scored: Record) -> None:
    samples = scored.latency_samples_ms
    assert {stage: len(values) for stage, values in samples.items()} == dict.fromkeys(STAGES, 8)
    infer_head = np.add(samples["infer"], samples["head"])
    np.testing.assert_allclose(samples["infer_head"], infer_head, rtol=1e-12)
    total = np.add(samples["decode"], samples["preprocess"]) + infer_head
    np.testing.assert_allclose(samples["total"], total, rtol=1e-12)
    assert scored.latency_ms["total"].p50 == pytest.approx(float(np.median(total)))
    assert scored.images_per_second == pytest.approx(8 / (total.sum() / 1e3))


class Clock:
    """A clock that advances only in the calls that set a duration."""

    def __init__(self) -> None:
        self.now = 0

    def perf_counter_ns(self) -> int:
        return self.now

    def costs(self, milliseconds: int, call: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any) -> Any:
            self.now += milliseconds * 1_000_000
            return call(*arguments)

        return timed


@pytest.mark.parametrize(("batch_size", "infer"), [(1, [6.0] * 8), (3, [2.0] * 6 + [3.0] * 2)])
def test_each_latency_stage_is_timed_separately_and_images_share_their_batchs_time(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch_size: int, infer: list[float]
) -> None:
    clock, session, job = Clock(), *opened(tiny.request(tmp_path, batch_size=batch_size))
    monkeypatch.setattr(pipeline, "time", clock)
    monkeypatch.setattr(inputs_module, "time", clock)
    monkeypatch.setattr(Preprocessor, "decode", staticmethod(clock.costs(1, Preprocessor.decode)))
    monkeypatch.setattr(Preprocessor, "frame", clock.costs(2, Preprocessor.frame))
    monkeypatch.setattr(Preprocessor, "tensor", clock.costs(1, Preprocessor.tensor))
    monkeypatch.setattr(session, "run", clock.costs(6, session.run))
    monkeypatch.setattr(PadimHead, "__call__", clock.costs(12, PadimHead.__call__))
    samples = pipeline.run(job, session, load_ms=0, advance=list[int]().append).latency_samples_ms
    assert samples["decode"] == [1.0] * 8
    assert samples["preprocess"] == [3.0] * 8
    assert samples["infer"] == infer
    assert samples["infer_head"] == [3 * each for each in infer]
    assert samples["total"] == [4 + 3 * each for each in infer]


@pytest.mark.parametrize(("batch_size", "shared"), [(1, [2.0] * 8), (4, [0.5] * 8)])
def test_device_times_are_recorded_if_given_and_shared_by_the_images_of_a_batch(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch_size: int, shared: list[float]
) -> None:
    session, job = opened(tiny.request(tmp_path, batch_size=batch_size))
    times, run = dict[str, float](), session.run
    session.device_ms = times  # changed by every run, as an adapter may

    def timed(batch: Float32) -> Any:
        times.update(h2d=2.0, compute=times.get("compute", 0) + 1, d2h=4.0)
        return run(batch)

    monkeypatch.setattr(session, "run", timed)
    scored = pipeline.run(job, session, load_ms=0, advance=list[int]().append)
    assert scored.latency_samples_ms["h2d"] == shared
    assert scored.latency_samples_ms["d2h"] == [2 * each for each in shared]
    runs = [3 + 1 + index // batch_size for index in range(8)]  # three to warm up
    assert scored.latency_samples_ms["compute"] == [number / batch_size for number in runs]
    assert scored.latency_ms["h2d"].p50 == shared[0]
    assert record.read(record.path_of(tmp_path, scored)) == scored


@pytest.mark.parametrize(("batch_size", "runs", "steps"), [(1, 3 + 8, [1] * 8), (3, 6 + 3, [3, 3, 2])])
def test_warm_up_is_untimed_and_runs_every_batch_shape(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch_size: int, runs: int, steps: list[int]
) -> None:
    session, job = opened(tiny.request(tmp_path, batch_size=batch_size))
    run, shapes, advanced = session.run, list[int](), list[int]()

    def counted(batch: Float32) -> Any:
        shapes.append(len(batch))
        return run(batch)

    monkeypatch.setattr(session, "run", counted)
    scored = pipeline.run(job, session, load_ms=0, advance=advanced.append)
    assert len(shapes) == runs
    assert advanced == steps
    assert set(shapes[: runs - len(steps)]) == set(steps)
    assert scored.first_inference_ms is not None
    assert len(scored.latency_samples_ms["infer"]) == 8


def test_scores_are_those_of_the_plain_formula(tiny: Tiny, out: Path, scored: Record) -> None:
    detector = artifact.read(tiny.artifact)
    ready = Preprocessor(detector.manifest.preprocessing)
    kernels = detector.net()["conv.weight"]

    def embedded(kind: str) -> AnyArray:
        paths = sorted((tiny.data / "widget").glob(kind))
        images = np.stack([ready.tensor(ready.frame(ready.decode(path))) for path in paths])
        return patch_embedding(kernels, images).reshape(len(paths), 6, 64).astype(np.float64)

    train, test = embedded("train/good/*"), embedded("test/*/*")
    distances = np.empty((8, 64))
    for position in range(64):
        covariance = np.cov(train[:, :, position].T) + 0.01 * np.eye(6)
        delta = test[:, :, position] - train[:, :, position].mean(0)
        distances[:, position] = np.sqrt(np.einsum("nd,de,ne->n", delta, np.linalg.inv(covariance), delta))
    blur = resampling_matrix(8, 32, 1.0)
    expected = blur @ distances.reshape(8, 8, 8) @ blur.T
    np.testing.assert_allclose(maps(out, scored), expected, rtol=1e-4)
    np.testing.assert_allclose(scores(scored), expected.max(axis=(1, 2)), rtol=1e-4)


def test_metrics_are_those_of_scores_maps_and_masks_in_the_frame_of_the_map(
    out: Path, scored: Record
) -> None:
    evidence = record.read_evidence(out, scored)
    assert evidence is not None
    labels = np.array([0] * 4 + [1] * 4)
    expected = metrics.merge(
        metrics.image_metrics(np.array(scores(scored)), labels),
        metrics.pixel_metrics(evidence.maps, evidence.masks),
    )
    assert scored.metrics == expected.values
    assert set(scored.metrics) == set(METRICS)
    assert [image.label for image in scored.images] == labels.tolist()
    assert scored.metrics["pixel_auroc"] > 0.95  # a mask out of place would not


def test_masks_are_cropped_as_the_images_are(tiny: Tiny, out: Path, scored: Record) -> None:
    evidence = record.read_evidence(out, scored)
    assert evidence is not None
    stored = cv2.imread(str(tiny.data / "widget/ground_truth/scratch/001_mask.png"), cv2.IMREAD_GRAYSCALE)
    image = cv2.imread(str(tiny.data / "widget/test/scratch/001.png"))
    assert stored is not None
    assert image is not None
    np.testing.assert_array_equal(evidence.masks[5], stored[4:36, 4:36] > 127)
    np.testing.assert_array_equal(evidence.frames[5], image[4:36, 4:36, ::-1])
    assert not evidence.masks[:4].any()


def test_two_runs_give_the_same_bits(tiny: Tiny, tmp_path: Path, out: Path, scored: Record) -> None:
    again = measured(tiny, tmp_path)
    assert scores(again) == scores(scored)
    assert (again.metrics, again.f1_max_thresholds) == (scored.metrics, scored.f1_max_thresholds)
    assert again.inputs_sha256 == scored.inputs_sha256
    assert again.evidence == scored.evidence
    np.testing.assert_array_equal(maps(tmp_path, again), maps(out, scored))


@pytest.mark.parametrize("batch_size", [3, 8, 100])
def test_the_batch_size_changes_no_score(
    tiny: Tiny, tmp_path: Path, out: Path, scored: Record, batch_size: int
) -> None:
    batched = measured(tiny, tmp_path, batch_size=batch_size)
    np.testing.assert_allclose(scores(batched), scores(scored), rtol=1e-6)
    np.testing.assert_allclose(maps(tmp_path, batched), maps(out, scored), rtol=1e-6)
    assert batched.inputs_sha256 != scored.inputs_sha256


def test_masks_that_the_crop_cuts_and_empties_are_counted(tiny: Tiny, tmp_path: Path, data: Path) -> None:
    masks = data / "widget" / "ground_truth" / "scratch"
    edge = np.zeros((40, 40), np.uint8)
    edge[:, :3] = 255
    write_image(masks / "000_mask.png", edge)
    edge[20, 20] = 255
    write_image(masks / "001_mask.png", edge)
    test_data = measured(tiny, tmp_path / "out", data=data).data
    assert test_data is not None
    assert (test_data.masks_cut, test_data.masks_emptied) == (2, 1)


def test_a_mask_whose_size_differs_from_its_image_fails_the_case_and_is_named(
    tiny: Tiny, tmp_path: Path, data: Path
) -> None:
    mask = data / "widget" / "ground_truth" / "scratch" / "002_mask.png"
    write_image(mask, np.full((40, 44), 255, np.uint8))
    (scored,) = plan.run(
        plan.plan(tiny.request(tmp_path / "out", data=data)), timeout=60, report=list[Record]().append
    )
    assert scored.status == "failed"
    assert str(scored.reason).startswith(f"{mask}: the mask is 44x40, but its image")


@pytest.mark.parametrize(("gone", "remaining"), [("scratch", "good"), ("good", "defective")])
def test_one_class_leaves_the_image_metrics_undefined_with_the_reason(
    tiny: Tiny, tmp_path: Path, data: Path, gone: str, remaining: str
) -> None:
    shutil.rmtree(data / "widget" / "test" / gone)
    scored = measured(tiny, tmp_path / "out", data=data)
    assert scored.status == "measured"
    for name in ("image_auroc", "image_ap", "image_f1_max"):
        assert name not in scored.metrics
        assert f"all 4 test images are {remaining}" in scored.undefined[name]
    assert set(scored.metrics) | set(scored.undefined) == set(METRICS)
    assert ("pixel_auroc" in scored.metrics) == (remaining == "defective")


def test_decisions_at_the_frozen_pixel_threshold_are_measured_if_the_head_requests_them(
    tiny: Tiny, tmp_path: Path, scored: Record
) -> None:
    folder = Path(shutil.copytree(tiny.artifact, tmp_path / "widget"))
    manifest = artifact.read(folder).manifest
    rules = {"pixel_decisions": {"opening_radius": 1, "only_defective": True}}
    head = msgspec.structs.replace(manifest.head, parameters=manifest.head.parameters | rules)
    changed = msgspec.structs.replace(manifest, head=head)
    digest = artifact.detector_digest(changed)
    artifact.write_manifest(folder, msgspec.structs.replace(changed, detector_sha256=digest))
    session, job = opened(dataclasses.replace(tiny.request(tmp_path / "out"), artifacts=(folder,)))
    judged = pipeline.run(job, session, load_ms=1.5, advance=list[int]().append)
    evidence = record.read_evidence(tmp_path / "out", judged)
    assert evidence is not None
    assert judged.pixel_decisions == metrics.PixelDecisions(opening_radius=1, only_defective=True)
    labels = np.array([image.label for image in judged.images])
    decided = metrics.decision_metrics(
        evidence.maps, evidence.masks, labels, manifest.thresholds.pixel, judged.pixel_decisions
    )
    assert len(decided.values) == 4
    assert judged.metrics == scored.metrics | decided.values
    assert scored.pixel_decisions is None


def test_one_changed_pixel_changes_only_the_digests_of_its_image(
    tiny: Tiny, tmp_path: Path, data: Path, scored: Record
) -> None:
    path = data / "widget" / "test" / "good" / "001.png"
    pixels = cv2.imread(str(path))
    assert pixels is not None
    pixels[20, 20, 0] ^= 1
    write_image(path, pixels)
    other = measured(tiny, tmp_path / "out", data=data)
    differ = [a.name for a, b in zip(scored.images, other.images, strict=True) if a.stages != b.stages]
    assert differ == ["test/good/001.png"]
    assert all(
        scored.images[1].stages[stage] != other.images[1].stages[stage] for stage in scored.images[1].stages
    )
    assert scored.data is not None
    assert other.data is not None
    assert scored.data.fingerprint != other.data.fingerprint
    assert scored.inputs_sha256 != other.inputs_sha256


def test_a_pixel_outside_the_crop_changes_the_decoded_digest_and_not_the_input(
    tiny: Tiny, tmp_path: Path, data: Path, scored: Record
) -> None:
    path = data / "widget" / "test" / "good" / "001.png"
    pixels = cv2.imread(str(path))
    assert pixels is not None
    pixels[0, 0] ^= 1
    write_image(path, pixels)
    before, after = scored.images[1].stages, measured(tiny, tmp_path / "out", data=data).images[1].stages
    assert {name for name in before if before[name] != after[name]} == {"decode"}


def test_a_test_set_without_images_is_refused_and_named(tiny: Tiny, tmp_path: Path, data: Path) -> None:
    shutil.rmtree(data / "widget" / "test")
    with pytest.raises(DatasetError, match="widget/test: no test images"):
        plan.plan(tiny.request(tmp_path / "out", data=data))


def test_grey_colour_and_16_bit_images_of_any_size_are_scored_together(
    tiny: Tiny, tmp_path: Path, data: Path
) -> None:
    good = data / "widget" / "test" / "good"
    image = cv2.imread(str(good / "000.png"))
    assert image is not None
    write_image(good / "010.png", np.uint16(image) * 257)
    write_image(good / "011.png", cv2.resize(image[:, :, 0], (90, 70)))
    write_image(good / "012.png", np.dstack([image, np.zeros((40, 40), np.uint8)]))
    by_name = {
        image.name: image for image in measured(tiny, tmp_path / "out", batch_size=4, data=data).images
    }
    inputs = [by_name[f"test/good/{name}.png"].stages["input"] for name in ("000", "010", "012", "011")]
    assert inputs[0] == inputs[1] == inputs[2] != inputs[3]
    assert len(by_name) == 11
