from __future__ import annotations

import sys
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.errors import MissingExtra
from harness.heads import neighbours
from harness.heads.neighbours import Neighbours
from harness.types import AnyArray, Float32

faiss = pytest.importorskip("faiss", reason="faiss-cpu is not installed")


@pytest.fixture(autouse=True)
def products() -> Iterator[None]:
    """faiss takes differences where there is little to compare; have it take products, as it does on real banks."""
    usual = faiss.cvar.distance_compute_blas_threshold
    faiss.cvar.distance_compute_blas_threshold = 0
    yield
    faiss.cvar.distance_compute_blas_threshold = usual


def by_definition(bank: AnyArray, queries: AnyArray, count: int) -> tuple[AnyArray, AnyArray]:
    """Squared distances and rows of the nearest, of equally near ones the first."""
    squared = np.square(queries[:, None].astype(np.float64) - bank[None].astype(np.float64)).sum(axis=2)
    rows = np.argsort(squared, axis=1, kind="stable")[:, :count]
    return np.take_along_axis(squared, rows, 1), rows


def assert_exact(bank: Float32, queries: Float32, count: int, threads: int = 1) -> None:
    distances, rows = Neighbours(bank, threads=threads).search(queries, count)
    expected_distances, expected_rows = by_definition(bank, queries, count)
    np.testing.assert_array_equal(rows, expected_rows)
    np.testing.assert_allclose(distances, expected_distances, rtol=1e-12)
    assert distances.dtype == np.float64


def drawn(*shape: int, seed: int = 0) -> Float32:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("count", [1, 3, 12])
@pytest.mark.parametrize("rows", [12, 13, 40, 3000])
def test_the_nearest_rows_are_found_in_order(count: int, rows: int) -> None:
    assert_exact(drawn(rows, 33), drawn(50, 33, seed=1), count)


def test_queries_are_searched_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "BLOCK", 8)
    assert_exact(drawn(30, 4), drawn(27, 4, seed=1), 2)


@pytest.mark.parametrize("offset", [0.0, 1e3, 1e5])
def test_a_bank_far_from_the_origin_loses_no_digit(offset: float) -> None:
    bank = drawn(400, 20) + np.float32(offset)
    assert_exact(bank, bank[:60] + drawn(60, 20, seed=1) * np.float32(1e-3 * max(offset, 1)), 1)


def test_a_patch_of_the_bank_has_distance_zero_to_itself() -> None:
    bank = drawn(200, 64) * 100
    distances, rows = Neighbours(bank, threads=1).search(bank, 1)
    assert (distances == 0).all()
    np.testing.assert_array_equal(rows[:, 0], np.arange(200))


def test_distances_beyond_the_reach_of_float32_and_float64_sums_are_told_apart() -> None:
    """Two heaps a million to either side of their mean: a sum of squares is off by more than neighbours are apart."""
    far = np.float32(1e6)
    bank = np.concatenate([drawn(150, 20) + far, drawn(150, 20, seed=1) - far])
    assert_exact(bank, np.concatenate([drawn(20, 20, seed=2) + far, bank[[7, 160]]]), 3)


@settings(deadline=None)
@given(st.data())
def test_ties_go_to_the_first_row(data: st.DataObject) -> None:
    points = st.lists(st.tuples(*[st.integers(-1, 1)] * 2), min_size=1, max_size=40)
    bank, queries = (np.array(data.draw(points), np.float32) for _ in range(2))
    assert_exact(bank, queries, data.draw(st.integers(1, len(bank))))


def test_every_row_of_a_bank_of_equal_rows_is_a_tie() -> None:
    bank = np.repeat(drawn(1, 10), 300, axis=0)
    _, rows = Neighbours(bank, threads=1).search(drawn(5, 10, seed=1), 4)
    np.testing.assert_array_equal(rows, np.tile(np.arange(4), (5, 1)))


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_limit_faiss_and_change_no_bit(threads: int) -> None:
    bank, queries = drawn(700, 32), drawn(100, 32, seed=1)
    ready = Neighbours(bank, threads=threads)
    faiss.omp_set_num_threads(7)
    found = ready.search(queries, 2)
    assert faiss.omp_get_max_threads() == threads
    for array, expected in zip(found, Neighbours(bank, threads=1).search(queries, 2), strict=True):
        np.testing.assert_array_equal(array, expected)


def test_without_faiss_the_message_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(MissingExtra, match=r"nearest neighbours needs faiss-cpu.*\[faiss\]"):
        Neighbours(drawn(5, 2), threads=1)
