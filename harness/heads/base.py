"""The contract of a head: the fitted state goes in once, then every batch is scored by a pure function."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from harness.types import AnyArray, Scores


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
