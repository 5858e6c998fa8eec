"""Many cases: planned before the first one runs, measured one worker at a time, resumed where they were left."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from harness import datasets, errors, machine, registry, storage
from harness.detector import artifact
from harness.errors import DatasetError, UsageError
from harness.progress import progress
from harness.records import batches, record
from harness.records.record import Record, Source
from harness.run import job as job_module
from harness.run import worker
from harness.run.job import Job, blank
from harness.types import Case, MaskResize


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchRequest:
    """What is to be measured: every artifact's category on every backend."""

    artifacts: tuple[Path, ...]
    data: Path
    """The folder that holds the categories."""
    categories: tuple[str, ...]
    """Empty: every category that has an artifact."""
    backends: tuple[str, ...]
    out: Path
    variants: tuple[str, ...] = ()
    """Variant ids, each a case of its own; one in the backend's preferred format when not given."""
    batch_size: int = 1
    threads: int = 1
    warmup: int = 3
    mask_threshold: int = 127
    mask_resize: MaskResize = "nearest"
    suite: str | None = None
    """Name of the suite that the artifacts were fitted for."""
    timeout: float = 600.0
    """Seconds without a sign of life after which a worker is killed."""
    force: bool = False
    """Measure finished cases again."""
    save_outputs: bool = False
    """Keep the raw outputs, for `replay`."""
    inputs: Path | None = None
    """Folder of batches, or of one such folder per category, that go in in place of preprocessing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Cases in the order they run, and the records of those that were measured before."""

    jobs: tuple[Job, ...]
    finished: tuple[Record, ...]


class Interrupted(Exception):  # noqa: N818 - Ctrl-C is no error
    """Ctrl-C: what is finished stays finished."""

    def __init__(self, done: int, total: int) -> None:
        super().__init__(
            f"interrupted: {done} of {total} cases are measured and kept; the same command continues"
        )


def plan(request: BenchRequest) -> Plan:
    """Find everything the cases need, so that what is missing is known before hours of work.

    Raises:
        ArtifactError: no artifact, or none of a format the backend opens.
        DatasetError: a category that is missing, broken, or without test images; batches of something else.
        UsageError: an unknown backend or variant, or more threads than there are cores.
    """
    require_cores(request.threads)
    jobs: list[Job] = []
    dataset = request.data.resolve().name
    found = [item for path in request.artifacts for item in artifact.find(path, request.categories)]
    loaded = {
        item.manifest.category: datasets.load_category(request.data, item.manifest.category) for item in found
    }
    for category in loaded.values():
        if not category.test:
            raise DatasetError(f"{category.root}/test: no test images, so nothing to score")
    fingerprints = {name: datasets.fingerprint(category, "test") for name, category in loaded.items()}
    taken = None if request.inputs is None else f"inputs {batches.digest(request.inputs)[:12]}"
    for name in request.backends:
        backend = registry.backend(name)
        formats = backend.formats
        asked = [(item, wanted) for item in found for wanted in request.variants or (None,)]
        for item, wanted in asked:
            manifest = item.manifest
            variant = (
                item.variant(formats, simulated=backend.simulated)
                if wanted is None
                else _variant(item, wanted, formats)
            )
            given = None if request.inputs is None else _inputs(request, item, variant, fingerprints)
            source = None if given is None else Source(inputs_sha256=given.sha256)
            case = Case(
                detector=manifest.detector,
                backbone=manifest.backbone,
                category=manifest.category,
                backend=name,
                variant=variant.id,
                dataset=dataset,
                batch_size=given.index.batch_size if given else request.batch_size,
                threads=request.threads,
                warmup=request.warmup,
                mask_threshold=request.mask_threshold,
                mask_resize=request.mask_resize,
                suite=request.suite,
                source=taken,
            )
            jobs.append(
                Job(
                    case=case,
                    artifact=item,
                    variant=variant,
                    category=loaded[manifest.category],
                    fingerprint=fingerprints[manifest.category],
                    out=request.out,
                    save_outputs=request.save_outputs,
                    inputs=given.path if given else None,
                    source=source,
                )
            )
    return planned(jobs, request.out, force=request.force)


def planned(jobs: Sequence[Job], out: Path, *, force: bool) -> Plan:
    """What of `jobs` is left to measure.

    Raises:
        UsageError: two jobs are one case, nothing can be written into `out`, or the clock is behind.
    """
    _require_distinct(jobs)
    storage.require_writable(out)
    finished = [] if force else [job.finished() for job in jobs]
    kept = tuple(item for item in finished if item is not None)
    done = {item.inputs_sha256 for item in kept}
    left = tuple(job for job in jobs if job.inputs_sha256 not in done)
    _require_clock(left)
    return Plan(jobs=left, finished=kept)


