"""Truncated models for a graph that cannot be opened, for example an OM: their folder, and the comparison of their outputs.

`harness.blame.nodes.prepare` writes the folder: one artifact per cut, whose network ends at a tensor of the original; a data
set of a few images; the reference's values of that tensor. A board exports the artifacts and benches them with
`--save-outputs`, or uses the file exchange. `compare` reads those records. docs/explanation/blame.md describes the folder.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec
import safetensors
import safetensors.numpy

from harness import errors, storage
from harness.blame import outputs
from harness.detector import artifact
from harness.errors import ArtifactError, RecordError, UsageError
from harness.metrics.differences import relative_difference
from harness.parity import Verdict, overall
from harness.parity.tolerances import search_tolerance
from harness.records.outputs import Reader
from harness.records.record import Record, latest, read_all
from harness.types import AnyArray

SCHEMA = 1
INDEX = "blame.json"
CUTS, DATA, EXPECTED = "cuts", "data", "expected"
TENSOR = "tensor"
"""Name of the array in a file of expected values: float32, one row per input of the network."""
_AGAIN = "prepare the folder again: python -m harness blame prepare"
_Sha256 = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]


class _Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    pass


class Cut(_Strict, frozen=True, kw_only=True):
    """One truncated model."""

    tensor: str
    """Name in the original graph."""
    operator: str
    """The operator that computes it."""
    output: str
    """Its name in the truncated model."""
    artifact: str
    """Folder of its artifact, below the index."""
    artifact_sha256: _Sha256
    """Digest of the manifest without its variants, to which an export adds."""
    detector_sha256: _Sha256
    """Digest of this cut's detector: each cut has its own, and so its own records."""
    model_sha256: _Sha256
    """Digest of the truncated ONNX model."""
    expected: str
    """File with the reference's values, below the index."""
    expected_sha256: _Sha256


