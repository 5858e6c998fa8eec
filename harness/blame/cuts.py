"""Truncated models for a graph that cannot be opened, an OM say: how they lie in a folder, and what their outputs tell.

`harness.blame.nodes.prepare` writes the folder: one artifact per cut, whose network ends at a tensor of the original; a data
set of a few images; the reference's value of that tensor for each of them. A board exports and benches the artifacts
with `--save-outputs`, or takes the file road. `compare` reads those records. docs/explanation/blame.md describes the folder.
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
from harness.records import record
from harness.records.outputs import Reader
from harness.records.record import Record
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
    """Of the original graph."""
    operator: str
    """That computes it."""
    output: str
    """What the truncated model calls it."""
    artifact: str
    """Folder of its artifact, below the index."""
    artifact_sha256: _Sha256
    """Of the manifest as it was written; an export adds a variant to it, so this is checked without variants."""
    detector_sha256: _Sha256
    """Of that artifact alone: it tells the records of the cuts apart."""
    model_sha256: _Sha256
    """Of the truncated ONNX model."""
    expected: str
    """File of the reference's values, below the index."""
    expected_sha256: _Sha256


class Index(_Strict, frozen=True, kw_only=True):
    """The contents of `blame.json`; unknown keys are refused."""

    schema: int
    harness: str
    detector_sha256: _Sha256
    """Of the detector that was cut."""
    variant: str
    """Its variant that was cut."""
    model_sha256: _Sha256
    reference: str
    """Backend that gave the expected values."""
    input_stage: str
    """Last step of preprocessing before the network."""
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
    """Largest over the images, relative to the tensor's largest value; the tolerance needed. Infinite is `None` too."""
    reason: str | None = None
    """Why it failed, or was not measured."""


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
        """For a terminal; the last line is the verdict."""
        mark = " (SIMULATED, not hardware)" if self.simulated else ""
        rows = [f"{self.backend}{mark} ({self.variant}), tolerance {self.tolerance:g} of the largest value"]
        rows += [
            f"  {number:02} {cut.verdict:<12} {'–' if cut.difference is None else f'{cut.difference:.2g}':>8}  "
            f"{cut.tensor} ({cut.operator}){'' if cut.reason is None else ': ' + cut.reason}"
            for number, cut in enumerate(self.cuts)
        ]
        return [*rows, f"blame {self.verdict}: {self._conclusion()}"]

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
        doubt = "; cuts before it were not measured" if gap else ""
        closer = f"; closer: prepare --between {before[-1].tensor} {first.tensor}" if before else ""
        return f"the first cut over tolerance is {first.tensor} ({first.operator}), {since}{doubt}{closer}"


def read(path: Path) -> Index:
    """Open a folder of cuts, and check every file of it.

    Raises:
        ArtifactError: no index, one of another schema, or a file that is missing or was altered.
    """
    file = path / INDEX
    if not file.is_file():
        raise ArtifactError(f"{path}: no cuts here (no {INDEX}); {_AGAIN}")
    index = storage.read_json(file, Index, schema=SCHEMA, error=ArtifactError, remedy=_AGAIN)
    for cut in index.cuts:
        found = artifact.read(storage.inside(path, cut.artifact, ArtifactError))
        models = [found.model_file(item) for item in found.manifest.variants]
        digests = [storage.sha256_of_file(model) for model in models]
        if manifest_digest(found.manifest) != cut.artifact_sha256 or cut.model_sha256 not in digests:
            raise ArtifactError(f"{found.path}: altered since it was prepared; {_AGAIN}")
        _expected(path, cut)
    return index


def manifest_digest(manifest: artifact.Manifest) -> str:
    """Digest of a manifest without its variants, which an export adds to."""
    return storage.sha256_of_json(msgspec.to_builtins(msgspec.structs.replace(manifest, variants=())))


def _expected(path: Path, cut: Cut) -> AnyArray:
    file = storage.inside(path, cut.expected, ArtifactError)
    if not file.is_file() or storage.sha256_of_file(file) != cut.expected_sha256:
        raise ArtifactError(f"{file}: missing, or altered since it was prepared; {_AGAIN}")
    arrays: dict[str, AnyArray] = safetensors.numpy.load_file(file)
    return arrays[TENSOR]


