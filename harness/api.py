"""The Python API, for scripts and notebooks: fit, export, score, bench, compare, judge.

Nothing here prints. Long work reports to a callback `progress(label, done, total)`; errors are those of `harness.errors`.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import cv2
import msgspec
import numpy as np

from harness import build, datasets, gates, machine, parity, registry, storage
from harness.datasets.images import images_in
from harness.detector import artifact
from harness.detector import settings as detector_settings
from harness.detector.artifact import Artifact, Manifest, Thresholds
from harness.errors import DatasetError, Unavailable, UsageError
from harness.gates import GateReport
from harness.parity import Limits, ParityReport
from harness.progress import Listener as Progress
from harness.progress import progress as report_progress
from harness.progress import reported_to
from harness.records import record as records_module
from harness.records.record import EvidenceArrays, Record
from harness.run import plan, worker
from harness.run.job import Job
from harness.run.options import RunOptions
from harness.run.quickstart import runnable_backends
from harness.types import AnyArray, Bool, Case, Category, Device, Float32, Sample, UInt8

__all__ = [
    "Detector",
    "EvidenceArrays",
    "GateReport",
    "ParityReport",
    "Progress",
    "Record",
    "Scores",
    "bench",
    "compare",
    "export",
    "fit",
    "gate",
    "load_artifact",
    "read_evidence",
    "read_records",
    "to_dataframe",
    "to_rows",
]

PathLike = str | os.PathLike[str]
ImageInput = PathLike | Sequence[PathLike] | Sequence[AnyArray] | AnyArray
_WARMUP = 1
_PERCENTILES = ("mean", "p50", "p90", "p95", "p99")


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """The scores of N images; higher means more anomalous, in the detector's own unit."""

    names: tuple[str, ...]
    """Path of each file, or its index among the arrays."""
    images: Float32
    """(N,), one score per image."""
    maps: Float32
    """(N, H, W), one score per pixel of the preprocessed image; (N, 0, 0) of a detector without maps."""
    frames: UInt8
    """(N, H, W, C), the preprocessed images before scaling, RGB or grey, aligned with `maps`."""
    thresholds: Thresholds
    """Frozen when the detector was fitted."""

    @property
    def defective(self) -> Bool | None:
        """(N,), true if the image's score is above the frozen image threshold; `None` if the detector has none."""
        return _above(self.images, self.thresholds.image)

    @property
    def defective_pixels(self) -> Bool | None:
        """(N, H, W), true above the frozen pixel threshold; `None` if the detector has none."""
        return _above(self.maps, self.thresholds.pixel)


@dataclass(frozen=True, slots=True, kw_only=True)
class Detector:
    """A fitted detector: an artifact folder that was read and checked."""

    artifact: Artifact

    @property
    def path(self) -> Path:
        """The artifact folder."""
        return self.artifact.path

    @property
    def manifest(self) -> Manifest:
        """Detector, backbone, category, preprocessing, thresholds, variants, and where it all came from."""
        return self.artifact.manifest

    @property
    def variants(self) -> tuple[str, ...]:
        """Ids of the exported variants, float32 first."""
        return tuple(variant.id for variant in self.manifest.variants)

    def score(
        self,
        images: ImageInput,
        *,
        backend: str,
        variant: str | None = None,
        batch_size: int = 1,
        threads: int | None = None,
        timeout: float = 600.0,
        progress: Progress | None = None,
    ) -> Scores:
        """Score images in a worker process, with the code and the bits of `bench`.

        Each call starts one worker and opens the model, so give it many images at once. All maps are held in memory:
        0.2 MB per image at 224 × 224.

        Args:
            images: A folder, an image file, a sequence of image files, or arrays: uint8, RGB (N, H, W, 3) or grey (N, H, W),
                or a sequence of (H, W, 3) and (H, W).
            backend: Name of the backend, for example `onnxruntime-cpu`.
            variant: Id of the variant; `None` for the one in the backend's preferred format.
            batch_size: Images per run of the network, at least 1.
            threads: CPU cores of the worker; `None` for all usable ones.
            timeout: Seconds without any progress after which the worker is killed.
            progress: Called after each batch.

        Returns:
            The scores in the order of the images; a folder's images are sorted by name.

        Raises:
            ArtifactError: no variant that the backend opens, or a file was altered.
            DatasetError: no image, or one that cannot be read.
            HarnessError: the worker failed; the message holds its last words.
            Unavailable: the backend does not run on this machine.
            UsageError: an unknown backend or variant, arrays of another type, a batch size or thread number below 1, or more threads
                than cores.
        """
        threads = machine.usable_cores() if threads is None else threads
        for option, value in (("batch_size", batch_size), ("threads", threads)):
            if value < 1:
                raise UsageError(f"{option}={value}: at least 1 is needed")
        plan.require_cores(threads)
        chosen = plan.variant_for(self.artifact, backend, variant)
        with tempfile.TemporaryDirectory(prefix="harness-score-") as folder, _listening(progress):
            names, files = _files(images, Path(folder))
            samples = tuple(
                Sample(name=f"{index:09}", path=file, label=0, defect="good", mask_path=None)
                for index, file in enumerate(files)
            )
            category = Category(name=self.manifest.category, root=Path(folder), train=(), test=samples)
            case = Case(
                detector=self.manifest.detector,
                backbone=self.manifest.backbone,
                category=category.name,
                backend=backend,
                variant=chosen.id,
                dataset="scored",
                batch_size=batch_size,
                threads=threads,
                warmup=_WARMUP,
            )
            job = Job(
                case=case,
                artifact=self.artifact,
                variant=chosen,
                category=category,
                fingerprint=datasets.fingerprint(category, "test"),
                out=Path(folder),
            )
            record, evidence = _scored(job, timeout)
        return Scores(
            names=names,
            images=np.array([image.score for image in record.images], np.float32),
            maps=evidence.maps,
            frames=evidence.frames,
            thresholds=self.manifest.thresholds,
        )


