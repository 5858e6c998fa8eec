"""One case from its first image to its finished record: the pipeline, top to bottom.

`Case → Sample → batch → {name: array} → Scores → Metrics → Record`. It runs inside a worker process of its own
(`harness.run.worker`), whose environment and cores are already set.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from harness import datasets, machine, metrics, registry, storage
from harness.detector.preprocess import Preprocessor
from harness.errors import DatasetError, HarnessError, RecordError
from harness.records import batches, outputs, record
from harness.records.outputs import Reader
from harness.records.record import DEVICE_STAGES, Data, EvidenceArrays, ImageResult, Record, StoredOutputs
from harness.run import inputs, replay
from harness.run.job import GRAPH, Job, blank, now
from harness.types import AnyArray, Float32, Sample, UInt8

if TYPE_CHECKING:
    from harness.contracts import Head, Session

Advance = Callable[[int], None]
Save = Callable[[Mapping[str, AnyArray], AnyArray | None], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Results:
    """Results of all images, in the order of the test images; times in ms per image."""

    maps: list[Float32] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    frames: list[UInt8] = field(default_factory=list)
    digests: list[dict[str, str]] = field(default_factory=list)
    decode: list[float] = field(default_factory=list)
    preprocess: list[float] = field(default_factory=list)
    infer: list[float] = field(default_factory=list)
    head: list[float] = field(default_factory=list)
    device: list[dict[str, float]] = field(default_factory=list)


def run(
    job: Job, session: Session, *, load_ms: float | None, advance: Advance, saved: Reader | None = None
) -> Record:
    """Score every test image through `session`, and write record and evidence.

    Args:
        job: The case.
        session: Runs the network; closed at the end.
        load_ms: Time that opening it took.
        advance: Called with the number of images just scored.
        saved: The outputs that `session` replays, if any: inference is then neither warmed up nor timed.

    Raises:
        DatasetError: an image or mask is wrong, or was changed during the measurement.
        HarnessError: an anomaly map is not finite.
    """
    unmeasured = blank(job, now())  # before the first image: it runs git and reads the system
    factory = registry.head(job.head)
    state = job.artifact.state() if job.head != GRAPH else {}
    head = factory(job.artifact.manifest.head.parameters, state, threads=job.case.threads)
    source, ground_truth = sources(job, saved)
    first_inference_ms = warm_up(job, session, source, head) if saved is None else None
    results = _Results()
    with _saving(job, source) as save:
        for start in range(0, len(job.category.test), job.case.batch_size):
            samples = job.category.test[start : start + job.case.batch_size]
            images = source.batch(start, start + len(samples))
            rows, network_outputs = _score(samples, images, session, head, results)
            save(network_outputs, rows if factory.scores_input else None)
            if images[0].size is not None:
                ground_truth.require_fit(samples, [image.size for image in images if image.size])
            advance(len(samples))
    session.close()
    if job.replayed is None and datasets.fingerprint(job.category, "test") != job.fingerprint:
        raise DatasetError(
            f"{job.category.root}: test images or masks were changed while they were measured: bench again"
        )
    measured = msgspec.structs.replace(
        _with_results(unmeasured, job, results, ground_truth, timed=saved is None),
        device=session.report,
        load_ms=load_ms,
        first_inference_ms=first_inference_ms,
        outputs=_saved_outputs(job),
        peak_memory_bytes=machine.peak_memory_bytes(),
        model_bytes=_model_bytes(job) if saved is None else None,
        finished=now(),
    )
    record.write(job.out, measured)
    return measured


def score_saved(job: Job, *, advance: Advance) -> Record:
    """Score the saved outputs of `job` instead of running the network.

    Raises:
        RecordError: they were altered, or belong to other images.
    """
    assert job.outputs is not None  # noqa: S101 - true of every such job
    assert job.source is not None  # noqa: S101
    saved = Reader(job.outputs, str(job.source.outputs_sha256))
    if len(saved.rows) != len(job.category.test):
        raise RecordError(
            f"{job.outputs}: outputs of {len(saved.rows)} images, the test set has {len(job.category.test)}"
        )
    session = registry.load("backends.replay:play")(saved, job.outputs_device)
    return run(job, session, load_ms=None, advance=advance, saved=saved)


def sources(job: Job, saved: Reader | None) -> tuple[inputs.ImageSource, inputs.GroundTruth]:
    """Network inputs and ground truth, from the data set or from the replayed record."""
    if job.replayed is not None:
        assert saved is not None  # noqa: S101 - a replay has saved outputs
        return replay.sources(job.replayed, saved)
    manifest = job.artifact.manifest
    preprocessor = Preprocessor(manifest.preprocessing, until=job.variant.input_stage)
    height, width = manifest.head.parameters["map_size"]
    ground_truth = inputs.read_ground_truth(job.category, job.case, preprocessor, map_size=(height, width))
    if job.inputs is None:
        return inputs.FromImages(job.category.test, preprocessor), ground_truth
    folder = batches.read(job.inputs)
    batches.require_for(folder, job.artifact, job.variant, job.fingerprint)
    return inputs.FromBatches(job.category.test, preprocessor, folder), ground_truth


def warm_up(job: Job, session: Session, source: inputs.ImageSource, head: Head) -> float:
    """Run every batch shape that will occur, untimed; return the time of the very first inference in ms."""
    rows = source.first()
    count, size = len(job.category.test), job.case.batch_size
    shapes = sorted({min(size, count - start) for start in range(0, count, size)}, reverse=True)
    durations_ms = []
    for images in shapes:
        batch = np.concatenate([rows] * images)
        for _ in range(max(1, job.case.warmup)):
            begin = time.perf_counter_ns()
            network_outputs = session.run(batch)
            durations_ms.append((time.perf_counter_ns() - begin) / 1e6)
            head(batch, network_outputs)
    return durations_ms[0]


@contextlib.contextmanager
def _saving(job: Job, source: inputs.ImageSource) -> Iterator[Save]:
    """Give a function that saves each batch's outputs, and the inputs if the head needs them; it may do nothing."""
    if not job.save_outputs:
        yield lambda *_: None
        return
    path = job.out / record.outputs_name(job.case, job.inputs_sha256)
    with storage.replacing(path) as temporary, temporary.open("wb") as file:
        writer = outputs.Writer(file, source.rows)
        yield writer.add
        writer.finish()


