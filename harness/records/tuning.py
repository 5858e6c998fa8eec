"""The settings that a tuning tried, with their records."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from harness.records.record import Record


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One setting and its result."""

    variant: str
    """Its id; if it was refused, the id it would have had."""
    settings: str
    """In words."""
    refused: str | None = None
    """Why there is no such variant."""
    same_as: str | None = None
    """Id of an earlier trial's variant whose files are the same, byte for byte: this one is not measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuned:
    """All trials and their records."""

    trials: tuple[Trial, ...]
    """The unchanged float32 variant first."""
    rounds: tuple[tuple[Record, ...], ...]
    """Records of each round."""
    records: tuple[Path, ...]
    """Where those of each round lie."""