def load_artifact(path: PathLike) -> Detector:
    """Open an artifact folder.

    Raises:
        ArtifactError: it is no artifact, of another schema, or was altered.
    """
    return Detector(artifact=artifact.read(Path(path)))


def fit(
    data: PathLike,
    category: str,
    *,
    detector: str = "padim",
    backbone: str = "resnet18",
    weights: PathLike | None = None,
    out: PathLike = "artifacts",
    settings: Mapping[str, Any] | None = None,
    seed: int = 0,
    device: Device = "cpu",
    force: bool = False,
    progress: Progress | None = None,
) -> Detector:
    """Fit a detector on the good training images of one category, or return the one that an equal call fitted before.

    Args:
        data: The folder that holds the categories.
        category: Name of the category.
        detector: `padim`, `patchcore`, `fastflow`, `stpm`, `ssim_ae`, or a plug-in's name.
        backbone: `resnet18`, `wide_resnet50_2` or `wide_resnet101_2`; ignored by a detector without a backbone.
        weights: The backbone's weights, or `random` for an untrained one; for detectors with a backbone.
        out: The artifact is written to `out/DETECTOR-BACKBONE/CATEGORY`.
        settings: By the names that `python -m harness settings DETECTOR` lists.
        seed: Of the hold-out, of random draws, and of an untrained backbone; from 0 to 4294967295.
        device: What a training runs on.
        force: Replace an artifact that was fitted otherwise.
        progress: Called after each batch.

    Raises:
        ArtifactError: the folder holds an artifact that was fitted otherwise.
        DatasetError: the category is missing, broken, or has too few images.
        MissingExtra: MindSpore is not installed; plug-ins do not need it.
        UsageError: an unknown detector or setting, a value out of range, or no weights.
    """
    if not registry.has_backbone(detector):
        backbone = "none"
    elif weights is None:
        raise UsageError("fit needs weights: a backbone's file, or 'random' for an untrained one")
    request = build.FitRequest(
        detector=detector,
        backbone=backbone,
        weights=None if backbone == "none" or weights == "random" else Path(str(weights)),
        dataset=Path(data).resolve().name,
        category=datasets.load_category(Path(data), category),
        out=build.detector_folder(Path(out), detector, backbone) / category,
        settings=detector_settings.settings(detector, settings or {}),
        seed=seed,
        device=device,
        force=force,
    )
    with _listening(progress):
        return Detector(artifact=build.fit(request)[0])


def export(
    detector: Detector | PathLike,
    format: str = "onnx",  # noqa: A002 - as the command's option
    *,
    head_in_graph: bool = False,
    precision: Literal["fp16", "int8"] | None = None,
    data: PathLike | None = None,
) -> Detector:
    """Write a variant into the artifact.

    Args:
        detector: What is exported, or its folder.
        format: `onnx`, `mindir` or `air`.
        head_in_graph: The graph contains the head: image in, map and score out.
        precision: Convert the float32 ONNX variant to float16, or quantise it to int8, instead of exporting `format`.
        data: The folder that holds the categories, whose good images calibrate and check; needed with `precision`.

    Returns:
        The detector with the new variant.

    Raises:
        ArtifactError: no float32 ONNX variant to reduce.
        MissingExtra: MindSpore, onnx or onnxruntime is not installed.
        UsageError: an unknown format, or `precision` without `data`.
    """
    opened = detector if isinstance(detector, Detector) else load_artifact(detector)
    if precision is None:
        build.export(opened.artifact, format, head_in_graph=head_in_graph)
    elif data is None:
        raise UsageError("export with precision needs data: the folder that holds the categories")
    else:
        category = datasets.load_category(Path(data), opened.manifest.category)
        request = build.PrecisionRequest(precision=precision)
        build.quantize(opened.artifact, category, request, head_in_graph=head_in_graph)
    return load_artifact(opened.path)


