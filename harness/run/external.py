"""Outputs that another program wrote for input batches of ours, scored as if a backend had given them.

Only a file's name says to which batch it belongs, so the names must be exactly those in the index. Raw outputs cannot
show that two files exchanged their names; docs/reference/file-formats.md lists what is checked.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from harness import datasets, registry, storage
from harness.contracts import DeviceReport
from harness.detector import artifact
from harness.detector.artifact import Artifact, TensorSpec, Variant
from harness.errors import DatasetError, UsageError
from harness.records import batches, outputs, record
from harness.records.record import Source
from harness.run.job import Job, head_of
from harness.run.options import RunOptions
from harness.types import AnyArray, Case

Program = Literal["ais_bench", "cpp", "npy"]
DType = Literal["float32", "float16"]
_SUMMARY = "_summary.json"
_REPORTED = {"H2D_latency": "h2d", "NPU_compute_time": "compute", "D2H_latency": "d2h"}
"""Name of ais_bench → our latency stage."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreRequest:
    """Outputs to score, and the inputs and artifacts they belong to."""

    artifacts: Path
    data: Path
    categories: tuple[str, ...]
    inputs: Path
    """Folder of input batches that `harness inputs` wrote, or of one such folder per category."""
    outputs: Path
    """Folder of output files, or of one such folder per category."""
    program: Program
    """Whose naming the files follow."""
    out: Path
    label: str | None = None
    output_dtype: DType = "float32"
    """Type of the numbers in `.bin` files."""
    options: RunOptions = field(default_factory=RunOptions)


def jobs(request: ScoreRequest) -> tuple[Job, ...]:
    """Check every file, gather the outputs beside the future records, and return one case per category.

    Raises:
        DatasetError: a file is missing, extra, altered, of another size, contains NaN, or belongs to something else.
        UsageError: the artifact does not have the variant, or the results folder cannot be written.
    """
    storage.require_writable(request.out)
    detectors = artifact.find(request.artifacts, request.categories)
    if len(detectors) > 1 and (request.inputs / batches.INDEX).is_file():
        raise UsageError(f"{request.inputs} holds one category: name it with --category")
    return tuple(_job(request, detector) for detector in detectors)


def _job(request: ScoreRequest, detector: Artifact) -> Job:
    manifest = detector.manifest
    category = datasets.load_category(request.data, manifest.category)
    fingerprint = datasets.fingerprint(category, "test")
    folder = batches.read(batches.below(request.inputs, manifest.category))
    variant = detector.variant_named(folder.index.variant)
    batches.require_for(folder, detector, variant, fingerprint)
    written = request.outputs if folder.path == request.inputs else request.outputs / manifest.category
    gathered = _gather(request, folder, detector, variant, written)
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
            threads=request.options.threads,
            warmup=0,
            mask_threshold=request.options.mask_threshold,
            mask_resize=request.options.mask_resize,
            source=request.label,
        ),
        artifact=detector,
        variant=variant,
        category=category,
        fingerprint=fingerprint,
        out=request.out,
        inputs=folder.path,
        outputs_device=DeviceReport(
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
    return replace(job, outputs=path)


def _gather(
    request: ScoreRequest, folder: batches.Folder, detector: Artifact, variant: Variant, written: Path
) -> Path:
    """Write all outputs into one temporary file in the results folder and return its path."""
    files = _files(request.program, folder, variant, written)
    keep_inputs = registry.head(head_of(detector, variant)).scores_input
    (request.out / "evidence").mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=request.out / "evidence", prefix=".outputs.", suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            writer = outputs.Writer(file, [image.rows for image in folder.index.images])
            first: dict[str, batches.Batch] = {}
            for batch, paths in zip(folder.index.batches, files, strict=True):
                inputs = folder.read(batch)
                arrays, digest = _read(paths, batch, variant, request.output_dtype)
                _require_own(written, first.setdefault(digest, batch), batch)
                writer.add(arrays, inputs if keep_inputs else None)
            writer.finish()
        Path(name).chmod(0o644)
    except BaseException:
        Path(name).unlink()
        raise
    return Path(name)


def _require_own(written: Path, earlier: batches.Batch, batch: batches.Batch) -> None:
    """Raise `DatasetError` if two batches with different inputs have the same outputs."""
    if earlier.sha256 != batch.sha256:
        raise DatasetError(
            f"{written}: the outputs of {earlier.file} and {batch.file} are the same bytes, their inputs are not: the "
            "program wrote one batch twice; run it again"
        )


def _files(program: Program, folder: batches.Folder, variant: Variant, written: Path) -> list[list[Path]]:
    """The output files of every batch.

    Raises:
        DatasetError: a file is missing, extra or duplicate.
    """
    try:
        names_there = {path.name for path in written.iterdir()}
    except OSError as error:
        raise DatasetError(
            f"{written}: cannot be read ({error.strerror}); name the folder of the outputs"
        ) from error
    summaries = {name for name in names_there if program == "ais_bench" and name.endswith(_SUMMARY)}
    chosen: list[list[Path]] = []
    missing: list[str] = []
    for batch in folder.index.batches:
        stem, paths = Path(batch.file).stem, list[Path]()
        for number, spec in enumerate(variant.outputs):
            names = _names(program, stem, number, spec)
            match = [name for name in names if name in names_there]
            if len(match) > 1:
                raise DatasetError(f"{written}: {' and '.join(match)} are one output twice; keep one")
            missing += [] if match else [names[0]]
            paths += [written / name for name in match]
        chosen.append(paths)
    extra = sorted(names_there - summaries - {path.name for paths in chosen for path in paths})
    for problem, names in (("missing", missing), ("not an output of these inputs", extra)):
        if names:
            raise DatasetError(
                f"{written}: {problem}: {', '.join(names[:5])}{f' and {len(names) - 5} more' if names[5:] else ''} "
                f"({len(folder.index.batches)} batches of {len(variant.outputs)} outputs, docs/reference/file-formats.md says how they "
                "are named); run the inputs through the model again, into an empty folder"
            )
    return chosen


def _names(program: Program, stem: str, number: int, spec: TensorSpec) -> list[str]:
    """The names that an output's file may have."""
    if program == "npy":
        return list(dict.fromkeys([f"{stem}_{spec.name}.npy", f"{stem}_{number}.npy"]))
    return [f"{stem}_{number}.bin", *([f"{stem}_{number}.npy"] if program == "ais_bench" else [])]


def _read(
    paths: Sequence[Path], batch: batches.Batch, variant: Variant, dtype: DType
) -> tuple[dict[str, AnyArray], str]:
    """Outputs of one batch by name, float32 without the padding, and a digest of the files."""
    arrays: dict[str, AnyArray] = {}
    digests = []
    dtypes = sorted(("float32", "float16"), key=lambda name: name != dtype)
    for path, spec in zip(paths, variant.outputs, strict=True):
        data = path.read_bytes()
        digests.append(hashlib.sha256(data).hexdigest())
        shape = (batch.rows, *batches.row_shape(spec))
        rows = batches.array_from_bytes(path, data, dtypes, shape)[: batch.real_rows].astype(np.float32)
        if not np.isfinite(rows).all():
            raise DatasetError(f"{path}: holds NaN or infinite values: the model overflowed, or failed")
        arrays[spec.name] = rows
    return arrays, storage.sha256_of_json(digests)


def _reported(written: Path) -> dict[str, dict[str, float]]:
    """The times in ais_bench's summary, in ms per run; empty without a summary.

    The summary lies in the folder of the outputs, or beside it under the folder's name.
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