class Index(_Strict, frozen=True, kw_only=True):
    """The contents of `blame.json`; unknown keys are refused."""

    schema: int
    harness: str
    detector_sha256: _Sha256
    """Digest of the detector that was cut."""
    variant: str
    """The variant that was cut."""
    model_sha256: _Sha256
    reference: str
    """Backend that computed the expected values."""
    input_stage: str
    """Last preprocessing step before the network."""
    images: Annotated[dict[str, dict[str, _Sha256]], msgspec.Meta(min_length=1)]
    """Name → digests as in a record (`harness.records.record.ImageResult`), in the order of the rows."""
    cuts: Annotated[tuple[Cut, ...], msgspec.Meta(min_length=1)]
    """In the topological order of the graph."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CutReport:
    """One cut on one device."""

    tensor: str
    operator: str
    verdict: Verdict
    difference: float | None = None
    """Largest over the images, relative to the tensor's largest value; `None` if infinite or not measured."""
    reason: str | None = None
    """Why the cut failed, or was not measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """All cuts on one device."""

    backend: str
    variant: str
    simulated: bool
    tolerance: float
    cuts: tuple[CutReport, ...]

    @property
    def verdict(self) -> Verdict:
        """Failed beats not measured beats passed."""
        return overall(cut.verdict for cut in self.cuts)

    @property
    def first(self) -> CutReport | None:
        """The first cut over tolerance."""
        return next((cut for cut in self.cuts if cut.verdict == "failed"), None)

    def lines(self) -> list[str]:
        """Lines for a terminal; the last one is the verdict."""
        mark = " (SIMULATED, not hardware)" if self.simulated else ""
        lines = [f"{self.backend}{mark} ({self.variant}), tolerance {self.tolerance:g} of the largest value"]
        lines += [
            f"  {number:02} {cut.verdict:<12} {'–' if cut.difference is None else f'{cut.difference:.2g}':>8}  "
            f"{cut.tensor} ({cut.operator}){'' if cut.reason is None else ': ' + cut.reason}"
            for number, cut in enumerate(self.cuts)
        ]
        return [*lines, f"blame {self.verdict}: {self._conclusion()}"]

    def _conclusion(self) -> str:
        first = self.first
        if first is None:
            unmeasured = sum(cut.verdict == "not measured" for cut in self.cuts)
            return (
                f"{unmeasured} of {len(self.cuts)} cuts were not measured"
                if unmeasured
                else "nothing differs"
            )
        place = self.cuts.index(first)
        before = [cut for cut in self.cuts[:place] if cut.verdict == "passed"]
        since = f"after {before[-1].tensor}, which agrees" if before else "with the first operators"
        gap = any(cut.verdict == "not measured" for cut in self.cuts[:place])
        doubt = "; some cuts before it were not measured" if gap else ""
        closer = f"; to search closer: prepare --between {before[-1].tensor} {first.tensor}" if before else ""
        return f"the first cut over tolerance is {first.tensor} ({first.operator}), {since}{doubt}{closer}"


def read(path: Path) -> Index:
    """Read the index of a folder of cuts, and check every file.

    Raises:
        ArtifactError: there is no index, or it has another schema; or a file is missing or was altered.
    """
    file = path / INDEX
    if not file.is_file():
        raise ArtifactError(f"{path}: no cuts here (no {INDEX}); {_AGAIN}")
    index = storage.read_json(file, Index, schema=SCHEMA, error=ArtifactError, remedy=_AGAIN)
    for cut in index.cuts:
        opened = artifact.read(storage.inside(path, cut.artifact, ArtifactError))
        digests = [storage.sha256_of_file(opened.model_file(variant)) for variant in opened.manifest.variants]
        if manifest_digest(opened.manifest) != cut.artifact_sha256 or cut.model_sha256 not in digests:
            raise ArtifactError(f"{opened.path}: altered since it was prepared; {_AGAIN}")
        _expected(path, cut)
    return index


def manifest_digest(manifest: artifact.Manifest) -> str:
    """Digest of a manifest without its variants, to which an export adds."""
    return storage.sha256_of_json(msgspec.to_builtins(msgspec.structs.replace(manifest, variants=())))


def _expected(path: Path, cut: Cut) -> AnyArray:
    file = storage.inside(path, cut.expected, ArtifactError)
    if not file.is_file() or storage.sha256_of_file(file) != cut.expected_sha256:
        raise ArtifactError(f"{file}: missing, or altered since it was prepared; {_AGAIN}")
    arrays: dict[str, AnyArray] = safetensors.numpy.load_file(file)
    return arrays[TENSOR]


def compare(path: Path, results: Path, *, tolerance: float | None = None) -> tuple[Comparison, ...]:
    """Compare the saved outputs of every device in `results` with the expected values, cut by cut.

    Args:
        path: Folder that `prepare` wrote.
        results: Results folder with records of the cuts and their saved outputs.
        tolerance: Relative to the tensor's largest value; by default from the variant's precision.

    Raises:
        ArtifactError: a file of `path` is missing or was altered.
        RecordError: a record or its outputs were altered.
        UsageError: `results` holds no record of these cuts, or the tolerance is negative or infinite.
    """
    if tolerance is not None:
        outputs.require_tolerance(tolerance)
    index = read(path)
    known = {cut.detector_sha256 for cut in index.cuts}
    devices: dict[tuple[str, str], dict[str, Record]] = {}
    for record in latest(read_all(results)):
        if record.detector_sha256 in known:
            device = devices.setdefault((record.case.runner, record.case.variant), {})
            device[record.detector_sha256] = record
    if not devices:
        raise UsageError(
            f"{results}: no record of the cuts in {path}: bench its artifacts with --save-outputs, or score their outputs"
        )
    return tuple(_comparison(path, results, index, devices[name], tolerance) for name in sorted(devices))


def _comparison(
    path: Path, results: Path, index: Index, records: dict[str, Record], tolerance: float | None
) -> Comparison:
    case = next(iter(records.values())).case
    precisions = {
        record.outputs.variant.precision for record in records.values() if record.outputs is not None
    }
    allowed = tolerance
    if allowed is None:
        allowed = max(map(search_tolerance, precisions or {"fp32"}))
    return Comparison(
        backend=case.runner,
        variant=case.variant,
        simulated=any(record.device is not None and record.device.simulated for record in records.values()),
        tolerance=allowed,
        cuts=tuple(
            _judge(path, results, index, cut, records.get(cut.detector_sha256), allowed) for cut in index.cuts
        ),
    )


def _judge(
    path: Path, results: Path, index: Index, cut: Cut, record: Record | None, allowed: float
) -> CutReport:
    reason = _unmeasured(index, cut, record)
    if reason is None and record is not None and record.outputs is not None:
        file = storage.inside(results, record.outputs.file, RecordError)
        saved = Reader(file, record.outputs.sha256)
        arrays = saved.outputs(0, sum(saved.rows))
        if cut.output in arrays:
            difference = relative_difference(arrays[cut.output], expected=_expected(path, cut))
            finite = difference < float("inf")
            return CutReport(
                tensor=cut.tensor,
                operator=cut.operator,
                verdict="passed" if difference <= allowed else "failed",
                difference=difference if finite else None,
                reason=None if finite else "other shapes, NaN or infinite values",
            )
        reason = errors.unknown("output", cut.output, arrays)
    return CutReport(tensor=cut.tensor, operator=cut.operator, verdict="not measured", reason=reason)


def _unmeasured(index: Index, cut: Cut, record: Record | None) -> str | None:
    """Why a record says nothing about its cut; `None` if it does."""
    if record is None:
        return "no record"
    if record.status != "measured":
        return f"{record.status}: {record.reason}"
    if record.outputs is None:
        return "its outputs were not saved: bench with --save-outputs"
    source = record.outputs.variant.software.get("source_sha256", record.model_sha256)
    if source != cut.model_sha256:
        return f"its model was not exported from the cut (source {source[:12]}, the cut is {cut.model_sha256[:12]})"
    # A graph that normalises reads the frame.
    stage = "input" if record.outputs.variant.input_stage == index.input_stage else "frame"
    if [(image.name, image.stages.get(stage)) for image in record.images] != [
        (name, stages[stage]) for name, stages in index.images.items()
    ]:
        return "it has other images or other inputs: bench with the data of the folder"
    return None