def _score(
    samples: Sequence[Sample],
    images: Sequence[inputs.Image],
    session: Session,
    head: Head,
    results: _Results,
) -> tuple[AnyArray, dict[str, AnyArray]]:
    """Time inference and head of one batch; return the rows that went in and the network's outputs."""
    begin = time.perf_counter_ns()
    batch = np.concatenate([image.rows for image in images])
    network_outputs = session.run(batch)
    inferred = time.perf_counter_ns()
    scores = head(batch, network_outputs)
    end = time.perf_counter_ns()
    count = len(samples)
    results.infer.extend([(inferred - begin) / 1e6 / count] * count)
    results.head.extend([(end - inferred) / 1e6 / count] * count)
    device_ms = {stage: duration_ms / count for stage, duration_ms in session.device_ms.items()}
    results.device.extend([device_ms] * count)
    for image in images:
        results.frames.append(image.frame)
        results.digests.append(image.stages)
        results.decode.extend([] if image.decode_ms is None else [image.decode_ms])
        results.preprocess.extend([] if image.preprocess_ms is None else [image.preprocess_ms])
    _require_finite(scores.maps, samples)
    results.maps.extend(scores.maps)
    results.scores.extend(float(score) for score in scores.images)
    return batch, network_outputs


def _require_finite(maps: Float32, samples: Sequence[Sample]) -> None:
    for sample, score_map in zip(samples, maps, strict=True):
        if not np.isfinite(score_map).all():
            raise HarnessError(
                f"{sample.path}: its anomaly map holds NaN or infinite values: the model overflowed"
            )


def _with_results(
    unmeasured: Record, job: Job, results: _Results, ground_truth: inputs.GroundTruth, *, timed: bool
) -> Record:
    """The record with images, metrics, latency and evidence; `timed` if the network ran."""
    samples, masks = job.category.test, ground_truth.masks
    maps = np.stack(results.maps)
    labels = np.array([sample.label for sample in samples])
    defective = labels == 1
    values = metrics.merge(
        metrics.image_metrics(np.array(results.scores), labels), metrics.pixel_metrics(maps, masks)
    )
    rules = unmeasured.pixel_decisions
    if rules is not None:
        threshold = unmeasured.thresholds.pixel
        values = metrics.merge(values, metrics.decision_metrics(maps, masks, labels, threshold, rules))
    latency = latency_stages(
        results.decode,
        results.preprocess,
        results.infer if timed else (),
        results.head,
        results.device,
    )
    arrays = EvidenceArrays(maps=maps, masks=masks, frames=np.stack(results.frames))
    return msgspec.structs.replace(
        unmeasured,
        status="measured",
        data=Data(
            fingerprint=job.fingerprint,
            good=int((~defective).sum()),
            defective=int(defective.sum()),
            masks_cut=ground_truth.cut,
            masks_emptied=int(np.sum(defective & ~masks.any(axis=(1, 2)))),
        ),
        images=tuple(
            ImageResult(name=sample.name, label=sample.label, score=score, stages=digests)
            for sample, score, digests in zip(samples, results.scores, results.digests, strict=True)
        ),
        metrics=values.values,
        f1_max_thresholds=values.thresholds,
        undefined=values.undefined,
        latency_ms={stage: record.distribution(times) for stage, times in latency.items()},
        latency_samples_ms=dict(latency),
        images_per_second=1e3 * len(samples) / sum(latency["total"]) if "total" in latency else None,
        evidence=record.write_evidence(job.out, job.case, job.inputs_sha256, arrays),
    )


def latency_stages(
    decode: Sequence[float],
    preprocess: Sequence[float],
    infer: Sequence[float],
    head: Sequence[float],
    device: Sequence[Mapping[str, float]] = (),
) -> Mapping[str, list[float]]:
    """Latency stages of `harness.records.record.STAGES` and `DEVICE_STAGES` from the measured ones, in ms per image.

    An empty sequence was not measured. A sum is left out if one of its summands is, and a stage of `device` if it is not
    there for every image.
    """
    measured = {"decode": decode, "preprocess": preprocess, "infer": infer, "head": head}
    stages = {name: list(times) for name, times in measured.items() if times}
    if infer:
        stages["infer_head"] = [a + b for a, b in zip(infer, head, strict=True)]
    if infer and decode:
        stages["total"] = [
            a + b + c for a, b, c in zip(decode, preprocess, stages["infer_head"], strict=True)
        ]
    for name in DEVICE_STAGES:
        if device and all(name in times for times in device):
            stages[name] = [times[name] for times in device]
    return stages


def _saved_outputs(job: Job) -> StoredOutputs | None:
    """The outputs beside the record: just saved, or gathered there by `score`."""
    name = record.outputs_name(job.case, job.inputs_sha256)
    if not job.save_outputs and job.outputs != job.out / name:
        return None
    return StoredOutputs(file=name, sha256=storage.sha256_of_file(job.out / name), variant=job.variant)


def _model_bytes(job: Job) -> int:
    return sum((job.artifact.path / name).stat().st_size for name in job.variant.files)
