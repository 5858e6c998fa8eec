"""Many cases: planned before the first one runs, measured one worker at a time, continued after an interruption."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from harness import datasets, machine, registry, storage
from harness.detector import artifact
from harness.errors import DatasetError, UsageError
from harness.records import batches, record
from harness.records.record import Record, Source
from harness.run import worker
from harness.run.interrupted import Interrupted
from harness.run.job import Job, blank, now
from harness.run.options import RunOptions
from harness.types import Case

if TYPE_CHECKING:
    from harness.detector.artifact import Artifact, Variant

Progress = Callable[[str, int], contextlib.AbstractContextManager[Callable[[int], None]]]
"""Called with a case's label and its number of images; the context gives a function to call with the images just scored."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchRequest:
    """What to measure: each artifact on each backend."""

    artifacts: tuple[Path, ...]
    """Artifacts, or folders of them."""
    data: Path
    """The folder that holds the categories."""
    categories: tuple[str, ...]
    """Empty: every category that has an artifact."""
    backends: tuple[str, ...]
    out: Path
    """The results folder."""
    variants: tuple[str, ...] = ()
    """Variant ids, each a case of its own; empty: one in the backend's preferred format."""
    options: RunOptions = field(default_factory=RunOptions)
    suite: str | None = None
    """Name of the suite that the artifacts were fitted for."""
    save_outputs: bool = False
    """Save the network's raw outputs, for `replay`."""
    inputs: Path | None = None
    """Folder of input batches, or of one such folder per category, that replace preprocessing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The cases to run, in order, and the records of those measured before."""

    jobs: tuple[Job, ...]
    finished: tuple[Record, ...]


def plan(request: BenchRequest) -> Plan:
    """Check everything the cases need, so that an error comes before hours of work.

    Raises:
        ArtifactError: no artifact, or none with a format that the backend opens.
        DatasetError: a category is missing, broken or without test images; input batches of something else.
        UsageError: an unknown backend or variant, or more threads than cores.
    """
    require_cores(request.options.threads)
    detectors = [
        detector for path in request.artifacts for detector in artifact.find(path, request.categories)
    ]
    names = dict.fromkeys(detector.manifest.category for detector in detectors)
    categories = {name: datasets.load_category(request.data, name) for name in names}
    for category in categories.values():
        if not category.test:
            raise DatasetError(f"{category.root}/test: no test images, so nothing to score")
    fingerprints = {name: datasets.fingerprint(category, "test") for name, category in categories.items()}
    inputs = None if request.inputs is None else f"inputs {batches.digest(request.inputs)[:12]}"
    jobs: list[Job] = []
    for backend in request.backends:
        for detector in detectors:
            for id_ in request.variants or (None,):
                variant = variant_for(detector, backend, id_)
                name = detector.manifest.category
                folder = _inputs(request, detector, variant, fingerprints[name])
                jobs.append(
                    Job(
                        case=_case(request, detector, variant, backend, inputs, folder),
                        artifact=detector,
                        variant=variant,
                        category=categories[name],
                        fingerprint=fingerprints[name],
                        out=request.out,
                        save_outputs=request.save_outputs,
                        inputs=folder.path if folder else None,
                        source=Source(inputs_sha256=folder.sha256) if folder else None,
                    )
                )
    return planned(jobs, request.out, force=request.options.force)


def planned(jobs: Sequence[Job], out: Path, *, force: bool) -> Plan:
    """A plan of the jobs that have no finished record yet, or with `force` of all.

    Raises:
        UsageError: two jobs are one case, `out` cannot be written, or the clock is behind.
    """
    _require_distinct(jobs)
    storage.require_writable(out)
    records = [] if force else [job.finished() for job in jobs]
    finished = tuple(record for record in records if record is not None)
    digests = {record.inputs_sha256 for record in finished}
    unfinished = tuple(job for job in jobs if job.inputs_sha256 not in digests)
    _require_clock(unfinished)
    return Plan(jobs=unfinished, finished=finished)


def run(
    plan: Plan, *, timeout: float, report: Callable[[Record], None], progress: Progress | None = None
) -> tuple[Record, ...]:
    """Measure the unfinished cases of a plan. A case that fails leaves a record with the reason, and the others continue.

    Args:
        plan: From `plan`.
        timeout: See `RunOptions`.
        report: Called with each record as it is written.
        progress: Shows the progress of each case.

    Returns:
        All records of the plan, measured before or now.

    Raises:
        Interrupted: on Ctrl-C.
    """
    records = list(plan.finished)
    for job in plan.jobs:
        try:
            measured = _measure(job, timeout, progress or _silent)
        except KeyboardInterrupt:
            total = len(plan.finished) + len(plan.jobs)
            raise Interrupted(len(records), total, "cases are measured and kept") from None
        records.append(measured)
        report(measured)
    return tuple(records)