def bench(
    detectors: Detector | PathLike | Sequence[Detector | PathLike],
    data: PathLike,
    *,
    backends: str | Sequence[str] | None = None,
    categories: Sequence[str] = (),
    variants: Sequence[str] = (),
    out: PathLike = "results",
    options: RunOptions | None = None,
    save_outputs: bool = False,
    progress: Progress | None = None,
) -> tuple[Record, ...]:
    """Measure accuracy and latency, one record per case; a case that was measured before is not measured again.

    Args:
        detectors: Detectors, artifact folders, or folders of them.
        data: The folder that holds the categories.
        backends: Names of backends; `None` for all that run on this machine.
        categories: Names of categories; empty for all.
        variants: Ids of variants, each a case of its own; empty for the one in each backend's preferred format.
        out: The results folder, for records and evidence.
        options: Batch size, threads, warm-up, timeout, masks; by default those of `harness.run.options`, and all cores.
        save_outputs: Save the network's raw outputs, which `compare` then compares too.
        progress: Called after each batch.

    Returns:
        The records in the order of the cases. A case that failed has a record whose `status` and `reason` say so.

    Raises:
        ArtifactError, DatasetError: something that the cases need is missing or broken.
        Unavailable: no backend runs on this machine.
        UsageError: an unknown backend, variant or category.
    """
    several = [detectors] if isinstance(detectors, (Detector, str, os.PathLike)) else detectors
    paths = tuple(entry.path if isinstance(entry, Detector) else Path(entry) for entry in several)
    options = options or RunOptions(threads=machine.usable_cores())
    names = [backends] if isinstance(backends, str) else backends or runnable_backends(lambda _: None)
    with _listening(progress):
        planned = plan.plan(
            plan.BenchRequest(
                artifacts=paths,
                data=Path(data),
                categories=tuple(categories),
                backends=tuple(dict.fromkeys(names)),
                out=Path(out),
                variants=tuple(variants),
                options=options,
                save_outputs=save_outputs,
            )
        )
        return plan.run(planned, timeout=options.timeout, report=lambda _: None, progress=report_progress)


def read_records(results: PathLike, *, newest: bool = True) -> tuple[Record, ...]:
    """The records of a results folder; with `newest`, only the newest of each case.

    Raises:
        RecordError: no record, or one that cannot be read or was altered.
    """
    records = records_module.read_all(Path(results))
    return records_module.latest(records) if newest else records


def read_evidence(results: PathLike, record: Record) -> EvidenceArrays | None:
    """A record's maps (N, H, W), masks and frames, in the order of `record.images`; `None` if it has none.

    Raises:
        RecordError: the file was altered.
    """
    return records_module.read_evidence(Path(results), record)


def compare(
    results: PathLike,
    reference: str,
    *,
    profile: str | None = None,
    tolerances: Mapping[str, float] | None = None,
    margin: float | None = None,
    records: Sequence[Record] | None = None,
) -> ParityReport:
    """Judge whether the records of a results folder agree with those of a reference backend.

    Args:
        results: The results folder.
        reference: `BACKEND`, or `BACKEND:VARIANT` to compare its other variants too.
        profile: `float32`, `float16`, `bfloat16` or `int8`; `None` for the looser of each pair's precisions.
        tolerances: Network output → its own tolerance, as a share of its largest value.
        margin: The loss of AUROC and AUPRO, in [0, 1), that must be ruled out.
        records: The records to compare; `None` for the newest of the folder.

    Returns:
        `verdict`, and for each pair `levels`, `verdict`, `flips`, `metrics` and the `largest` differences.

    Raises:
        RecordError: no records, or altered ones.
        UsageError: an unknown profile or output.
    """
    limits = Limits(profile=profile, outputs=tolerances or {}, margin=margin)
    chosen = None if records is None else tuple(records)
    return parity.parity(Path(results), reference=reference, limits=limits, records=chosen)


def gate(rules: PathLike, results: PathLike = "results") -> GateReport:
    """Judge records by rules; the report's `verdict` is `passed`, `failed` or `not measured`.

    Args:
        rules: A TOML file, or the name of shipped rules.
        results: The results folder.

    Raises:
        UsageError: no such rules, or rules that cannot be read.
    """
    return gates.gate(gates.find(os.fspath(rules)), Path(results))


