"""The head of a model that was not exported here: its own outputs are map and score."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from harness.errors import ArtifactError
from harness.heads.resampling import resampling_matrix
from harness.types import AnyArray, Float32, Scores


def parameters(size: tuple[int, int], map_: str | None, score: str | None) -> dict[str, Any]:
    """This head's parameters in a manifest: the size of the frame, and the outputs that are map and score."""
    return {"map_size": list(size), "map": map_, "score": score}


class GivenHead:
    """Passes on the model's own map and score.

    A map of another size than the frame is resized to it bilinearly with half-pixel centres, without blur. Without a
    score the image score is the largest value of the map as the model gives it; without a map there are no maps.
    """

    scores_input = False

    def __init__(self, parameters: Mapping[str, Any], state: Mapping[str, AnyArray], *, threads: int) -> None:
        del state, threads
        self._frame: tuple[int, int] = tuple(parameters["map_size"])
        self._map: str | None = parameters["map"]
        self._score: str | None = parameters["score"]
        self._matrices: dict[tuple[int, int], tuple[Float32, Float32]] = {}

    def __call__(self, batch: AnyArray, outputs: Mapping[str, AnyArray]) -> Scores:
        """Maps (N, H, W), (N, 0, 0) where the model gives none, and scores (N,), float32, in the model's unit.

        Raises `ArtifactError` when the model gives other shapes than its file promised.
        """
        count = len(batch)
        maps = np.empty((count, 0, 0), np.float32) if self._map is None else _maps(self._map, outputs, count)
        scores = maps.max(axis=(1, 2)) if self._score is None else _scores(self._score, outputs, count)
        return Scores(maps=self._resized(maps) if self._map else maps, images=scores)

    def _resized(self, maps: Float32) -> Float32:
        """(N, h, w) in the size of the frame."""
        size = (maps.shape[1], maps.shape[2])
        if size == self._frame:
            return maps
        if size not in self._matrices:
            rows, columns = (
                resampling_matrix(*pair, sigma=0.0) for pair in zip(size, self._frame, strict=True)
            )
            self._matrices[size] = rows, columns
        rows, columns = self._matrices[size]
        resized: Float32 = np.matmul(np.matmul(rows, maps), columns.T)
        return resized


def _maps(name: str, outputs: Mapping[str, AnyArray], count: int) -> Float32:
    array = np.asarray(outputs[name], np.float32)
    if array.ndim == 4 and 1 in (array.shape[1], array.shape[3]):
        array = array[:, 0] if array.shape[1] == 1 else array[..., 0]
    if array.ndim != 3 or len(array) != count or not array.size:
        raise ArtifactError(
            f"{name!r} has shape {outputs[name].shape}: not one map for each of {count} images"
        )
    return np.ascontiguousarray(array)


def _scores(name: str, outputs: Mapping[str, AnyArray], count: int) -> Float32:
    array = np.asarray(outputs[name], np.float32)
    if array.size != count or (array.ndim > 0 and array.shape[0] != count):
        raise ArtifactError(f"{name!r} has shape {array.shape}: not one score for each of {count} images")
    return array.reshape(count)
