"""Records: one JSON file per case, with the evidence it rests on beside it.

A record is written whole, named by its case and a digest of everything that went in, so that a finished case is never
run twice unless asked, and never overwritten by another. Undefined is absent with a reason; NaN cannot be written.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
import safetensors
import safetensors.numpy

from harness import storage
from harness.contracts import DeviceReport
from harness.detector.artifact import Thresholds, Variant, Weights
from harness.errors import RecordError
from harness.machine import Host
from harness.metrics import PixelDecisions
from harness.types import AnyArray, Bool, Case, Float32, UInt8

SCHEMA = 1
METRICS = ("image_auroc", "pixel_auroc", "aupro", "image_ap", "pixel_ap", "image_f1_max", "pixel_f1_max")
"""What every record has; `pixel_decisions` adds four."""
STAGES = ("decode", "preprocess", "infer", "head", "infer_head", "total")
"""`infer_head` is infer + head, which seed 001 reports; `total` is decode + preprocess + infer + head."""
DEVICE_STAGES = ("h2d", "compute", "d2h")
"""Parts of `infer` as the session reports them: copies to the device, execution, copies back; only of some backends."""

_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?\+00:00")

Status = Literal["measured", "failed", "skipped"]


class _Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    pass


class Distribution(_Strict, frozen=True, kw_only=True):
    """Mean and percentiles of one latency stage, in milliseconds per image."""

    mean: float
    p50: float
    p90: float
    p95: float
    p99: float


class ImageResult(_Strict, frozen=True, kw_only=True):
    """One test image: its identity, the digests of its preprocessing, its score."""

    name: str
    label: int
    score: float
    stages: dict[str, str]
    """Stage → SHA-256 of its array: `decode` pixels as stored, `frame` after resize and crop, `input` of the network."""


class Data(_Strict, frozen=True, kw_only=True):
    """The test images as a whole."""

    fingerprint: str
    """SHA-256 over names, labels and file contents of images and masks."""
    good: int
    defective: int
    masks_cut: int
    """Masks that lose defective pixels to the crop."""
    masks_emptied: int
    """Masks that lose all of them: the image still counts as defective, its map has no region to find."""


class Fit(_Strict, frozen=True, kw_only=True):
    """How the measured detector was fitted, from its artifact."""

    dataset: str
    images: int
    seconds: float | None = None
    finished: str | None = None
    """UTC, ISO 8601."""
    host: Host | None = None
    settings: dict[str, Any] = {}
    """By the names of `harness.detector.settings`, defaults written out; empty if the artifact does not say."""
    software: dict[str, str] = {}


class Evidence(_Strict, frozen=True, kw_only=True):
    """The file of arrays beside the record."""

    file: str
    sha256: str


class StoredOutputs(_Strict, frozen=True, kw_only=True):
    """The file of saved network outputs beside the record, which `replay` scores (`harness.records.outputs`)."""

    file: str
    sha256: str
    variant: Variant
    """The variant that computed them, so that an artifact without it can score them."""


class Source(_Strict, frozen=True, kw_only=True):
    """What came from files instead of being computed. Absent fields were computed."""

    inputs_sha256: str | None = None
    """Of the index of the input batches that replaced preprocessing."""
    outputs_sha256: str | None = None
    """Of the saved outputs that replaced inference."""
    record_sha256: str | None = None
    """Of the file of the record that was replayed."""
    made_by: str | None = None
    """Backend of that record, or the program that wrote the outputs."""
    host: Host | None = None
    """Machine that made that record."""
    reported_ms: dict[str, dict[str, float]] = {}
    """Latency stage → times that the program that wrote the outputs reports, in ms per run; not measured by the harness."""


class Record(_Strict, frozen=True, kw_only=True):
    """One case and its results."""

    schema: int
    status: Status
    reason: str | None = None
    """Why it failed or was skipped; absent when measured."""
    case: Case
    inputs_sha256: str
    """Digest of case, detector, model file and test data: equal inputs are not run again."""
    detector_sha256: str
    model_sha256: str
    input_stage: str | None = None
    """Last preprocessing step done outside the model: `crop` where a chip's AIPP normalises; absent in older records."""
    artifact_sha256: str
    """Digest of the artifact's manifest, which holds the digests of all its files."""
    weights: Weights
    thresholds: Thresholds
    fit: Fit | None = None
    training: dict[str, Any] | None = None
    """Result of a training by gradient: epochs, steps, first_loss, last_loss, step_ms (median), seconds, parameters,
    checkpoint_bytes. Absent for a detector fitted without one."""
    host: Host
    started: str
    """UTC, ISO 8601."""
    finished: str
    device: DeviceReport | None = None
    data: Data | None = None
    images: tuple[ImageResult, ...] = ()
    metrics: dict[str, float] = {}
    f1_max_thresholds: dict[str, float] = {}
    """Score at which an F1-max is attained: predict defective when score ≥ threshold."""
    undefined: dict[str, str] = {}
    """Metric → why it has no value."""
    pixel_decisions: PixelDecisions | None = None
    """How `pixel_ok`, `pixel_nok`, `pixel_acc` and `pixel_auc_binary` are measured; absent where they are not."""
    latency_ms: dict[str, Distribution] = {}
    latency_samples_ms: dict[str, list[float]] = {}
    """Stage → one value per image in the order of `images`; a batch's time is shared equally by its images."""
    images_per_second: float | None = None
    """Images over the sum of their `total` times."""
    load_ms: float | None = None
    """Opening the model on the device."""
    first_inference_ms: float | None = None
    peak_memory_bytes: int | None = None
    model_bytes: int | None = None
    """Size of the variant's files together."""
    evidence: Evidence | None = None
    outputs: StoredOutputs | None = None
    source: Source | None = None
    record_sha256: str | None = None
    """Digest of the rest of the file: `write` adds it, `read` checks it; absent from records in memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvidenceArrays:
    """The arrays that a record's numbers are computed from; axis 0 in the order of its `images`."""

    maps: Float32
    """(N, H, W) anomaly maps; (N, 0, 0) if the detector gives none."""
    masks: Bool
    """(N, H, W) ground truth in the frame of the maps."""
    frames: UInt8
    """(N, H, W, C) the network's images, RGB or grey, 0..255 before scaling."""