def to_rows(records: Sequence[Record]) -> list[dict[str, Any]]:
    """One flat row per record, all with the same keys; a value that is missing is `None`.

    Metrics are in [0, 1], `latency_STAGE_p50_ms` and the like in milliseconds per image.
    """
    rows = [_row(record) for record in records]
    columns = dict.fromkeys(name for row in rows for name in row)
    return [{name: row.get(name) for name in columns} for row in rows]


def to_dataframe(records: Sequence[Record], library: Literal["pandas", "polars"] | None = None) -> Any:
    """`to_rows` as a data frame of pandas or polars, whichever is installed, pandas first.

    Raises:
        Unavailable: the library, or with `None` both, are not installed.
    """
    for name in (library,) if library else ("pandas", "polars"):
        if registry.is_installed(name):
            return registry.load(f"{name}:DataFrame")(to_rows(records))
    missing = library or "pandas or polars"
    raise Unavailable(
        f"to_dataframe needs {missing}, which is not installed: pip install {library or 'pandas'}; to_rows needs neither"
    )


def _above(scores: Float32, threshold: float | None) -> Bool | None:
    """Compare in float64, as records are judged."""
    return None if threshold is None else scores.astype(np.float64) > threshold


def _row(record: Record) -> dict[str, Any]:
    device = record.device
    return {
        **msgspec.to_builtins(record.case),
        "status": record.status,
        "reason": record.reason,
        "device": device and device.device,
        "simulated": device and device.simulated,
        **record.metrics,
        **{
            f"latency_{stage}_{name}_ms": getattr(distribution, name)
            for stage, distribution in record.latency_ms.items()
            for name in _PERCENTILES
        },
        "images_per_second": record.images_per_second,
        "load_ms": record.load_ms,
        "peak_memory_bytes": record.peak_memory_bytes,
        "model_bytes": record.model_bytes,
        "machine": record.host.name,
        "finished": record.finished,
        "detector_sha256": record.detector_sha256,
        "inputs_sha256": record.inputs_sha256,
    }


def _listening(progress: Progress | None) -> AbstractContextManager[None]:
    return reported_to(progress or (lambda *_: None))


def _scored(job: Job, timeout: float) -> tuple[Record, EvidenceArrays]:
    label = f"{job.case.backend} {job.case.category}"
    try:
        with report_progress(label, len(job.category.test)) as advance:
            record = records_module.read(worker.start(job, advance=advance, timeout=timeout))
    except worker.Failure as failure:
        if failure.skipped:
            raise Unavailable(str(failure)) from failure
        raise
    evidence = records_module.read_evidence(job.out, record)
    assert evidence is not None  # noqa: S101 - the worker has just written it
    return record, evidence


def _files(images: ImageInput, folder: Path) -> tuple[tuple[str, ...], tuple[Path, ...]]:
    """Names and files of the images; arrays are written into `folder` without loss.

    Raises:
        DatasetError: no images, or a file that is missing.
        UsageError: arrays that are not uint8 images.
    """
    if isinstance(images, (str, os.PathLike)):
        place = storage.local_path(os.fspath(images))
        images = images_in(place) if place.is_dir() else [place]
        if not images:
            raise DatasetError(f"{place}: no images in this folder")
    if isinstance(images, np.ndarray) and images.ndim == 3 and images.shape[2] in (1, 3, 4):
        raise UsageError(
            f"an array {images.shape} may be one colour image or {len(images)} grey ones: one image is given as [image]"
        )
    if len(images) == 0:
        raise DatasetError("no images to score")
    names, files = [], []
    for index, image in enumerate(images):
        if isinstance(image, np.ndarray):
            names.append(str(index))
            files.append(_written(image, folder / f"{index:09}.png"))
            continue
        path = storage.local_path(os.fspath(image))
        if not path.is_file():
            raise DatasetError(f"{path}: no such file")
        names.append(str(path))
        files.append(path)
    return tuple(names), tuple(files)


def _written(pixels: AnyArray, path: Path) -> Path:
    """An RGB or grey image as a PNG file."""
    if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3) or pixels.shape[2:] not in ((), (1,), (3,)):
        raise UsageError(
            f"an array of {pixels.dtype} {pixels.shape} is no image: uint8 (H, W, 3) in RGB or (H, W) is needed, and one "
            "image is given as [image]"
        )
    stored = pixels[:, :, ::-1] if pixels.shape[2:] == (3,) else pixels
    if not cv2.imwrite(str(path), np.ascontiguousarray(stored)):
        raise DatasetError(f"{path}: cannot be written; check the disk")
    return path
