"""What a bug is, how it is judged, and what came of it."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from benchmarks.bugs import tensors
from benchmarks.bugs.site import Site
from harness import parity
from harness.blame import Stage, blame
from harness.errors import HarnessError
from harness.records import record
from harness.records.record import Record

Place = Stage | Literal["detector", "state", "model", "data", "device", "results"]
"""Where a bug can lie: the stages of blame, and what only a refusal names."""

_REFUSALS: tuple[tuple[str, Place], ...] = (
    (r"state\.safetensors: does not match the digest", "state"),
    (r"\.onnx: does not match the digest", "model"),
    (r"edited or renamed|altered since it was written|a record was altered", "results"),
    (r"detector_sha256", "detector"),
    (r"fingerprint|other test images|the data set has|labels", "data"),
    (r"the model overflowed|too short|too long|are the same bytes", "outputs"),
    (r"asked for \w+ExecutionProvider|fallback to CPU EP has been explicitly disabled", "device"),
    (r"fitted on '\w+', not on", "detector"),
)
"""What a refusal says, and the place it names; the first that is found counts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One bug, or one change that does no harm."""

    name: str
    where: str
    """The group, as in the table: preprocessor, graph, adapter, artifact, files, data, results, harmless."""
    inject: Callable[[Site], None]
    """Makes the change and runs the product's road over it; a refusal is the `HarnessError` that it raises."""
    place: Place | None = None
    """Where the bug lies; `None` for a change that does no harm."""
    subject: str = "padim"
    """Which of the detectors of `stage.Stage`."""
    reference: str = "mindspore-cpu"
    """Side to be agreed with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What the harness and Polygraphy made of one change."""

    change: Change
    verdict: str
    """Of parity, or `refused`."""
    placed: str | None
    """The stage that blame or the refusal names."""
    said: str
    """The sentence it rests on."""
    polygraphy: tensors.Finding

    @property
    def found(self) -> bool:
        """Whether a bug was found: failed or refused; "not measured" alone is no find."""
        return self.verdict in {"failed", "refused"}

    @property
    def placed_right(self) -> bool:
        """Whether it was found, and where it lies."""
        return self.found and self.placed == self.change.place


def outcome(change: Change, site: Site) -> Outcome:
    """Inject `change` and judge what it leaves."""
    try:
        change.inject(site)
        made = _suspect(change, site)
        report = parity.parity(site.results, reference=change.reference)
        reason = report.pairs[0].reason if report.pairs else "; ".join(report.reasons)
        if made.status != "measured" or reason:
            return _refused(change, made.reason or reason or "")
        finding = tensors.compare(site.results, change.reference)
        if report.verdict == "passed":
            return Outcome(change=change, verdict="passed", placed=None, said="", polygraphy=finding)
        (told,) = blame(site.results, report, inputs=site.inputs)
    except HarnessError as error:
        return _refused(change, str(error))
    return Outcome(
        change=change,
        verdict=report.verdict,
        placed=told.stage,
        said="; ".join(told.found),
        polygraphy=finding if change.place in (None, "decode", "frame", "input", "outputs") else "outside",
    )


def _suspect(change: Change, site: Site) -> Record:
    """The one record beside the reference's."""
    (made,) = (item for item in record.read_all(site.results) if item.case.runner != change.reference)
    return made


def _refused(change: Change, reason: str) -> Outcome:
    place = next((place for pattern, place in _REFUSALS if re.search(pattern, reason)), None)
    return Outcome(change=change, verdict="refused", placed=place, said=reason, polygraphy="no outputs")