def file_name(case: Case, inputs_sha256: str) -> str:
    """Readable and unique: the case, then the digest of its inputs."""
    parts = (case.detector, case.backbone, case.category, case.backend, case.variant, inputs_sha256[:12])
    return "_".join(re.sub(r"[^\w.-]+", "-", part) for part in parts) + ".json"


def write(folder: Path, record: Record) -> Path:
    """Write `record` into `folder`, whole; one that holds no measurement never takes the place of one that does."""
    path = path_of(folder, record)
    document = {key: value for key, value in msgspec.to_builtins(record).items() if value is not None}
    storage.write_json(path, document | {"record_sha256": storage.sha256_of_json(document)})
    return path


def path_of(folder: Path, record: Record) -> Path:
    """Where `record` lies in a results folder."""
    path = folder / file_name(record.case, record.inputs_sha256)
    return path if record.status == "measured" else path.with_suffix(f".{record.status}.json")


def outputs_name(case: Case, inputs_sha256: str) -> str:
    """Path of the case's stored outputs below the results folder."""
    return f"evidence/{Path(file_name(case, inputs_sha256)).stem}.outputs.safetensors"


def write_evidence(folder: Path, case: Case, inputs_sha256: str, arrays: EvidenceArrays) -> Evidence:
    """Write the arrays beside the record and describe the file."""
    path = (folder / "evidence" / file_name(case, inputs_sha256)).with_suffix(".safetensors")
    packed: dict[str, AnyArray] = {
        "maps": arrays.maps,
        "masks": np.packbits(arrays.masks, axis=-1),
        "frames": arrays.frames,
    }
    with storage.replacing(path) as temporary:
        storage.save_arrays(packed, temporary)
        digest = storage.sha256_of_file(temporary)
    return Evidence(file=f"evidence/{path.name}", sha256=digest)


def read(path: Path) -> Record:
    """Read one record strictly.

    Raises:
        RecordError: no file, not JSON, another schema, unknown or missing keys, a wrong type; says where.
    """
    remedy = "bench the case again, or move the file away"
    record, document = storage.read_document(path, Record, schema=SCHEMA, error=RecordError, remedy=remedy)
    wrong = _contradiction(path, record)
    # The digest is of the keys and values: layout and order of the keys do not matter.
    if wrong is None and document.pop("record_sha256", None) != storage.sha256_of_json(document):
        wrong = "it has another digest, record_sha256"
    if wrong:
        raise RecordError(f"{path}: edited or renamed: {wrong}; {remedy}")
    return msgspec.structs.replace(record, record_sha256=None)