def compare(path: Path, results: Path, *, tolerance: float | None = None) -> tuple[Comparison, ...]:
    """Compare the stored outputs of every device in `results` with the expected values, cut by cut.

    Args:
        path: What `prepare` wrote.
        results: Results folder with records of the cuts and their stored outputs.
        tolerance: Relative to the tensor's largest value; by the precision of the variant when not given.

    Raises:
        ArtifactError: a file of `path` is missing or was altered.
        RecordError: a record or its outputs were altered.
        UsageError: no record there is of these cuts, or a tolerance that is none.
    """
    if tolerance is not None:
        outputs.require_tolerance(tolerance)
    index = read(path)
    known = {cut.detector_sha256 for cut in index.cuts}
    devices: dict[tuple[str, str], dict[str, Record]] = {}
    for item in record.latest(record.read_all(results)):
        if item.detector_sha256 in known:
            device = devices.setdefault((item.case.runner, item.case.variant), {})
            device[item.detector_sha256] = item
    if not devices:
        raise UsageError(
            f"{results}: no record is of the cuts in {path}: bench its artifacts with --save-outputs, or score their outputs"
        )
    return tuple(_comparison(path, results, index, found, tolerance) for _, found in sorted(devices.items()))


def _comparison(
    path: Path, results: Path, index: Index, found: dict[str, Record], tolerance: float | None
) -> Comparison:
    any_ = next(iter(found.values()))
    precisions = {item.outputs.variant.precision for item in found.values() if item.outputs is not None}
    allowed = tolerance
    if allowed is None:
        allowed = max(map(search_tolerance, precisions or {"fp32"}))
    return Comparison(
        backend=any_.case.runner,
        variant=any_.case.variant,
        simulated=any(item.device is not None and item.device.simulated for item in found.values()),
        tolerance=allowed,
        cuts=tuple(
            _judge(path, results, index, cut, found.get(cut.detector_sha256), allowed) for cut in index.cuts
        ),
    )


def _judge(
    path: Path, results: Path, index: Index, cut: Cut, item: Record | None, allowed: float
) -> CutReport:
    reason = _unmeasured(index, cut, item)
    if reason is None and item is not None and item.outputs is not None:
        file = storage.inside(results, item.outputs.file, RecordError)
        stored = Reader(file, item.outputs.sha256)
        given = stored.outputs(0, sum(stored.rows))
        if cut.output in given:
            apart = relative_difference(given[cut.output], expected=_expected(path, cut))
            passed = apart <= allowed
            return CutReport(
                tensor=cut.tensor,
                operator=cut.operator,
                verdict="passed" if passed else "failed",
                difference=apart if apart < float("inf") else None,
                reason=None if apart < float("inf") else "other shapes, NaN or infinite values",
            )
        reason = errors.unknown("output", cut.output, given)
    return CutReport(tensor=cut.tensor, operator=cut.operator, verdict="not measured", reason=reason)


def _unmeasured(index: Index, cut: Cut, item: Record | None) -> str | None:
    """Why a record says nothing about its cut; `None` where it does."""
    if item is None:
        return "no record"
    if item.status != "measured":
        return f"{item.status}: {item.reason}"
    if item.outputs is None:
        return "its outputs were not stored: bench with --save-outputs"
    made_of = item.outputs.variant.software.get("source_sha256", item.model_sha256)
    if made_of != cut.model_sha256:
        return f"its model was not made of the cut (of {made_of[:12]}, the cut is {cut.model_sha256[:12]})"
    # A graph that normalises takes the frame itself.
    stage = "input" if item.outputs.variant.input_stage == index.input_stage else "frame"
    if [(image.name, image.stages.get(stage)) for image in item.images] != [
        (name, stages[stage]) for name, stages in index.images.items()
    ]:
        return "it is of other images or other inputs: bench with the data of the folder"
    return None
