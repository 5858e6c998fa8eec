"""The contract of a backend: it opens one variant on one kind of device and runs numpy batches through it.

Everything that must be equal on all devices — decoding, resizing, scoring, metrics — lies outside. A new backend is
one file here and one line in `harness.registry.BACKENDS`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from harness.detector.artifact import Artifact, Variant
from harness.types import AnyArray, Scores


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceReport:
    """What a session really runs on, as the runtime reports it."""

    device: str
    """`cpu`, `cuda:0`, `ascend:0`."""
    runtime: dict[str, str]
    """Name → version of runtime and driver."""
    options: dict[str, str] = field(default_factory=dict)
    """Providers, thread counts and precision in effect."""
    simulated: bool = False
    nodes: dict[str, int] = field(default_factory=dict)
    """Who runs the graph → how many of its nodes, the one asked for first; empty where the runtime does not tell."""


class Session(Protocol):
    """One opened model; used by one thread."""

    report: DeviceReport
    device_ms: Mapping[str, float]
    """Host-to-device, compute and device-to-host times of the last run in ms; empty where the device gives none."""

    def run(self, batch: AnyArray) -> dict[str, AnyArray]:
        """Run one batch shaped as the variant's input; gives every output of the variant by name, float32."""

    def close(self) -> None:
        """Release the device; the session is not used again."""


class Backend(Protocol):
    """One kind of device through one runtime."""

    formats: tuple[str, ...]
    """Variant formats it opens, the preferred one first."""
    environment: Mapping[str, str]
    """Variables the runtime reads when it is imported; a worker sets them before anything else."""
    simulated: bool
    """It stands in for hardware: run only where it is asked for by name."""

    def unavailable(self) -> str | None:
        """Why it cannot run on this machine and the next step, in one sentence; `None` when it can."""

    def open(self, artifact: Artifact, variant: Variant, *, threads: int) -> Session:
        """Open `variant` on this device; raises rather than falling back to another device or precision."""


class Head(Protocol):
    """Turns one batch and the net's outputs for it into maps and image scores, deterministically."""

    def __call__(self, batch: AnyArray, outputs: Mapping[str, AnyArray]) -> Scores:
        """Score a batch of N images; raises `ValueError` when an output is missing or misshapen.

        Args:
            batch: What the net was given: N rows, or N · windows where preprocessing cuts windows.
            outputs: What the net made of it, by name.
        """


class HeadFactory(Protocol):
    """How a head is made: `harness.registry.HEADS` names one per detector."""

    scores_input: bool
    """Whether the values of the batch enter the scores; of any other head's batch nothing counts but its length."""

    def __call__(self, parameters: Mapping[str, Any], state: Mapping[str, AnyArray], *, threads: int) -> Head:
        """Make a head from the manifest's parameters and the artifact's fitted state."""
