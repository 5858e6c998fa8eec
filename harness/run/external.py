"""Outputs that another program wrote for batches of ours, scored as if a backend had given them.

Which file belongs to which batch is in its name alone, so the names must be exactly those that the index asks for. What
raw outputs cannot show is that two files changed names; what can be checked is in docs/files.md.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from harness import datasets, errors, registry, storage
from harness.detector import artifact
from harness.detector.artifact import Artifact, TensorSpec, Variant
from harness.errors import DatasetError, UsageError
from harness.records import batches, outputs, record
from harness.records.record import Device, Source
from harness.run.job import Job, head_of
from harness.types import AnyArray, Case, MaskResize

Program = Literal["ais_bench", "cpp", "npy"]
DType = Literal["float32", "float16"]
_SUMMARY = "_summary.json"
_REPORTED = {"H2D_latency": "h2d", "NPU_compute_time": "compute", "D2H_latency": "d2h"}
"""What ais_bench calls our stages."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreRequest:
    """Outputs to be scored, and what they are outputs of."""

    artifacts: Path
    data: Path
    categories: tuple[str, ...]
    inputs: Path
    """As `harness inputs` wrote it: one folder of batches, or one per category."""
    outputs: Path
    """The files, or one folder of them per category."""
    program: Program
    """Whose names the files have."""
    out: Path
    threads: int
    label: str | None = None
    output_dtype: DType = "float32"
    """Of `.bin` files."""
    mask_threshold: int = 127
    mask_resize: MaskResize = "nearest"


def jobs(request: ScoreRequest) -> tuple[Job, ...]:
    """Check every file, gather the outputs beside the records to come, and give one case per category.

    Raises:
        DatasetError: a file is missing, extra, altered, of another size, holds NaN, or is of something else.
        UsageError: a variant that the artifact does not have, or nothing can be written.
    """
    storage.require_writable(request.out)
    found = artifact.find(request.artifacts, request.categories)
    if len(found) > 1 and (request.inputs / batches.INDEX).is_file():
        raise UsageError(f"{request.inputs} holds one category: name it with --category")
    return tuple(_job(request, item) for item in found)


def _job(request: ScoreRequest, found: Artifact) -> Job:
    manifest = found.manifest
    category = datasets.load_category(request.data, manifest.category)
    fingerprint = datasets.fingerprint(category, "test")
    folder = batches.read(batches.below(request.inputs, manifest.category))
    known = {variant.id: variant for variant in manifest.variants}
    if folder.index.variant not in known:
        raise UsageError(errors.unknown(f"variant of {found.path}", folder.index.variant, known))
    variant = known[folder.index.variant]
    batches.require_for(folder, found, variant, fingerprint)
    written = request.outputs if folder.path == request.inputs else request.outputs / manifest.category
    gathered = _gather(request, folder, found, variant, written)
    simulated = variant.target is not None and variant.target.simulated
    job = Job(
        case=Case(
            detector=manifest.detector,
            backbone=manifest.backbone,
            category=manifest.category,
            backend=f"files-{request.program}",
            variant=variant.id,
            dataset=request.data.resolve().name,
            batch_size=folder.index.batch_size,
            threads=request.threads,
            warmup=0,
            mask_threshold=request.mask_threshold,
            mask_resize=request.mask_resize,
            source=request.label,
        ),
        artifact=found,
        variant=variant,
        category=category,
        fingerprint=fingerprint,
        out=request.out,
        inputs=folder.path,
        played=Device(
            device=f"elsewhere (files in the names of {request.program})",
            runtime={},
            options={"model": "not verified: the one that the inputs were written for"},
            simulated=simulated,
        ),
        source=Source(
            inputs_sha256=folder.sha256,
            outputs_sha256=storage.sha256_of_file(gathered),
            made_by=request.program,
            reported_ms=_reported(written) if request.program == "ais_bench" else {},
        ),
    )
    path = request.out / record.outputs_name(job.case, job.inputs_sha256)
    gathered.replace(path)
    return dataclasses.replace(job, outputs=path)


def _gather(
    request: ScoreRequest, folder: batches.Folder, found: Artifact, variant: Variant, written: Path
) -> Path:
    """Write all outputs into one temporary file of the results folder and give its path."""
    files = _files(request.program, folder, variant, written)
    keep_inputs = registry.head(head_of(found, variant)).scores_input
    (request.out / "evidence").mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=request.out / "evidence", prefix=".outputs.", suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            writer = outputs.Writer(file, [image.rows for image in folder.index.images])
            seen: dict[str, batches.Batch] = {}
            for batch, paths in zip(folder.index.batches, files, strict=True):
                inputs = folder.read(batch)
                given, digest = _read(paths, batch, variant, request.output_dtype)
                _require_own(written, seen.setdefault(digest, batch), batch)
                writer.add(given, inputs if keep_inputs else None)
            writer.finish()
        Path(name).chmod(0o644)
    except BaseException:
        Path(name).unlink()
        raise
    return Path(name)


