"""The head of a variant whose graph holds the detector's head: map and score come out of the net ready made."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harness.types import AnyArray, Scores

MAP, SCORE = "map", "score"
"""Names of such a graph's outputs: float32 (N, H, W) and (N,)."""


class GraphHead:
    """Passes on what the graph scored."""

    scores_input = False

    def __init__(self, parameters: Mapping[str, Any], state: Mapping[str, AnyArray], *, threads: int) -> None:
        del state, threads
        self._map_size = tuple(parameters["map_size"])

    def __call__(self, batch: AnyArray, outputs: Mapping[str, AnyArray]) -> Scores:
        """Maps (N, H, W) and scores (N,), float32, in the unit of the detector's head."""
        missing = {MAP, SCORE} - outputs.keys()
        if missing:
            raise ValueError(
                f"the graph should give {MAP} and {SCORE}; it gave {', '.join(sorted(outputs)) or 'none'}"
            )
        expected = (len(batch), *self._map_size)
        if outputs[MAP].shape != expected or outputs[SCORE].shape != expected[:1]:
            raise ValueError(
                f"{MAP} and {SCORE} have shapes {outputs[MAP].shape} and {outputs[SCORE].shape}, "
                f"expected {expected} and {expected[:1]}"
            )
        return Scores(maps=outputs[MAP], images=outputs[SCORE])
