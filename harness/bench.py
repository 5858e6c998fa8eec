"""One case from its first image to its finished record: the pipeline, top to bottom.

`Case → Sample → batch → {name: array} → Scores → Metrics → Record`. This runs inside a worker process of its own
(`harness.worker`), whose environment and cores are already set.
"""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from harness import __version__, datasets, host, metrics, record, registry, storage, timing
from harness.artifact import Artifact, HeadSpec, Manifest, Variant
from harness.errors import HarnessError
from harness.heads.graph import HEAD
from harness.preprocess import Preprocessor
from harness.record import Data, Device, EvidenceArrays, Fit, ImageResult, Record
from harness.types import AnyArray, Bool, Case, Category, Float32, Sample, UInt8

if TYPE_CHECKING:
    from backends.base import Session
    from harness.heads.base import Head

Advance = Callable[[int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A case and where its things are."""

    case: Case
    artifact: Artifact
    variant: Variant
    category: Category
    fingerprint: str
    out: Path
    """The results folder."""

    @property
    def inputs_sha256(self) -> str:
        """Digest of all that decides the record: the case, the detector, the model file, the test data, the code."""
        return storage.sha256_of_json(
            {
                "case": msgspec.to_builtins(self.case),
                "detector": self.artifact.manifest.detector_sha256,
                "model": self.variant.files,
                "data": self.fingerprint,
                "schema": record.SCHEMA,
                "harness": __version__,
            }
        )

    def finished(self) -> Record | None:
        """The record of an earlier run of the same inputs, if it was measured."""
        path = self.out / record.file_name(self.case, self.inputs_sha256)
        return record.read(path) if path.is_file() else None  # other outcomes have other file names


@dataclass(frozen=True, slots=True, kw_only=True)
class _Collected:
    """What the timed loop gathers, in the order of the test images."""

    maps: list[Float32] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    frames: list[UInt8] = field(default_factory=list)
    sizes: list[tuple[int, int]] = field(default_factory=list)
    digests: list[dict[str, str]] = field(default_factory=list)
    decode: list[float] = field(default_factory=list)
    preprocess: list[float] = field(default_factory=list)
    infer: list[float] = field(default_factory=list)
    head: list[float] = field(default_factory=list)


def run(job: Job, session: Session, *, load_ms: float, advance: Advance) -> Record:
    """Score every test image through `session` and write record and evidence."""
    unmeasured = blank(job, now())  # before the first image: it asks git and the system about this host
    preprocessor = Preprocessor(job.artifact.manifest.preprocessing, until=job.variant.input_stage)
    head = _head(job)
    samples = job.category.test
    truth = _read_truth(job, preprocessor)
    first_inference_ms = _warm_up(job, session, preprocessor, head)
    collected = _Collected()
    for batch in _batches(samples, job.case.batch_size):
        _score(batch, session, preprocessor, head, collected)
        _require_masks_fit(batch, truth, collected)
        advance(len(batch))
    session.close()
    maps = np.stack(collected.maps)
    labels = np.array([sample.label for sample in samples])
    defective = labels == 1
    measured = metrics.merge(
        metrics.image_metrics(np.array(collected.scores), labels),
        metrics.pixel_metrics(maps, truth.masks),
    )
    rules = unmeasured.pixel_decisions
    if rules is not None:
        decided = metrics.decision_metrics(maps, truth.masks, labels, unmeasured.thresholds.pixel, rules)
        measured = metrics.merge(measured, decided)
    arrays = EvidenceArrays(maps=maps, masks=truth.masks, frames=np.stack(collected.frames))
    samples_ms = timing.stages(collected.decode, collected.preprocess, collected.infer, collected.head)
    done = msgspec.structs.replace(
        unmeasured,
        status="measured",
        device=Device(
            device=session.report.device,
            runtime=session.report.runtime,
            options=session.report.options,
            simulated=session.report.simulated,
        ),
        data=Data(
            fingerprint=job.fingerprint,
            good=int((~defective).sum()),
            defective=int(defective.sum()),
            masks_cut=truth.cut,
            masks_emptied=int(np.sum(defective & ~truth.masks.any(axis=(1, 2)))),
        ),
        images=tuple(
            ImageResult(name=sample.name, label=sample.label, score=score, stages=digests)
            for sample, score, digests in zip(samples, collected.scores, collected.digests, strict=True)
        ),
        metrics=measured.values,
        f1_max_thresholds=measured.thresholds,
        undefined=measured.undefined,
        latency_ms={stage: timing.distribution(values) for stage, values in samples_ms.items()},
        latency_samples_ms=dict(samples_ms),
        images_per_second=1e3 * len(samples) / sum(samples_ms["total"]),
        load_ms=load_ms,
        first_inference_ms=first_inference_ms,
        evidence=record.write_evidence(job.out, job.case, job.inputs_sha256, arrays),
        peak_memory_bytes=host.peak_memory_bytes(),
        finished=now(),
    )
    record.write(job.out, done)
    return done


def _head(job: Job) -> Head:
    """The detector's head in numpy, or what passes on the scores of a graph that holds it."""
    spec = job.artifact.manifest.head
    if HEAD in job.variant.contains:
        return registry.head("graph")(spec.parameters, {}, threads=job.case.threads)
    return registry.head(spec.name)(spec.parameters, job.artifact.state(), threads=job.case.threads)


def blank(job: Job, started: str) -> Record:
    """A record of `job` that holds no measurement yet."""
    manifest = job.artifact.manifest
    return Record(
        schema=record.SCHEMA,
        status="failed",
        reason=None,
        case=job.case,
        inputs_sha256=job.inputs_sha256,
        detector_sha256=manifest.detector_sha256,
        model_sha256=job.variant.files[job.variant.model],
        artifact_sha256=job.artifact.sha256,
        weights=manifest.weights,
        thresholds=manifest.thresholds,
        pixel_decisions=_pixel_decisions(manifest.head),
        fit=_fit(manifest),
        training=manifest.fit_report.get("training"),
        host=host.describe(),
        started=started,
        finished=started,
    )


def _pixel_decisions(head: HeadSpec) -> metrics.PixelDecisions | None:
    """How the head's parameters want decisions measured, if at all."""
    rules = head.parameters.get("pixel_decisions")
    return None if rules is None else msgspec.convert(rules, metrics.PixelDecisions)


def _fit(manifest: Manifest) -> Fit:
    report = manifest.fit_report
    return Fit(
        dataset=manifest.training.dataset,
        images=manifest.training.images,
        seconds=report.get("seconds"),
        finished=report.get("finished"),
        host=msgspec.convert(report["host"], host.Host) if "host" in report else None,
        settings=manifest.settings,
        software=manifest.software,
    )


def now() -> str:
    """The time as records write it: UTC, ISO 8601, to the microsecond."""
    return dt.datetime.now(dt.timezone.utc).isoformat()


def _batches(samples: Sequence[Sample], size: int) -> Iterator[Sequence[Sample]]:
    for start in range(0, len(samples), size):
        yield samples[start : start + size]


def _warm_up(job: Job, session: Session, preprocessor: Preprocessor, head: Head) -> float:
    """Run every batch shape that will occur, untimed; gives the very first inference's time in ms."""
    samples = job.category.test
    frame = preprocessor.frame(preprocessor.decode(samples[0].path))
    shapes = sorted({len(batch) for batch in _batches(samples, job.case.batch_size)}, reverse=True)
    taken_ms = []
    for size in shapes:
        batch = np.concatenate([preprocessor.windows(preprocessor.tensor(frame))] * size)
        for _ in range(max(1, job.case.warmup)):
            begin = time.perf_counter_ns()
            outputs = session.run(batch)
            taken_ms.append((time.perf_counter_ns() - begin) / 1e6)
            head(batch, outputs)
    return taken_ms[0]


def _score(
    samples: Sequence[Sample], session: Session, preprocessor: Preprocessor, head: Head, collected: _Collected
) -> None:
    """Time the stages of one batch; digests are taken outside the timed spans."""
    tensors: list[AnyArray] = []
    for sample in samples:
        begin = time.perf_counter_ns()
        pixels = preprocessor.decode(sample.path)
        decoded = time.perf_counter_ns()
        frame = preprocessor.frame(pixels)
        tensor = preprocessor.tensor(frame)
        end = time.perf_counter_ns()
        collected.decode.append((decoded - begin) / 1e6)
        collected.preprocess.append((end - decoded) / 1e6)
        collected.frames.append(frame)
        collected.sizes.append((pixels.shape[0], pixels.shape[1]))
        stages = {"decode": pixels, "frame": frame, "input": tensor}
        collected.digests.append({name: storage.sha256_of_array(array) for name, array in stages.items()})
        tensors.append(tensor)
    begin = time.perf_counter_ns()
    batch = np.concatenate([preprocessor.windows(tensor) for tensor in tensors])
    outputs = session.run(batch)
    inferred = time.perf_counter_ns()
    scores = head(batch, outputs)
    end = time.perf_counter_ns()
    count = len(samples)
    collected.infer.extend([(inferred - begin) / 1e6 / count] * count)
    collected.head.extend([(end - inferred) / 1e6 / count] * count)
    _require_finite(scores.maps, samples)
    collected.maps.extend(scores.maps)
    collected.scores.extend(float(score) for score in scores.images)


def _require_masks_fit(samples: Sequence[Sample], truth: _Truth, collected: _Collected) -> None:
    for sample, size in zip(samples, collected.sizes[-len(samples) :], strict=True):
        datasets.require_same_size(sample, truth.sizes.get(sample.name, size), size)


def _require_finite(maps: Float32, samples: Sequence[Sample]) -> None:
    for sample, score_map in zip(samples, maps, strict=True):
        if not np.isfinite(score_map).all():
            raise HarnessError(
                f"{sample.path}: its anomaly map holds NaN or infinite values: the model overflowed"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Truth:
    """Ground truth of all test images, read before the first of them is scored: a bad mask costs no hours."""

    masks: Bool
    """(N, H, W) in the frame of the maps."""
    sizes: dict[str, tuple[int, int]]
    """Image name → height and width of its mask as stored."""
    cut: int
    """Masks that lose defective pixels to the crop."""


def _read_truth(job: Job, preprocessor: Preprocessor) -> _Truth:
    height, width = job.artifact.manifest.head.parameters["map_size"]
    masks = np.zeros((len(job.category.test), height, width), np.bool_)
    sizes: dict[str, tuple[int, int]] = {}
    cut = 0
    for framed, sample in zip(masks, job.category.test, strict=True):
        if sample.mask_path is not None:
            mask = datasets.read_mask(sample.mask_path, threshold=job.case.mask_threshold)
            framed[:], loses = preprocessor.mask(mask, job.case.mask_resize)
            sizes[sample.name] = (mask.shape[0], mask.shape[1])
            cut += loses
    return _Truth(masks=masks, sizes=sizes, cut=cut)
