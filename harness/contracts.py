"""The plug-in surface: backend and session, head, detector.

A backend opens one variant on one kind of device and runs numpy batches through it. What must be equal on all devices is
not its work: decoding, resizing, scoring, metrics. A built-in part is one file and one line in `harness.registry`; other
distributions add parts by entry points (`harness.plugins`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import msgspec
import numpy as np

from harness.detector.artifact import Artifact, HeadSpec, Variant
from harness.detector.preprocess import Preprocessor, Step, standard_steps
from harness.detector.settings import Settings
from harness.detector.training_log import TrainingLog
from harness.types import AnyArray, Float32, Sample, Scores

BATCH = 8
COPY = "copy"
"""Output of the network of a detector plug-in that has none of its own: a copy of the input."""


class DeviceReport(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a session really runs on, as the runtime reports it; part of the record."""

    device: str
    """`cpu`, `cuda:0`, `ascend:0`."""
    runtime: dict[str, str]
    """Name → version of runtime and driver."""
    options: dict[str, str]
    """Providers, thread counts and precision in effect."""
    simulated: bool
    nodes: dict[str, int] = {}
    """Name of what runs a part of the graph → its number of nodes, the requested one first; empty if the runtime does not say."""

    @property
    def described(self) -> str:
        """The device, and how much of the graph it ran if that may not be all: `cuda:0 (40 of 42 nodes, …)`."""
        if (self.device == "cpu" and len(self.nodes) < 2) or not self.nodes:
            return self.device
        requested, *others = self.nodes
        rest = "".join(f", {self.nodes[name]} on {name}" for name in others)
        return f"{self.device} ({self.nodes[requested]} of {sum(self.nodes.values())} nodes{rest})"


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Images:
    """Good images, decoded and preprocessed on demand."""

    samples: Sequence[Sample]
    preprocessor: Preprocessor

    def __len__(self) -> int:
        """The number of images."""
        return len(self.samples)

    def tensors(self) -> Float32:
        """All images at once, without windows: float32 (N, C, H, W); 0.8 MB per image of 3 × 256 × 256."""
        read = self.preprocessor
        return np.stack([read.tensor(read.frame(read.decode(sample.path))) for sample in self.samples])

    def batches(self, size: int = BATCH) -> Iterator[tuple[Float32, int]]:
        """Network inputs of `size` images, float32 (size · windows, C, h, w), with the number of distinct images.

        The last batch repeats its last image to keep the shape, because a network is compiled again for each new shape.
        """
        for start in range(0, len(self.samples), size):
            chunk = self.samples[start : start + size]
            rows = [self.preprocessor.rows(sample.path) for sample in chunk]
            yield np.concatenate(rows + rows[-1:] * (size - len(chunk))), len(chunk)


@dataclass(frozen=True, slots=True, kw_only=True)
class Learnt:
    """What a detector learnt from good images."""

    head: HeadSpec
    """Name of the head that scores the network's outputs, with its parameters. `map_size` is added if it is missing: height
    and width of the preprocessed image in pixels."""
    state: Mapping[str, AnyArray]
    """Arrays for the head, by name."""
    run: Callable[[Float32], dict[str, AnyArray]] | None = None
    """The fitted network: a batch (N, C, H, W) → its outputs by name. `None`, for a plug-in: it copies the batch to the
    output `copy`, and the harness writes that network."""
    net: Mapping[str, AnyArray] = field(default_factory=dict)
    """The network's parameters by name."""
    onnx: bytes | None = None
    """A plug-in's network as an ONNX file with a free batch axis; required with `run`."""
    report: Mapping[str, Any] = field(default_factory=dict)
    """Facts about this fit for a reader: sizes, bounds, choices."""
    training: TrainingLog | None = None
    """How the training went; `None` for a detector that is fitted without gradients."""
    pixel_quantile: float = 0.995
    """The pixel threshold is this quantile, in [0, 1], of the held-out good maps."""
    pixel_threshold: float | None = None
    """A pixel threshold that replaces the quantile."""


class Learn(Protocol):
    """How a detector plug-in learns."""

    def __call__(self, images: Images, settings: Settings, *, seed: int, held_out: Images) -> Learnt:
        """Learn from good images; equal arguments give equal results, bit for bit.

        Args:
            images: The images to learn from.
            settings: Of the class `DetectorPlugin.settings`.
            seed: Of every random draw.
            held_out: Good images for the thresholds: only numerical choices may be checked on them.
        """


def _standard_steps(settings: Settings) -> tuple[Step, ...]:
    return standard_steps(settings.resize, settings.crop, settings.interpolation)


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectorPlugin:
    """A detector of another distribution: what an entry point of the group `harness.detectors` names.

    `fit` calls `learn`, sets the thresholds from held-out good images, and writes an artifact with one ONNX variant, which
    every backend for ONNX runs. The head is an entry point of its own, in the group `harness.heads`.
    """

    learn: Learn
    settings: type[Settings] = Settings
    """What can be set with `fit --set NAME=VALUE`: a subclass adds fields with defaults."""
    preprocessing: Callable[[Settings], tuple[Step, ...]] = _standard_steps
    """From image file to network input."""
