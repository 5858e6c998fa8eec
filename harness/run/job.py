"""One case and where its things are: what is planned, handed to a worker, and measured."""

from __future__ import annotations

import contextlib
import datetime as dt
import functools
import glob
import importlib.metadata
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from harness import __version__, machine, metrics, storage
from harness.detector.artifact import HEAD, Artifact, HeadSpec, Manifest, Variant
from harness.errors import ArtifactError, RecordError
from harness.records import record
from harness.records.record import (
    Device,
    Fit,
    Record,
    Source,
)
from harness.types import Case, Category

GRAPH = "graph"
"""Name of the head that passes on a graph's own scores."""


def head_of(artifact: Artifact, variant: Variant) -> str:
    """Name of the head that scores the variant's outputs."""
    return GRAPH if HEAD in variant.contains else artifact.manifest.head.name


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
    save_outputs: bool = False
    """Keep the network's raw outputs beside the record."""
    inputs: Path | None = None
    """Folder of batches that go in, in place of preprocessing."""
    outputs: Path | None = None
    """Stored outputs that are scored, in place of inference."""
    played: Device | None = None
    """What gave those outputs."""
    replayed: Path | None = None
    """The record they belong to, which also gives the ground truth."""
    source: Source | None = None
    """What the record says of all that."""

    @property
    def head(self) -> str:
        """Name of the head that scores: the detector's, or what passes on the scores of a graph that holds it."""
        return head_of(self.artifact, self.variant)

    @property
    def inputs_sha256(self) -> str:
        """Digest of all that decides the record: the case, the detector, the model file, the test data, the code."""
        source = {} if self.source is None else {"source": msgspec.to_builtins(self.source)}
        return storage.sha256_of_json(
            {
                "case": msgspec.to_builtins(self.case),
                "detector": self.artifact.manifest.detector_sha256,
                "model": self.variant.files,
                "data": self.fingerprint,
                "schema": record.SCHEMA,
                "harness": __version__,
                **source,
            }
        )

    def finished(self) -> Record | None:
        """The record of an earlier run of the same inputs, if it was measured, with its outputs where they are to be kept.

        None either where the record, its evidence or a file of the artifact is not what it was, where a later run of the case
        gave another record (of another model, detector or data, or a failure), and where another version of the runtime made it
        on this machine: the case then runs again, and says what is wrong if that is so still.
        """
        earlier, wanted = self.earlier(), self.inputs_sha256
        found = next(
            (item for item in earlier if item.status == "measured" and item.inputs_sha256 == wanted), None
        )
        # Tables show the newest, whatever its detector and data.
        if found is None or any(item.finished > found.finished for item in earlier) or _is_outdated(found):
            return None
        try:
            arrays = record.read_evidence(self.out, found)
            self._require_files()
        except (ArtifactError, RecordError):
            return None
        kept = found.outputs is not None and (self.out / found.outputs.file).is_file()
        return found if arrays is not None and (kept or not self.save_outputs) else None

    def earlier(self) -> tuple[Record, ...]:
        """Records of this case that are in the results folder and can be read."""
        name = record.file_name(self.case, self.inputs_sha256)
        found = []
        for path in self.out.glob(
            glob.escape(name.removesuffix(f"{self.inputs_sha256[:12]}.json")) + "*.json"
        ):
            with contextlib.suppress(RecordError):
                found.append(record.read(path))
        return tuple(item for item in found if item.case == self.case)

    def _require_files(self) -> None:
        """Raise `ArtifactError` unless the artifact holds what the case needs."""
        if self.outputs is None:
            self.artifact.model_file(self.variant)
        if self.head != GRAPH:
            self.artifact.state()


def _is_outdated(found: Record) -> bool:
    """Whether this machine made a record with other versions of the runtime's packages than are installed."""
    if machine.apart(found.host, machine.describe()):
        return False  # who carried it here wants it kept
    return not all(
        re.match(rf"{re.escape(importlib.metadata.version(distribution))}(\W|$)", version)
        for module, version in (found.device.runtime if found.device else {}).items()
        for distribution in _distributions().get(module, ())
    )


@functools.cache
def _distributions() -> Mapping[str, list[str]]:
    """Module → the installed distributions it comes from; finding them takes 0.1 s."""
    return importlib.metadata.packages_distributions()


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
        input_stage=job.variant.input_stage,
        artifact_sha256=job.artifact.sha256,
        weights=manifest.weights,
        thresholds=manifest.thresholds,
        pixel_decisions=_pixel_decisions(manifest.head),
        fit=_fit(manifest),
        training=manifest.fit_report.get("training"),
        source=job.source,
        host=machine.describe(),
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
        host=msgspec.convert(report["host"], machine.Host) if "host" in report else None,
        settings=manifest.settings,
        software=manifest.software,
    )


def now() -> str:
    """The time as records write it: UTC, ISO 8601, to the microsecond."""
    return dt.datetime.now(dt.timezone.utc).isoformat()