def _require_own(written: Path, twin: batches.Batch, batch: batches.Batch) -> None:
    """Raise `DatasetError` when two batches of other inputs have the same outputs."""
    if twin.sha256 != batch.sha256:
        raise DatasetError(
            f"{written}: the outputs of {twin.file} and {batch.file} are the same bytes, their inputs are not: the "
            "program wrote one batch twice; run it again"
        )


def _files(program: Program, folder: batches.Folder, variant: Variant, written: Path) -> list[list[Path]]:
    """The file of every output of every batch, when exactly those are there."""
    try:
        there = {path.name for path in written.iterdir()}
    except OSError as error:
        raise DatasetError(
            f"{written}: cannot be read ({error.strerror}); name the folder of the outputs"
        ) from error
    ours = {name for name in there if program == "ais_bench" and name.endswith(_SUMMARY)}
    chosen: list[list[Path]] = []
    missing: list[str] = []
    for batch in folder.index.batches:
        stem, paths = Path(batch.file).stem, list[Path]()
        for number, spec in enumerate(variant.outputs):
            names = _names(program, stem, number, spec)
            match = [name for name in names if name in there]
            if len(match) > 1:
                raise DatasetError(f"{written}: {' and '.join(match)} are one output twice; keep one")
            missing += [] if match else [names[0]]
            paths += [written / name for name in match]
        chosen.append(paths)
    extra = sorted(there - ours - {path.name for paths in chosen for path in paths})
    for what, names in (("missing", missing), ("not an output of these inputs", extra)):
        if names:
            raise DatasetError(
                f"{written}: {what}: {', '.join(names[:5])}{f' and {len(names) - 5} more' if names[5:] else ''} "
                f"({len(folder.index.batches)} batches of {len(variant.outputs)} outputs, docs/files.md says how they "
                "are named); run the inputs through the model again, into an empty folder"
            )
    return chosen


def _names(program: Program, stem: str, number: int, spec: TensorSpec) -> list[str]:
    """Names that an output's file may have."""
    if program == "npy":
        return list(dict.fromkeys([f"{stem}_{spec.name}.npy", f"{stem}_{number}.npy"]))
    return [f"{stem}_{number}.bin", *([f"{stem}_{number}.npy"] if program == "ais_bench" else [])]


def _read(
    paths: Sequence[Path], batch: batches.Batch, variant: Variant, dtype: DType
) -> tuple[dict[str, AnyArray], str]:
    """Outputs of one batch by name, float32, without the padding, and a digest of the files."""
    given: dict[str, AnyArray] = {}
    digests = []
    dtypes = sorted(("float32", "float16"), key=lambda name: name != dtype)
    for path, spec in zip(paths, variant.outputs, strict=True):
        data = path.read_bytes()
        digests.append(hashlib.sha256(data).hexdigest())
        shape = (batch.rows, *batches.row_shape(spec))
        rows = batches.array_from_bytes(path, data, dtypes, shape)[: batch.real_rows].astype(np.float32)
        if not np.isfinite(rows).all():
            raise DatasetError(f"{path}: holds NaN or infinite values: the model overflowed, or failed")
        given[spec.name] = rows
    return given, storage.sha256_of_json(digests)


def _reported(written: Path) -> dict[str, dict[str, float]]:
    """What ais_bench's summary says of its own times, in ms per run; nothing when there is no summary.

    It lies in the folder of the outputs, or beside it under the folder's name.
    """
    paths = [
        *written.glob(f"*{_SUMMARY}"),
        *written.resolve().parent.glob(f"{written.resolve().name}{_SUMMARY}"),
    ]
    if not paths:
        return {}
    if len(paths) > 1:
        raise DatasetError(f"{written}: {len(paths)} summaries of ais_bench; keep the one of this run")
    try:
        summary = json.loads(paths[0].read_bytes())
        sections = {stage: summary[name] for name, stage in _REPORTED.items() if name in summary}
        return {stage: _numbers(section) for stage, section in sections.items()}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise DatasetError(f"{paths[0]}: not a summary of ais_bench ({error}); move it away") from error


def _numbers(section: dict[str, Any]) -> dict[str, float]:
    return {
        name: float(value)
        for name, value in section.items()
        if isinstance(value, int | float) and math.isfinite(value)
    }
