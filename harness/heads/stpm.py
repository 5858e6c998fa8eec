"""STPM's head: where the student's features leave the teacher's (Wang et al. 2021, equations 3-5).

Per layer the map is half the squared distance of the two feature vectors of a position, each of length one: what the
training made small on good images. Vectors of length one make it 1 − Σ ŝt̂, which is not computed, since it cancels.
The layers' maps, upsampled to the input's size, are multiplied: a defect has to show at every scale.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from harness.heads.resampling import resampling_matrix
from harness.types import AnyArray, Float32, Scores

STUDENT = ("student1", "student2", "student3")
TEACHER = ("teacher1", "teacher2", "teacher3")
"""Names of the features (N, C, h, w) of layers 1-3; both networks' shapes are equal."""
SMALLEST_SQUARE = {"standard": 1e-12, "seed": 1e-4}
"""Squared length below which a vector is divided by the root of this in place of its own length, per protocol; `seed`
is MindSpore's `L2Normalize`."""


class StpmHead:
    """Half squared distances of unit vectors → bilinear maps at input size → their product → its largest value."""

    scores_input = False

    def __init__(self, parameters: Mapping[str, Any], state: Mapping[str, AnyArray], *, threads: int) -> None:
        del state, threads
        self._smallest = SMALLEST_SQUARE[parameters["protocol"]]
        self._grids = [tuple(grid) for grid in parameters["grids"]]
        self._resampling = resampling(parameters)

    def __call__(self, batch: AnyArray, outputs: Mapping[str, AnyArray]) -> Scores:
        """Maps (N, H, W) and scores (N,), both float32, between 0 and 1: features after a ReLU are nowhere negative."""
        missing = {*STUDENT, *TEACHER} - outputs.keys()
        if missing:
            raise ValueError(
                f"STPM scores the outputs {', '.join((*STUDENT, *TEACHER))}; "
                f"the net gave {', '.join(sorted(outputs)) or 'none'}"
            )
        maps: Float32 = np.ones(1, np.float32)
        for student, teacher, grid, (rows, columns) in zip(
            STUDENT, TEACHER, self._grids, self._resampling, strict=True
        ):
            _check_shapes(student, outputs[student], outputs[teacher], (len(batch), *grid))
            distances = self._half_squared_distances(outputs[student], outputs[teacher])
            maps = maps * np.matmul(np.matmul(rows, distances), columns.T)
        return Scores(maps=maps, images=maps.max(axis=(1, 2)))

    def _half_squared_distances(self, student: Float32, teacher: Float32) -> Float32:
        """(N, C, h, w) twice → (N, h, w)."""
        difference = self._of_length_one(student) - self._of_length_one(teacher)
        distances: Float32 = np.float32(0.5) * np.einsum("nchw,nchw->nhw", difference, difference)
        return distances

    def _of_length_one(self, features: Float32) -> Float32:
        squares = np.einsum("nchw,nchw->nhw", features, features)[:, None]
        unit: Float32 = features / np.sqrt(np.maximum(squares, np.float32(self._smallest)))
        return unit


def resampling(parameters: Mapping[str, Any]) -> list[tuple[Float32, Float32]]:
    """Per layer the matrices (H, h) and (W, w) that upsample its grid to the map."""
    height, width = parameters["map_size"]
    return [
        (resampling_matrix(grid[0], height, 0.0), resampling_matrix(grid[1], width, 0.0))
        for grid in parameters["grids"]
    ]


def _check_shapes(name: str, student: AnyArray, teacher: AnyArray, expected: tuple[int, ...]) -> None:
    if student.shape != teacher.shape or (*student.shape[:1], *student.shape[2:]) != expected:
        rows, height, width = expected
        raise ValueError(
            f"{name} has shape {student.shape} and its teacher {teacher.shape}, "
            f"expected ({rows}, C, {height}, {width}) twice"
        )
