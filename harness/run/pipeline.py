"""One case from its first image to its finished record: the pipeline, top to bottom.

`Case → Sample → batch → {name: array} → Scores → Metrics → Record`. This runs inside a worker process of its own
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
from harness.records.record import (
    DEVICE_STAGES,
    Data,
    Device,
    EvidenceArrays,
    ImageResult,
    Record,
    StoredOutputs,
)
from harness.run import inputs, replay
from harness.run.job import GRAPH, Job, blank, now
from harness.types import AnyArray, Float32, Sample, UInt8

if TYPE_CHECKING:
    from harness.contracts import Head, Session

Advance = Callable[[int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Collected:
    """What the timed loop gathers, in the order of the test images."""

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
    job: Job, session: Session, *, load_ms: float | None, advance: Advance, stored: Reader | None = None
) -> Record:
    """Score every test image through `session` and write record and evidence.

    Args:
        job: The case.
        session: What infers; it is closed in the end.
        load_ms: How long it took to open.
        advance: Called with the number of images just scored.
        stored: The outputs that `session` plays: inference is then neither warmed up nor timed.
    """
    unmeasured = blank(job, now())  # before the first image: it asks git and the system about this host
    made = registry.head(job.head)
    state = job.artifact.state() if job.head != GRAPH else {}
    head = made(job.artifact.manifest.head.parameters, state, threads=job.case.threads)
    samples = job.category.test
    feed, ground = _sources(job, stored)
    first_inference_ms = _warm_up(job, session, feed, head) if stored is None else None
    collected = _Collected()
    with _keeping(job, feed) as keep:
        for start in range(0, len(samples), job.case.batch_size):
            batch = samples[start : start + job.case.batch_size]
            fed = feed.batch(start, start + len(batch))
            rows, given = _score(batch, fed, session, head, collected)
            keep(given, rows if made.scores_input else None)
            if fed[0].size is not None:
                ground.require_fit(batch, [image.size for image in fed if image.size])
            advance(len(batch))
    session.close()
    if job.replayed is None and datasets.fingerprint(job.category, "test") != job.fingerprint:
        raise DatasetError(
            f"{job.category.root}: test images or masks were changed while they were measured: bench again"
        )
    maps = np.stack(collected.maps)
    labels = np.array([sample.label for sample in samples])
    defective = labels == 1
    measured = metrics.merge(
        metrics.image_metrics(np.array(collected.scores), labels),
        metrics.pixel_metrics(maps, ground.masks),
    )
    rules = unmeasured.pixel_decisions
    if rules is not None:
        decided = metrics.decision_metrics(maps, ground.masks, labels, unmeasured.thresholds.pixel, rules)
        measured = metrics.merge(measured, decided)
    arrays = EvidenceArrays(maps=maps, masks=ground.masks, frames=np.stack(collected.frames))
    infer = collected.infer if stored is None else ()
    samples_ms = latency_stages(
        collected.decode, collected.preprocess, infer, collected.head, collected.device
    )
    done = msgspec.structs.replace(
        unmeasured,
        status="measured",
        device=Device(
            device=session.report.device,
            runtime=session.report.runtime,
            options=session.report.options,
            simulated=session.report.simulated,
            nodes=session.report.nodes,
        ),
        data=Data(
            fingerprint=job.fingerprint,
            good=int((~defective).sum()),
            defective=int(defective.sum()),
            masks_cut=ground.cut,
            masks_emptied=int(np.sum(defective & ~ground.masks.any(axis=(1, 2)))),
        ),
        images=tuple(
            ImageResult(name=sample.name, label=sample.label, score=score, stages=digests)
            for sample, score, digests in zip(samples, collected.scores, collected.digests, strict=True)
        ),
        metrics=measured.values,
        f1_max_thresholds=measured.thresholds,
        undefined=measured.undefined,
        latency_ms={stage: record.distribution(values) for stage, values in samples_ms.items()},
        latency_samples_ms=dict(samples_ms),
        images_per_second=1e3 * len(samples) / sum(samples_ms["total"]) if "total" in samples_ms else None,
        load_ms=load_ms,
        first_inference_ms=first_inference_ms,
        evidence=record.write_evidence(job.out, job.case, job.inputs_sha256, arrays),
        outputs=_kept(job),
        peak_memory_bytes=machine.peak_memory_bytes(),
        model_bytes=None if stored is not None else _model_bytes(job),
        finished=now(),
    )
    record.write(job.out, done)
    return done


def play(job: Job, *, advance: Advance) -> Record:
    """Score the stored outputs that `job` names, in place of a session's.

    Raises:
        RecordError: they were altered, or are of other images.
    """
    assert job.outputs is not None  # noqa: S101 - what such a job is
    assert job.source is not None  # noqa: S101
    stored = Reader(job.outputs, str(job.source.outputs_sha256))
    if len(stored.rows) != len(job.category.test):
        raise RecordError(
            f"{job.outputs}: outputs of {len(stored.rows)} images, the test set has {len(job.category.test)}"
        )
    session = registry.resolve("stage", "play", registry.STAGES)(stored, job.played)
    return run(job, session, load_ms=None, advance=advance, stored=stored)


def _sources(job: Job, stored: Reader | None) -> tuple[inputs.Feed, inputs.GroundTruth]:
    """What feeds the network, and the ground truth: of the data set, or both of the record that is replayed."""
    if job.replayed is not None:
        assert stored is not None  # noqa: S101 - a replay plays outputs
        return replay.sources(job.replayed, stored)
    manifest = job.artifact.manifest
    preprocessor = Preprocessor(manifest.preprocessing, until=job.variant.input_stage)
    height, width = manifest.head.parameters["map_size"]
    found = inputs.read_ground_truth(job.category, job.case, preprocessor, map_size=(height, width))
    if job.inputs is None:
        return inputs.FromImages(job.category.test, preprocessor), found
    folder = batches.read(job.inputs)
    batches.require_for(folder, job.artifact, job.variant, job.fingerprint)
    return inputs.FromBatches(job.category.test, preprocessor, folder), found


@contextlib.contextmanager
def _keeping(
    job: Job, feed: inputs.Feed
) -> Iterator[Callable[[Mapping[str, AnyArray], AnyArray | None], None]]:
    """Give what takes each batch's outputs, and the inputs a head needs: a file where they are to be saved."""
    if not job.save_outputs:
        yield lambda *_: None
        return
    path = job.out / record.outputs_name(job.case, job.inputs_sha256)
    with storage.replacing(path) as temporary, temporary.open("wb") as file:
        writer = outputs.Writer(file, feed.rows)
        yield writer.add
        writer.finish()


