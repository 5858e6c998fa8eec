"""Records whose outputs were saved, scored again without data set, model and device: head and metrics run on what is stored."""

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
    """What is to be played: the stored outputs of every record of the artifacts' detectors."""

    artifacts: tuple[Path, ...]
    results: Path
    """The folder of records with their evidence and outputs."""
    categories: tuple[str, ...]
    """Empty: every category that has an artifact."""
    out: Path
    variant: str | None = None
    """Only outputs of this variant."""
    threads: int | None = None
    """As the replayed record had, but no more than there are here, when not given."""


def jobs(request: ReplayRequest) -> tuple[Job, ...]:
    """One case for every record with stored outputs.

    Raises:
        ArtifactError: no artifact, or one whose fitted state was altered.
        RecordError: no stored outputs of an artifact's detector.
    """
    everything = record.latest(record.read_all(request.results))
    stored = [item for item in everything if item.outputs and request.variant in (None, item.case.variant)]
    if not stored:
        which = f" of variant {request.variant}" if request.variant else ""
        raise RecordError(
            f"{request.results}: no record{which} has stored outputs; bench with --save-outputs"
        )
    found = [item for path in request.artifacts for item in artifact.find(path, request.categories)]
    return tuple(job for item in found for job in _of_artifact(request, item, stored))


def _of_artifact(request: ReplayRequest, found: Artifact, stored: Sequence[Record]) -> list[Job]:
    manifest = found.manifest
    named = (manifest.detector, manifest.backbone, manifest.category)
    alike = [item for item in stored if (item.case.detector, item.case.backbone, item.case.category) == named]
    if not alike:
        raise RecordError(f"{request.results}: no stored outputs of {' '.join(named)}")
    equal = [item for item in alike if item.detector_sha256 == manifest.detector_sha256]
    if not equal:
        raise RecordError(
            f"{request.results}: its outputs of {' '.join(named)} are of detector {alike[0].detector_sha256[:12]}, "
            f"{found.path} is {manifest.detector_sha256[:12]}: replay with the artifact that was measured"
        )
    found.state()  # refuses an altered one before anything is played
    return [_job(request, found, item) for item in equal]


def _job(request: ReplayRequest, found: Artifact, replayed: Record) -> Job:
    path = request.results / record.file_name(replayed.case, replayed.inputs_sha256)
    outputs, device, data = replayed.outputs, replayed.device, replayed.data
    if outputs is None or device is None or data is None:
        raise RecordError(f"{path}: not a whole record; bench the case again")
    threads = request.threads or min(replayed.case.threads, machine.usable_cores())
    runner = replayed.case.runner
    return Job(
        case=msgspec.structs.replace(
            replayed.case, backend=BACKEND, source=runner, threads=threads, warmup=0
        ),
        artifact=found,
        variant=outputs.variant,
        category=category_of(replayed),
        fingerprint=data.fingerprint,
        out=request.out,
        outputs=storage.inside(request.results, outputs.file, RecordError),
        played=msgspec.structs.replace(device, device=f"replay of {device.device}"),
        replayed=path,
        source=Source(
            inputs_sha256=replayed.source.inputs_sha256 if replayed.source else None,
            outputs_sha256=outputs.sha256,
            record_sha256=storage.sha256_of_file(path),
            made_by=runner,
            host=replayed.host,
        ),
    )


def category_of(replayed: Record) -> Category:
    """The test images as the record lists them; there are no files behind the paths."""
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


def sources(path: Path, stored: Reader) -> tuple[inputs.FromRecord, inputs.GroundTruth]:
    """Frames, digests and ground truth of the record at `path`, checked against its digests.

    Raises:
        RecordError: the record or its evidence was altered, or the evidence is missing.
    """
    replayed = record.read(path)
    arrays = record.read_evidence(path.parent, replayed)
    if arrays is None or replayed.data is None:
        raise RecordError(f"{path}: its evidence is missing; copy `evidence` along with the records")
    ground_truth = inputs.GroundTruth(masks=arrays.masks, sizes={}, cut=replayed.data.masks_cut)
    return inputs.FromRecord(replayed.images, arrays.frames, stored), ground_truth
