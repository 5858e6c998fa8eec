"""Small records with evidence, whose metrics follow from their scores and maps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from harness import metrics, storage
from harness.contracts import DeviceReport
from harness.detector.artifact import Thresholds, Weights
from harness.machine import Host
from harness.parity import PairReport, compare
from harness.records import record
from harness.records.record import Data, EvidenceArrays, ImageResult, Record
from harness.types import AnyArray, Case

HOST = Host(
    name="bench",
    machine="x86_64",
    processor="any",
    cores=2,
    memory_bytes=8 << 30,
    system="Linux",
    python="3.11.7",
    harness="0.1.0",
    git_commit=None,
    git_dirty=None,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outputs:
    """What a synthetic backend gives; every field has the images on axis 0."""

    scores: AnyArray
    labels: AnyArray
    maps: AnyArray
    masks: AnyArray


def outputs(*, good: int = 4, defective: int = 4, side: int = 6) -> Outputs:
    """Good images score from 1 to 2, so that the range is 1, and defective ones from 3 to 4."""
    scores = np.concatenate([np.linspace(1, 2, good), np.linspace(3, 4, defective)])
    labels = np.repeat([0, 1], [good, defective])
    maps = np.random.default_rng(0).random((good + defective, side, side), np.float32)
    masks = np.zeros(maps.shape, np.bool_)
    masks[good:, 1:3, 1:4] = True
    return Outputs(scores=scores, labels=labels, maps=maps, masks=masks)


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """A results folder under construction."""

    folder: Path

    def add(self, backend: str, given: Outputs, *, case: Mapping[str, Any] = {}, **changes: Any) -> Record:
        """Write one record with its evidence; `case` and `changes` replace fields of case and record."""
        full = Case(
            **{
                "detector": "padim",
                "backbone": "resnet18",
                "category": "bottle",
                "variant": "onnx-fp32",
                "dataset": "mvtec",
                **case,
            },
            backend=backend,
        )
        digests = [changes.get(name) for name in ("detector_sha256", "model_sha256")]
        inputs = storage.sha256_of_json([msgspec.to_builtins(full), *digests])
        arrays = EvidenceArrays(maps=given.maps, masks=given.masks, frames=frames(given))
        made = Record(
            schema=record.SCHEMA,
            status="measured",
            reason=None,
            case=full,
            inputs_sha256=inputs,
            detector_sha256="d" * 64,
            model_sha256="e" * 64,
            artifact_sha256="a" * 64,
            weights=Weights(source="random", sha256="0" * 64, seed=0),
            thresholds=THRESHOLDS,
            host=HOST,
            started="2025-01-01T00:00:00+00:00",
            finished="2025-01-01T00:00:01+00:00",
            device=DeviceReport(device="CPU", runtime={}, options={}, simulated=False),
            data=Data(
                fingerprint="f" * 64,
                good=int((given.labels == 0).sum()),
                defective=int((given.labels == 1).sum()),
                masks_cut=0,
                masks_emptied=0,
            ),
            images=images(given),
            evidence=record.write_evidence(self.folder, full, inputs, arrays),
            **measured(given),
        )
        made = msgspec.structs.replace(made, **changes)
        record.write(self.folder, made)
        return made

    def compared(self, given: Outputs, other: Outputs, **changes: Any) -> PairReport:
        """Compare a reference that gives the first with another backend that gives the second."""
        reference, second = self.add("reference", given), self.add("other", other, **changes)
        return compare(self.folder, reference, second)


THRESHOLDS = Thresholds(image=2.5, pixel=1.0, image_quantile=0.95, pixel_quantile=0.995, held_out_images=20)


def images(given: Outputs) -> tuple[ImageResult, ...]:
    kinds = ("good", "crack")
    return tuple(
        ImageResult(
            name=f"test/{kinds[label]}/{index:03}.png",
            label=int(label),
            score=float(score),
            stages={stage: f"{stage} {index}" for stage in ("decode", "frame", "input")},
        )
        for index, (label, score) in enumerate(zip(given.labels, given.scores, strict=True))
    )


def frames(given: Outputs) -> AnyArray:
    grey = (given.labels[:, None, None, None] * 80 + 100).astype(np.uint8)
    return np.broadcast_to(grey, (*given.maps.shape, 3)).copy()


def measured(given: Outputs) -> dict[str, Any]:
    """The metrics of a record, as bench takes them; none where it would have refused the scores."""
    found = metrics.Metrics(values={}, thresholds={}, undefined={})
    if np.isfinite(given.scores).all():
        found = metrics.image_metrics(given.scores, given.labels)
    if np.isfinite(given.maps).all():
        found = metrics.merge(found, metrics.pixel_metrics(given.maps, given.masks))
    return {"metrics": found.values, "f1_max_thresholds": found.thresholds, "undefined": found.undefined}
