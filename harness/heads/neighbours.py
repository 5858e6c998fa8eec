"""Exact nearest neighbours in a memory bank: faiss proposes, differences decide.

faiss computes squared distances as |x|² + |y|² − 2xy in float32, which cancels. Here both sides are moved by the bank's
mean, a few more candidates are asked for than needed, and their distances are computed anew from differences in
float64. What faiss cannot have missed is known from the error bound of its sums; where that proves too little, the
query is compared with the whole bank in float64.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.errors import MissingExtra
from harness.types import AnyArray, Float32

SPARE = 7
"""Candidates asked for beyond those needed."""
BLOCK = 1024
"""Queries, or rows of the bank, taken at a time."""

Found = tuple[NDArray[np.float64], NDArray[np.int64]]
"""Squared distances and rows of the bank, each (Q, count)."""


class Neighbours:
    """The rows of a bank (M, D), ready to be searched by at most `threads` threads."""

    def __init__(self, bank: Float32, *, threads: int) -> None:
        self._faiss = _faiss()
        self._threads = threads
        self._bank = bank
        self._mean = bank.mean(axis=0, dtype=np.float64).astype(np.float32)
        moved = bank - self._mean
        self._largest = float(np.sqrt(_squared_norms(moved).max()))
        self._index = self._faiss.IndexFlatL2(bank.shape[1])
        self._index.add(moved)

    def search(self, queries: Float32, count: int) -> Found:
        """The `count` rows nearest to each of the finite queries (Q, D), nearest first; of equally near rows the first."""
        blocks = [
            self._search(queries[first : first + BLOCK], count) for first in range(0, len(queries), BLOCK)
        ]
        distances, rows = zip(*blocks, strict=True)
        return np.concatenate(distances), np.concatenate(rows)

    def _search(self, queries: Float32, count: int) -> Found:
        moved = queries - self._mean
        self._faiss.omp_set_num_threads(self._threads)  # it holds for the thread that calls
        proposed, rows = self._index.search(moved, min(count + SPARE, len(self._bank)))
        possible = proposed <= (proposed[:, count - 1] + 2 * self._error(moved, np.float32))[:, None]
        distances = np.full(proposed.shape, np.inf)
        distances[possible] = _squared_norms(
            queries[np.nonzero(possible)[0]] - self._bank[rows[possible]].astype(np.float64)
        )
        distances, rows = _first(distances, rows, count)
        missed = np.flatnonzero(possible.all(axis=1))
        if proposed.shape[1] < len(self._bank) and len(missed):
            distances[missed], rows[missed] = self._search_all(queries[missed], count)
        return distances, rows

    def _search_all(self, queries: Float32, count: int) -> Found:
        """The same, where faiss's candidates may not hold all that is as near."""
        moved = queries.astype(np.float64) - self._mean
        proposed = np.empty((len(queries), len(self._bank)))
        for first in range(0, len(self._bank), BLOCK):
            block = self._bank[first : first + BLOCK].astype(np.float64) - self._mean
            proposed[:, first : first + BLOCK] = _squared_norms(block) - 2 * (moved @ block.T)
        limit = np.partition(proposed, count - 1)[:, count - 1] + 2 * self._error(moved, np.float64)
        distances, chosen = np.empty((len(queries), count)), np.empty((len(queries), count), np.int64)
        for index, query in enumerate(queries):
            rows = np.flatnonzero(proposed[index] <= limit[index])
            squared = _squared_norms(query - self._bank[rows].astype(np.float64))
            distances[index], chosen[index] = _first(squared, rows, count)
        return distances, chosen

    def _error(self, moved: AnyArray, precision: type[np.floating[Any]]) -> AnyArray:
        """How far |x|² + |y|² − 2xy may be off, for each x.

        Higham 2002, section 3.1: a sum of n products is off by at most n·u / (1 − n·u) of the sum of their absolute
        values; eight more roundings are for the move, the norms and the last additions.
        """
        rounding = (moved.shape[1] + 8) * float(np.finfo(precision).eps) / 2
        absolute = (np.sqrt(_squared_norms(moved)) + self._largest) ** 2
        return np.asarray(rounding / (1 - rounding) * absolute)


def _first(distances: AnyArray, rows: AnyArray, count: int) -> Found:
    """The `count` least distances along the last axis, in order, of equal ones the first row."""
    order = np.lexsort((rows, distances))[..., :count]
    return np.take_along_axis(distances, order, -1), np.take_along_axis(rows, order, -1)


def _squared_norms(vectors: AnyArray) -> AnyArray:
    return np.asarray(np.einsum("nd,nd->n", vectors, vectors))


def _faiss() -> Any:
    try:
        import faiss
    except ImportError as error:
        raise MissingExtra("faiss-cpu", "faiss", needed_for="PatchCore's nearest neighbours") from error
    return faiss