def _inputs(
    request: BenchRequest,
    found: artifact.Artifact,
    variant: artifact.Variant,
    fingerprints: Mapping[str, str],
) -> batches.Folder:
    """The batches of one category, which must be for this variant; those themselves are read and checked in the case."""
    assert request.inputs is not None  # noqa: S101 - the caller asked
    category = found.manifest.category
    folder = batches.read(batches.below(request.inputs, category))
    batches.require_for(folder, found, variant, fingerprints[category])
    if request.batch_size not in (1, folder.index.batch_size):
        raise UsageError(
            f"--batch-size {request.batch_size}: the batches in {folder.path} hold {folder.index.batch_size} images"
        )
    return folder


def require_cores(threads: int) -> None:
    """Raise `UsageError` when fewer than `threads` cores are usable."""
    cores = machine.usable_cores()
    if threads > cores:
        raise UsageError(f"--threads {threads}: only {cores} cores are usable here")


def _require_distinct(jobs: Sequence[Job]) -> None:
    """Raise `UsageError` when two artifacts would give records of one case, which no table could tell apart."""
    seen: dict[Case, Path] = {}
    for job in jobs:
        if job.case in seen:
            raise UsageError(
                f"{seen[job.case]} and {job.artifact.path} are the same detector, backbone and category: "
                "bench them into different --out folders"
            )
        seen[job.case] = job.artifact.path


def _require_clock(jobs: Sequence[Job]) -> None:
    """Raise `UsageError` where a record made now would count as older than what came before it."""
    now = job_module.now()
    for job in jobs:
        before = {
            f"{job.artifact.path} was fitted": str(job.artifact.manifest.fit_report.get("finished", ""))
        }
        before |= {
            f"{item.case.runner} {item.case.category} was measured": item.finished for item in job.earlier()
        }
        for what, when in before.items():
            if when[:19] > now[:19]:  # both UTC, to the second
                raise UsageError(
                    f"this machine's clock says {now[:19]}Z, and {what} at {when[:19]}Z; the newest record counts: set the clock, or, if that "
                    "other clock was ahead, measure into another --out folder"
                )


def run(plan: Plan, *, timeout: float, report: Callable[[Record], None]) -> tuple[Record, ...]:
    """Measure what is left of `plan`; a case that dies leaves a record that says how, and the others go on.

    Args:
        plan: From `plan`.
        timeout: See `BenchRequest`.
        report: Called with each record as it is made.

    Returns:
        All records of the plan, measured before or now.

    Raises:
        Interrupted: on Ctrl-C.
    """
    records = list(plan.finished)
    for job in plan.jobs:
        try:
            made = _measure(job, timeout)
        except KeyboardInterrupt:
            raise Interrupted(len(records), len(plan.finished) + len(plan.jobs)) from None
        records.append(made)
        report(made)
    return tuple(records)


def _measure(job: Job, timeout: float) -> Record:
    case = job.case
    order = worker.Order(
        artifact=str(job.artifact.path.resolve()),
        variant=msgspec.to_builtins(job.variant),
        data=None if job.replayed else str(job.category.root.parent.resolve()),
        case=msgspec.to_builtins(case),
        fingerprint=job.fingerprint,
        out=str(job.out.resolve()),
        save_outputs=job.save_outputs,
        inputs=_resolved(job.inputs),
        outputs=_resolved(job.outputs),
        played=msgspec.to_builtins(job.played),
        replayed=_resolved(job.replayed),
        source=msgspec.to_builtins(job.source),
    )
    started = job_module.now()
    try:
        with progress(f"{case.runner} {case.category}", len(job.category.test)) as advance:
            return record.read(worker.start(order, advance=advance, timeout=timeout))
    except worker.Failure as failure:
        made = msgspec.structs.replace(
            blank(job, started),
            status="skipped" if failure.skipped else "failed",
            reason=str(failure),
            finished=job_module.now(),
        )
        record.write(job.out, made)
        return made


def _resolved(path: Path | None) -> str | None:
    return None if path is None else str(path.resolve())


def _variant(found: artifact.Artifact, wanted: str, formats: Sequence[str]) -> artifact.Variant:
    known = {variant.id: variant for variant in found.manifest.variants}
    if wanted not in known:
        raise UsageError(errors.unknown(f"variant of {found.path}", wanted, known))
    if known[wanted].format not in formats:
        raise UsageError(
            f"--variant {wanted} is {known[wanted].format}; this backend opens {', '.join(formats)}"
        )
    return known[wanted]