def _model_bytes(job: Job) -> int:
    return sum((job.artifact.path / name).stat().st_size for name in job.variant.files)


def _kept(job: Job) -> StoredOutputs | None:
    """The outputs beside the record: those just saved, or those that `score` gathered there."""
    name = record.outputs_name(job.case, job.inputs_sha256)
    if not job.save_outputs and job.outputs != job.out / name:
        return None
    return StoredOutputs(file=name, sha256=storage.sha256_of_file(job.out / name), variant=job.variant)


def _warm_up(job: Job, session: Session, feed: inputs.Feed, head: Head) -> float:
    """Run every batch shape that will occur, untimed; gives the very first inference's time in ms."""
    rows = feed.first()
    count, size = len(job.category.test), job.case.batch_size
    shapes = sorted({min(size, count - start) for start in range(0, count, size)}, reverse=True)
    taken_ms = []
    for images in shapes:
        batch = np.concatenate([rows] * images)
        for _ in range(max(1, job.case.warmup)):
            begin = time.perf_counter_ns()
            given = session.run(batch)
            taken_ms.append((time.perf_counter_ns() - begin) / 1e6)
            head(batch, given)
    return taken_ms[0]


def _score(
    samples: Sequence[Sample],
    fed: Sequence[inputs.Fed],
    session: Session,
    head: Head,
    collected: _Collected,
) -> tuple[AnyArray, dict[str, AnyArray]]:
    """Time inference and head of one batch; gives the rows that went in and what came out."""
    begin = time.perf_counter_ns()
    batch = np.concatenate([image.rows for image in fed])
    given = session.run(batch)
    inferred = time.perf_counter_ns()
    scores = head(batch, given)
    end = time.perf_counter_ns()
    count = len(samples)
    collected.infer.extend([(inferred - begin) / 1e6 / count] * count)
    collected.head.extend([(end - inferred) / 1e6 / count] * count)
    shared = {stage: taken / count for stage, taken in session.device_ms.items()}
    collected.device.extend([shared] * count)
    for image in fed:
        collected.frames.append(image.frame)
        collected.digests.append(image.stages)
        collected.decode.extend([] if image.decode_ms is None else [image.decode_ms])
        collected.preprocess.extend([] if image.preprocess_ms is None else [image.preprocess_ms])
    _require_finite(scores.maps, samples)
    collected.maps.extend(scores.maps)
    collected.scores.extend(float(score) for score in scores.images)
    return batch, given


def _require_finite(maps: Float32, samples: Sequence[Sample]) -> None:
    for sample, score_map in zip(samples, maps, strict=True):
        if not np.isfinite(score_map).all():
            raise HarnessError(
                f"{sample.path}: its anomaly map holds NaN or infinite values: the model overflowed"
            )


def latency_stages(
    decode: Sequence[float],
    preprocess: Sequence[float],
    infer: Sequence[float],
    head: Sequence[float],
    device: Sequence[Mapping[str, float]] = (),
) -> Mapping[str, list[float]]:
    """Stages of `harness.records.record.STAGES` and `DEVICE_STAGES` from those that were measured, in ms per image.

    An empty sequence was not measured; a sum without one of its parts is left out, and so is a stage of `device` that
    is not given for every image.
    """
    measured = {"decode": decode, "preprocess": preprocess, "infer": infer, "head": head}
    found = {name: list(values) for name, values in measured.items() if values}
    if infer:
        found["infer_head"] = [a + b for a, b in zip(infer, head, strict=True)]
    if infer and decode:
        found["total"] = [a + b + c for a, b, c in zip(decode, preprocess, found["infer_head"], strict=True)]
    given = [name for name in DEVICE_STAGES if device and all(name in item for item in device)]
    return found | {name: [item[name] for item in device] for name in given}
