"""One case with everything it needs: planned in the parent, sent to a worker, measured there."""

from __future__ import annotations

import contextlib
import datetime as dt
import functools
import glob
import importlib.metadata
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec

from harness import __version__, machine, metrics, storage
from harness.contracts import DeviceReport
from harness.detector.artifact import HEAD, Artifact, HeadSpec, Manifest, Variant
from harness.errors import ArtifactError, RecordError
from harness.records import record
from harness.records.record import Fit, Record, Source
from harness.types import Case, Category

GRAPH = "graph"
"""Name of the head that passes on a graph's own scores."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A case and its files."""

    case: Case
    artifact: Artifact
    variant: Variant
    category: Category
    fingerprint: str
    """Digest of the category's test images and masks."""
    out: Path
    """The results folder."""
    save_outputs: bool = False
    """Save the network's raw outputs beside the record."""
    inputs: Path | None = None
    """Folder of input batches that replace preprocessing."""
    outputs: Path | None = None
    """Saved outputs that are scored instead of running the network."""
    outputs_device: DeviceReport | None = None
    """The device that gave those outputs."""
    replayed: Path | None = None
    """The record that those outputs belong to; it also contains the ground truth."""
    source: Source | None = None
    """What the record says about inputs and outputs from files."""

    def encoded(self) -> bytes:
        """JSON for a worker process, without the training images; see `decoded`."""
        job = replace(self, category=replace(self.category, train=()))
        return msgspec.json.encode(job, enc_hook=str)

    @property
    def head(self) -> str:
        """Name of the head that scores the variant's outputs."""
        return head_of(self.artifact, self.variant)

    @property
    def inputs_sha256(self) -> str:
        """Digest of everything that decides the record: case, detector, model file, test data, code."""
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
        """The measured record of an earlier run of the same inputs, with its outputs if they are to be saved.

        `None` if the record, its evidence or a file of the artifact was changed, if a newer record of the case exists (of
        another model, detector or data, or a failure), or if this machine measured it with another version of the runtime.
        The case then runs again, and fails with a message if something is still wrong.
        """
        earlier, digest = self.earlier(), self.inputs_sha256
        measured = next(
            (old for old in earlier if old.status == "measured" and old.inputs_sha256 == digest), None
        )
        if measured is None or any(old.finished > measured.finished for old in earlier):
            return None  # tables show the newest record, whatever its detector and data
        if _is_outdated(measured):
            return None
        try:
            arrays = record.read_evidence(self.out, measured)
            self._require_files()
        except (ArtifactError, RecordError):
            return None
        saved = measured.outputs is not None and (self.out / measured.outputs.file).is_file()
        return measured if arrays is not None and (saved or not self.save_outputs) else None

    def earlier(self) -> tuple[Record, ...]:
        """The readable records of this case in the results folder."""
        name = record.file_name(self.case, self.inputs_sha256)
        pattern = glob.escape(name.removesuffix(f"{self.inputs_sha256[:12]}.json")) + "*.json"
        records = []
        for path in self.out.glob(pattern):
            with contextlib.suppress(RecordError):
                records.append(record.read(path))
        return tuple(old for old in records if old.case == self.case)

    def _require_files(self) -> None:
        """Raise `ArtifactError` unless the artifact holds what the case needs."""
        if self.outputs is None:
            self.artifact.model_file(self.variant)
        if self.head != GRAPH:
            self.artifact.state()


def decoded(data: bytes) -> Job:
    """The job that `Job.encoded` wrote."""
    return msgspec.json.decode(data, type=Job, dec_hook=_path)


def _path(kind: type, text: Any) -> Path:
    assert kind is Path  # noqa: S101 - the only type that JSON has no form for
    return Path(text)


def head_of(artifact: Artifact, variant: Variant) -> str:
    """Name of the head that scores the variant's outputs: the detector's, or `GRAPH` if the graph contains it."""
    return GRAPH if HEAD in variant.contains else artifact.manifest.head.name


def blank(job: Job, started: str) -> Record:
    """A record of `job` without measurements."""
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


def now() -> str:
    """The time in a record's format: UTC, ISO 8601, to the microsecond."""
    return dt.datetime.now(dt.timezone.utc).isoformat()


def _is_outdated(measured: Record) -> bool:
    """Whether this machine measured the record with other versions of the runtime's packages than are installed now."""
    if machine.apart(measured.host, machine.describe()):
        return False  # carried here on purpose
    return not all(
        re.match(rf"{re.escape(importlib.metadata.version(distribution))}(\W|$)", version)
        for module, version in (measured.device.runtime if measured.device else {}).items()
        for distribution in _distributions().get(module, ())
    )


@functools.cache
def _distributions() -> Mapping[str, list[str]]:
    """Module → the installed distributions that contain it; cached, because the search takes 0.1 s."""
    return importlib.metadata.packages_distributions()


def _pixel_decisions(head: HeadSpec) -> metrics.PixelDecisions | None:
    """The head's rules for measuring pixel decisions, if it has any."""
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
