"""What can go wrong on the MindSpore side, as leaves of the engine's tree.

harness.errors.HarnessError
├── WeightsError            a weights file is damaged, hostile, or not of the asked backbone (2)
├── ExportError             a model could not be exported on this machine (3)
└── VerdictError
    └── ExportMismatch      an exported model disagrees with the network it was exported from (1)
"""

from __future__ import annotations

from harness.errors import HarnessError, VerdictError


class WeightsError(HarnessError):
    """A weights file is damaged, hostile, or not of the asked backbone; the message names the file."""

    exit_code = 2


class ExportError(HarnessError):
    """A model could not be exported here; the message says what would make it possible."""


class ExportMismatch(VerdictError):  # noqa: N818 - a verdict, not a fault of the program
    """An exported model was run and disagrees with the network it was exported from."""
