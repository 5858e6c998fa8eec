"""Which patches stay in the memory bank: greedy k-centre (Sener & Savarese 2018, algorithm 1; Roth et al. 2022, 3.2).

Each step takes the point farthest from those chosen so far. Here this is exact and needs no pass over all points per
step: a point's distance to the chosen ones only falls, so an old distance is an upper bound, and a point whose bound is
below the farthest distance of the moment cannot be the next. A round refreshes the `FRONTIER` largest bounds by one
matrix product with the centres they have not seen, and chooses among those points until the farthest of them falls
below the bounds of all the others.

Distances are measured in a random Gaussian projection. Its coordinates are rounded to whole numbers, small enough that
every product and sum is exact in float32: the choice is the same for every blocking, thread count and BLAS. Rounding
changes a distance by less than 0.1 % where the projection to 128 dimensions changes it by some 6 %.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from harness.progress import progress
from harness.types import Float32

FRONTIER = 16384
"""Points refreshed per round; of 4096 to 32768 the fastest for 192512 points (3.5 s for a tenth of them)."""
LARGEST_NORM = 2048
"""Of a rounded point: a squared distance is at most (2 · 2048)² = 2²⁴, the last of float32's consecutive integers."""
STARTS = 10
"""Random points that stand for the chosen ones at first, in the seed's protocol."""
ROWS, CENTRES = 2048, 1024
"""Block of one matrix product: its distances stay in the cache until their minimum is taken."""


def select(
    features: Float32,
    count: int,
    *,
    dimensions: int,
    seed: int,
    start: Literal["point", "mean"] = "point",
    label: str = "coreset",
) -> NDArray[np.int64]:
    """Indices of `count` of the `features` (N, D), in the order they are chosen; of equally far points the first.

    Args:
        features: Left as they are.
        count: From 1 to N. A smaller count gives the first of a larger one's.
        dimensions: Of the projection; there is none where D is not larger.
        seed: Of projection and start.
        start: `point`, the first is drawn; or `mean`, the distance at first is the mean of that to `STARTS` points
            drawn, which are not themselves chosen (the approximation of the original code).
        label: What the progress is called.
    """
    random = np.random.default_rng(seed)
    greedy = _Greedy(rounded(_projected(features, dimensions, random)), count)
    if start == "point":
        greedy.choose(int(random.integers(len(features))))
    else:
        drawn = random.choice(len(features), min(STARTS, len(features)), replace=False)
        greedy.start_from(drawn)
    with progress(label, count, unit="patches") as advance:
        advance(len(greedy.chosen))
        while len(greedy.chosen) < count:
            advance(greedy.round())
    return np.array(greedy.chosen)


def _projected(features: Float32, dimensions: int, random: np.random.Generator) -> Float32:
    if features.shape[1] <= dimensions:
        return features
    directions = random.standard_normal((features.shape[1], dimensions), np.float32)
    projected: Float32 = features @ directions
    return projected


def rounded(points: Float32) -> Float32:
    """Whole numbers (N, d) about the mean, of norm at most `LARGEST_NORM`, in proportion to `points`."""
    centred: Float32 = points - points.mean(axis=0)
    largest = float(np.sqrt(np.einsum("nd,nd->n", centred, centred).max()))
    # Rounding moves a point by half the diagonal of a unit cube at most.
    centred *= (LARGEST_NORM - 1 - np.sqrt(points.shape[1]) / 2) / (largest or 1.0)
    np.rint(centred, out=centred)
    return centred


class _Greedy:
    """The points, what is chosen of them, and an upper bound on each one's squared distance to the chosen."""

    def __init__(self, points: Float32, count: int) -> None:
        self.chosen: list[int] = []
        self._norms = np.einsum("nd,nd->n", points, points)
        self._points = np.column_stack((points, np.ones(len(points), np.float32)))
        self._bounds = np.full(len(points), np.inf, np.float32)  # minus infinity once chosen
        self._seen = np.zeros(len(points), np.int32)  # how many of the chosen a bound accounts for
        self._centres = np.empty((count, self._points.shape[1]), np.float32)

    def choose(self, index: int) -> Float32:
        """Choose a point; gives (−2c, |c|²), whose product with (p, 1) is a squared distance less |p|²."""
        centre: Float32 = self._centres[len(self.chosen)]
        np.multiply(self._points[index], -2, out=centre)
        centre[-1] = self._norms[index]
        self._bounds[index] = -np.inf
        self.chosen.append(index)
        return centre

    def start_from(self, starts: NDArray[np.int64]) -> None:
        """Let the mean distance to `starts` be what the points' distances fall from."""
        total = np.zeros(len(self._points))
        for index in starts:
            squared = self._norms - 2 * (self._points[:, :-1] @ self._points[index, :-1]) + self._norms[index]
            total += np.sqrt(squared, dtype=np.float64)
        self._bounds[:] = (total / len(starts)) ** 2

    def round(self) -> int:
        """Choose what the largest bounds allow; gives how many were chosen."""
        before = len(self.chosen)
        size = len(self._bounds)
        least = np.partition(self._bounds, size - FRONTIER)[size - FRONTIER] if size > FRONTIER else -np.inf
        frontier = np.flatnonzero(self._bounds >= least)
        self._refresh(frontier[self._seen[frontier] < before])
        frontier = frontier[self._bounds[frontier] >= least]
        if len(frontier):
            self._choose_among(frontier, float(least))
        return len(self.chosen) - before

    def _refresh(self, stale: NDArray[np.int64]) -> None:
        """Bring bounds down to the distances from all that is chosen."""
        now = len(self.chosen)
        for seen in np.unique(self._seen[stale]):
            same = stale[self._seen[stale] == seen]
            for rows in np.split(same, range(ROWS, len(same), ROWS)):
                points, bounds = self._points[rows], self._bounds[rows]
                for first in range(seen, now, CENTRES):
                    distances = (points @ self._centres[first : min(first + CENTRES, now)].T).min(axis=1)
                    np.minimum(bounds, distances + self._norms[rows], out=bounds)
                self._bounds[rows] = bounds
        self._seen[stale] = now

    def _choose_among(self, frontier: NDArray[np.int64], least: float) -> None:
        """Choose the farthest of `frontier`, whose bounds are true, while it is not below `least`."""
        points, norms, bounds = self._points[frontier], self._norms[frontier], self._bounds[frontier]
        while len(self.chosen) < len(self._centres):
            farthest = int(bounds.argmax())
            if bounds[farthest] < least:
                break
            centre = self.choose(int(frontier[farthest]))
            np.minimum(bounds, points @ centre + norms, out=bounds)
            bounds[farthest] = -np.inf
        self._bounds[frontier] = bounds
        self._seen[frontier] = len(self.chosen)
