"""Defines a change, judges it, and holds its outcome."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from benchmarks.bugs import polygraphy
from benchmarks.bugs.deployment import Deployment
from harness import parity
from harness.blame import Stage, blame
from harness.errors import HarnessError
from harness.records.record import Record, read_all

Place = Stage | Literal["detector", "state", "model", "data", "device", "results"]
"""Where a bug can lie: a blamed stage, or a place that only a refusal names."""

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
"""Pattern of a refusal's message → the place it names; the first match counts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One bug, or one harmless change."""

    name: str
    where: str
    """The group, as in the table: preprocessor, graph, adapter, artifact, files, data, results, harmless."""
    inject: Callable[[Deployment], None]
    """Makes the change and runs the program on it; raises `HarnessError` if the program refuses."""
    place: Place | None = None
    """Where the bug lies; `None` for a harmless change."""
    subject: str = "padim"
    """The detector, one of those of `workspace.Workspace`."""
    reference: str = "mindspore-cpu"
    """Backend of the reference side."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The results of the harness and of Polygraphy for one change."""

    change: Change
    verdict: str
    """Parity's verdict, or `refused`."""
    placed: str | None
    """The stage or place that blame or the refusal names."""
    reason: str
    """The sentence that names it."""
    polygraphy: polygraphy.Finding

    @property
    def found(self) -> bool:
        """Whether a bug was found: failed or refused; "not measured" does not count."""
        return self.verdict in {"failed", "refused"}

    @property
    def placed_right(self) -> bool:
        """Whether the bug was found, and its place named."""
        return self.found and self.placed == self.change.place


def outcome(change: Change, deployment: Deployment) -> Outcome:
    """Inject `change` and judge the results."""
    try:
        change.inject(deployment)
        candidate = _candidate(change, deployment)
        report = parity.parity(deployment.results, reference=change.reference)
        reason = report.pairs[0].reason if report.pairs else "; ".join(report.reasons)
        if candidate.status != "measured" or reason:
            return _refused(change, candidate.reason or reason or "")
        finding = polygraphy.compare(deployment.results, change.reference)
        if report.verdict == "passed":
            return Outcome(change=change, verdict="passed", placed=None, reason="", polygraphy=finding)
        (stage_blame,) = blame(deployment.results, report, inputs=deployment.inputs)
    except HarnessError as error:
        return _refused(change, str(error))
    return Outcome(
        change=change,
        verdict=report.verdict,
        placed=stage_blame.stage,
        reason="; ".join(stage_blame.found),
        polygraphy=finding if change.place in (None, "decode", "frame", "input", "outputs") else "outside",
    )


def _candidate(change: Change, deployment: Deployment) -> Record:
    """The only record besides the reference's."""
    (candidate,) = (
        record for record in read_all(deployment.results) if record.case.runner != change.reference
    )
    return candidate


def _refused(change: Change, reason: str) -> Outcome:
    place = next((place for pattern, place in _REFUSALS if re.search(pattern, reason)), None)
    return Outcome(change=change, verdict="refused", placed=place, reason=reason, polygraphy="no outputs")
