"""Records with saved outputs, scored again without data set, model and device: only head and metrics run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from harness import machine, storage
from harness.detector import artifact
from harness.detector.artifact import Artifact
from harness.errors import RecordError
from harness.records import record
from harness.records.outputs import Reader
from harness.records.record import Record, Source
from harness.run import inputs
from harness.run.job import Job
from harness.types import Category, Sample

BACKEND = "replay"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayRequest:
    """What to replay: the saved outputs of every record of the artifacts' detectors."""

    artifacts: tuple[Path, ...]
    results: Path
    """The folder of the records with evidence and saved outputs."""
    categories: tuple[str, ...]
    """Empty: every category that has an artifact."""
    out: Path
    variant: str | None = None
    """Only outputs of this variant."""
    threads: int | None = None
    """`None`: as many as the replayed record had, at most the usable cores."""


def jobs(request: ReplayRequest) -> tuple[Job, ...]:
    """One case for each record with saved outputs.

    Raises:
        ArtifactError: no artifact, or one whose fitted state was altered.
        RecordError: no saved outputs of an artifact's detector.
    """
    records = record.latest(record.read_all(request.results))
    saved = [old for old in records if old.outputs and request.variant in (None, old.case.variant)]
    if not saved:
        which = f" of variant {request.variant}" if request.variant else ""
        raise RecordError(f"{request.results}: no record{which} has saved outputs; bench with --save-outputs")
    detectors = [
        detector for path in request.artifacts for detector in artifact.find(path, request.categories)
    ]
    return tuple(job for detector in detectors for job in _of_artifact(request, detector, saved))


def _of_artifact(request: ReplayRequest, detector: Artifact, saved: Sequence[Record]) -> list[Job]:
    manifest = detector.manifest
    names = (manifest.detector, manifest.backbone, manifest.category)
    same_name = [old for old in saved if (old.case.detector, old.case.backbone, old.case.category) == names]
    if not same_name:
        raise RecordError(f"{request.results}: no saved outputs of {' '.join(names)}")
    same_detector = [old for old in same_name if old.detector_sha256 == manifest.detector_sha256]
    if not same_detector:
        raise RecordError(
            f"{request.results}: its outputs of {' '.join(names)} are of detector {same_name[0].detector_sha256[:12]}, "
            f"{detector.path} is {manifest.detector_sha256[:12]}: replay with the artifact that was measured"
        )
    detector.state()  # refuses an altered state before anything runs
    return [_job(request, detector, old) for old in same_detector]


def _job(request: ReplayRequest, detector: Artifact, replayed: Record) -> Job:
    path = request.results / record.file_name(replayed.case, replayed.inputs_sha256)
    outputs, device, data = replayed.outputs, replayed.device, replayed.data
    if outputs is None or device is None or data is None:
        raise RecordError(f"{path}: not a complete record; bench the case again")
    threads = request.threads or min(replayed.case.threads, machine.usable_cores())
    runner = replayed.case.runner
    return Job(
        case=msgspec.structs.replace(
            replayed.case, backend=BACKEND, source=runner, threads=threads, warmup=0
        ),
        artifact=detector,
        variant=outputs.variant,
        category=_category(replayed),
        fingerprint=data.fingerprint,
        out=request.out,
        outputs=storage.inside(request.results, outputs.file, RecordError),
        outputs_device=msgspec.structs.replace(device, device=f"replay of {device.device}"),
        replayed=path,
        source=Source(
            inputs_sha256=replayed.source.inputs_sha256 if replayed.source else None,
            outputs_sha256=outputs.sha256,
            record_sha256=storage.sha256_of_file(path),
            made_by=runner,
            host=replayed.host,
        ),
    )


def _category(replayed: Record) -> Category:
    """The test images that the record lists; their paths lead to no files."""
    samples = tuple(
        Sample(
            name=image.name,
            path=Path(image.name),
            label=image.label,
            defect=Path(image.name).parent.name,
            mask_path=None,
        )
        for image in replayed.images
    )
    return Category(name=replayed.case.category, root=Path(), train=(), test=samples)


def sources(path: Path, saved: Reader) -> tuple[inputs.FromRecord, inputs.GroundTruth]:
    """Frames, digests and ground truth of the record at `path`, checked against its digests.

    Raises:
        RecordError: the record or its evidence was altered, or the evidence is missing.
    """
    replayed = record.read(path)
    arrays = record.read_evidence(path.parent, replayed)
    if arrays is None or replayed.data is None:
        raise RecordError(f"{path}: its evidence is missing; copy `evidence` along with the records")
    ground_truth = inputs.GroundTruth(masks=arrays.masks, sizes={}, cut=replayed.data.masks_cut)
    return inputs.FromRecord(replayed.images, arrays.frames, saved), ground_truth