def require_cores(threads: int) -> None:
    """Raise `UsageError` if fewer than `threads` cores are usable."""
    cores = machine.usable_cores()
    if threads > cores:
        raise UsageError(f"--threads {threads}: only {cores} cores are usable here")


def variant_for(detector: Artifact, backend: str, id_: str | None) -> Variant:
    """The named variant, else the one in the backend's preferred format.

    Raises:
        UsageError: an unknown variant, or one that the backend does not open.
    """
    opener = registry.backend(backend)
    if id_ is None:
        return detector.variant(opener.formats, simulated=opener.simulated)
    variant = detector.variant_named(id_)
    if variant.format not in opener.formats:
        raise UsageError(f"--variant {id_} is {variant.format}; {backend} opens {', '.join(opener.formats)}")
    return variant


def _inputs(
    request: BenchRequest, detector: Artifact, variant: Variant, fingerprint: str
) -> batches.Folder | None:
    """The category's input batches, whose index must be for this variant; the worker reads and checks the batches.

    Raises:
        DatasetError: they are for something else.
        UsageError: another batch size is requested.
    """
    if request.inputs is None:
        return None
    folder = batches.read(batches.below(request.inputs, detector.manifest.category))
    batches.require_for(folder, detector, variant, fingerprint)
    if request.options.batch_size not in (1, folder.index.batch_size):
        raise UsageError(
            f"--batch-size {request.options.batch_size}: the batches in {folder.path} hold "
            f"{folder.index.batch_size} images"
        )
    return folder


def _case(
    request: BenchRequest,
    detector: Artifact,
    variant: Variant,
    backend: str,
    source: str | None,
    folder: batches.Folder | None,
) -> Case:
    options = request.options
    return Case(
        detector=detector.manifest.detector,
        backbone=detector.manifest.backbone,
        category=detector.manifest.category,
        backend=backend,
        variant=variant.id,
        dataset=request.data.resolve().name,
        batch_size=folder.index.batch_size if folder else options.batch_size,
        threads=options.threads,
        warmup=options.warmup,
        mask_threshold=options.mask_threshold,
        mask_resize=options.mask_resize,
        suite=request.suite,
        source=source,
    )


def _require_distinct(jobs: Sequence[Job]) -> None:
    """Raise `UsageError` if two artifacts would give records of the same case, which no table could distinguish."""
    paths: dict[Case, Path] = {}
    for job in jobs:
        if job.case in paths:
            raise UsageError(
                f"{paths[job.case]} and {job.artifact.path} are the same detector, backbone and category: "
                "bench them into different --out folders"
            )
        paths[job.case] = job.artifact.path


def _require_clock(jobs: Sequence[Job]) -> None:
    """Raise `UsageError` if a record of now would count as older than the fit or an earlier record."""
    time = now()
    for job in jobs:
        fitted = str(job.artifact.manifest.fit_report.get("finished", ""))
        before: Mapping[str, str] = {f"{job.artifact.path} was fitted": fitted} | {
            f"{old.case.runner} {old.case.category} was measured": old.finished for old in job.earlier()
        }
        for event, when in before.items():
            if when[:19] > time[:19]:  # both UTC, to the second
                raise UsageError(
                    f"this machine's clock says {time[:19]}Z, and {event} at {when[:19]}Z; the newest record counts: set "
                    "the clock, or, if that other clock was ahead, measure into another --out folder"
                )


def _measure(job: Job, timeout: float, progress: Progress) -> Record:
    started = now()
    label = f"{job.case.runner} {job.case.category}"
    try:
        with progress(label, len(job.category.test)) as advance:
            return record.read(worker.start(job, advance=advance, timeout=timeout))
    except worker.Failure as failure:
        failed = msgspec.structs.replace(
            blank(job, started),
            status="skipped" if failure.skipped else "failed",
            reason=str(failure),
            finished=now(),
        )
        record.write(job.out, failed)
        return failed


@contextlib.contextmanager
def _silent(label: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show no progress."""
    del label, total
    yield lambda _: None
