"""The log of a training, `training.json` in the artifact folder; the model zoo's training tables report its values."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import msgspec

from harness import storage
from harness.errors import ArtifactError
from harness.types import Device

SCHEMA = 1
FILE = "training.json"


class Start(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The file whose parameters a training started from."""

    file: str
    sha256: str
    optimiser: bool
    """Whether the optimiser's state was taken over too."""
    left_out: tuple[str, ...] = ()
    """Parts of the file that are not trained, for example `backbone`."""


class TrainingLog(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a training went."""

    schema: int = SCHEMA
    losses: tuple[float, ...]
    """Per optimiser step, mean over its batch."""
    unseen_losses: tuple[float, ...]
    """Per epoch, of held-out good images in inference mode."""
    step_ms: tuple[float, ...]
    """The first step of a process compiles the graph."""
    seconds: float
    """Of the training alone, over all processes that had a part in it."""
    epochs: int
    """Done; fewer than asked for where the training was stopped early."""
    kept_epoch: int
    """Whose parameters were kept, from 1: the last, or the best where early stopping was asked for."""
    parameters: int
    """Trainable numbers."""
    checkpoint_bytes: int
    batch_size: int
    micro_batch: int | None
    workers: int
    device: Device
    precision: str
    start: Start | None = None

    def summary(self) -> dict[str, Any]:
        """The values that tables show."""
        return {
            "epochs": self.epochs,
            "steps": len(self.losses),
            "first_loss": self.losses[0],
            "last_loss": self.losses[-1],
            "step_ms": round(statistics.median(self.step_ms), 3),
            "seconds": round(self.seconds, 2),
            "parameters": self.parameters,
            "checkpoint_bytes": self.checkpoint_bytes,
        }


def write(folder: Path, log: TrainingLog) -> None:
    """Write `training.json` into an artifact folder."""
    storage.write_json(folder / FILE, msgspec.to_builtins(log))


def read(folder: Path) -> TrainingLog | None:
    """The log in an artifact folder; `None` for a detector fitted without gradients.

    Raises:
        ArtifactError: it is not of this schema.
    """
    file = folder / FILE
    if not file.exists():
        return None
    return storage.read_json(
        file, TrainingLog, schema=SCHEMA, error=ArtifactError, remedy="fit the detector again"
    )
