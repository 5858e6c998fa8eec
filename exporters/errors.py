"""What can go wrong on the MindSpore side, as leaves of the engine's tree.

harness.errors.HarnessError
├── WeightsError            a weights file is damaged, hostile, or not of the asked backbone (2)
├── CheckpointError         a checkpoint is damaged, of another request, or in the way (2)
├── TrainingError           a training cannot go on (3)
├── ExportError             a model could not be exported on this machine (3)
└── VerdictError
    └── ExportMismatch      an exported model disagrees with the network it was exported from (1)
KeyboardInterrupt
└── Interrupted             a training was stopped, and can go on
"""

from __future__ import annotations

from harness.errors import HarnessError, VerdictError

CONTINUES = "the same command with --resume continues it"


class WeightsError(HarnessError):
    """A weights file is damaged, hostile, or not of the asked backbone; the message names the file."""

    exit_code = 2


class CheckpointError(HarnessError):
    """A checkpoint is damaged, foreign, of another request, or in the way; the message names the file."""

    exit_code = 2


class TrainingError(HarnessError):
    """A training cannot go on; the message says where it stopped and what is kept."""


class Interrupted(KeyboardInterrupt):
    """A signal stopped a training; what is kept, and how it goes on."""


class ExportError(HarnessError):
    """A model could not be exported here; the message says what would make it possible."""


class ExportMismatch(VerdictError):  # noqa: N818 - a verdict, not a fault of the program
    """An exported model was run and disagrees with the network it was exported from."""