def _contradiction(path: Path, record: Record) -> str | None:
    """How a record contradicts itself, in words; `None` if it does not."""
    names = [image.name for image in record.images]
    texts = [*names, *map(str, msgspec.structs.astuple(record.case))]
    labels = [image.label for image in record.images]
    expected = path_of(path.parent, record).with_suffix("")
    evidence = f"evidence/{Path(file_name(record.case, record.inputs_sha256)).stem}.safetensors"
    checks = {
        f"its contents belong into {expected.name}.json": path.with_suffix("") == expected,
        "a name holds control characters": all(text.isprintable() for text in texts),
        "it lists an image twice": len(set(names)) == len(names),
        "it counts other images than it lists": record.data is None
        or record.status != "measured"
        or (labels.count(0), labels.count(1)) == (record.data.good, record.data.defective),
        "its evidence is another record's": record.evidence is None or record.evidence.file == evidence,
        "its outputs are another record's": record.outputs is None
        or record.outputs.file == outputs_name(record.case, record.inputs_sha256),
        "its outputs are another model's": record.outputs is None
        or record.outputs.variant.files.get(record.outputs.variant.model) == record.model_sha256,
        "it times a stage that nobody knows": {*record.latency_ms, *record.latency_samples_ms}
        <= {*STAGES, *DEVICE_STAGES},
        "it does not say when it was finished": bool(_TIME.fullmatch(record.finished)),
    }
    return next((wrong for wrong, right in checks.items() if not right), None)


def read_all(folder: Path) -> tuple[Record, ...]:
    """All records of a results folder, by file name.

    Raises:
        RecordError: no folder, no record in it, or one that cannot be read.
    """
    paths = sorted(path for path in folder.glob("*.json") if not path.name.startswith("."))
    if not paths:
        hint = "" if folder.is_dir() else " (there is no such folder)"
        raise RecordError(
            f"{folder}: no records here; make some with: python -m harness bench --out {folder}{hint}"
        )
    return tuple(read(path) for path in paths)


def latest(records: tuple[Record, ...]) -> tuple[Record, ...]:
    """The newest record of every case on each detector and data; a newer failure supersedes on any data."""
    newest: dict[tuple[Case, str, str | None], Record] = {}
    for record in sorted(records, key=lambda item: item.finished):
        identity = (record.case, record.detector_sha256)
        for key in [key for key in newest if key[:2] == identity and (record.data is None or key[2] is None)]:
            del newest[key]
        newest[(*identity, record.data.fingerprint if record.data else None)] = record
    return tuple(sorted(newest.values(), key=lambda item: (_order(item.case), item.finished)))


def _order(case: Case) -> tuple[tuple[bool, Any], ...]:
    """A key to sort cases by, field by field; what is absent comes first."""
    return tuple((value is not None, value) for value in msgspec.structs.astuple(case))


def read_evidence(folder: Path, record: Record) -> EvidenceArrays | None:
    """The record's arrays, checked against its digest; `None` when the record has none or the file is gone.

    Raises:
        RecordError: the file was altered, or its arrays do not fit the record.
    """
    if record.evidence is None:
        return None
    path = storage.inside(folder, record.evidence.file, RecordError)
    if not path.is_file():
        return None
    if storage.sha256_of_file(path) != record.evidence.sha256:
        raise RecordError(f"{path}: altered since the record was written; bench the case again")
    try:
        arrays: dict[str, AnyArray] = safetensors.numpy.load_file(path)
        maps, masks, frames = (arrays[name] for name in ("maps", "masks", "frames"))
    except (safetensors.SafetensorError, KeyError) as error:
        raise RecordError(f"{path}: not evidence of this harness ({error}); bench the case again") from error
    layout = [(array.dtype.name, *array.shape) for array in (maps, masks, frames)]
    count, height, width = (len(record.images), *frames.shape[1:3]) if frames.ndim == 4 else (0, 0, 0)
    sides = (0, 0) if maps.shape[1:] == (0, 0) else (height, width)
    expected = [
        ("float32", count, *sides),
        ("uint8", count, height, -(-width // 8)),
        ("uint8", count, height, width, 1 if frames.shape[-1] == 1 else 3),
    ]
    if layout != expected:
        raise RecordError(
            f"{path}: maps, masks and frames are {layout}, which do not fit {len(record.images)} images; "
            "bench the case again"
        )
    bits = np.unpackbits(masks, axis=-1, count=width).astype(np.bool_)
    return EvidenceArrays(maps=maps, masks=bits, frames=frames)


def distribution(samples_ms: Sequence[float]) -> Distribution:
    """Mean and percentiles (linear interpolation between order statistics) of at least one sample in ms."""
    values = np.asarray(samples_ms, np.float64)
    p50, p90, p95, p99 = (float(value) for value in np.percentile(values, [50, 90, 95, 99]))
    return Distribution(mean=float(values.mean()), p50=p50, p90=p90, p95=p95, p99=p99)
