from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from exporters.fit import coreset
from harness.types import AnyArray, Float32


def one_by_one(points: AnyArray, first: int, count: int) -> list[int]:
    """Greedy k-centre by its definition, in whole numbers: every distance anew in every step."""
    whole = points.astype(np.int64)
    assert (whole == points).all()
    chosen = [first]
    while len(chosen) < count:
        squared = np.square(whole[:, None] - whole[None, chosen]).sum(axis=2).min(axis=1)
        squared[chosen] = -1
        chosen.append(int(squared.argmax()))
    return chosen


def select(features: Float32, count: int, **given: Any) -> list[int]:
    chosen: list[int] = coreset.select(features, count, **{"dimensions": 128, "seed": 0, **given}).tolist()
    return chosen


def clusters(count: int, dimensions: int, seed: int = 0) -> Float32:
    """Points of very unequal density, some of them equal."""
    random = np.random.default_rng(seed)
    centres = random.normal(0, 5, (9, dimensions))[random.integers(0, 9, count)]
    points = centres + random.normal(0, 1, (count, dimensions)) * random.choice([0, 0.01, 1], (count, 1))
    return np.asarray(points, np.float32)


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounds, and blocks within them, that a few hundred points already need."""
    monkeypatch.setattr(coreset, "FRONTIER", 23)
    monkeypatch.setattr(coreset, "ROWS", 7)
    monkeypatch.setattr(coreset, "CENTRES", 5)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("dimensions", [1, 3, 40])
def test_the_choice_is_that_of_the_definition_one_point_after_the_other(dimensions: int) -> None:
    features = clusters(400, dimensions)
    chosen = select(features, 150)
    assert chosen == one_by_one(coreset.rounded(features), chosen[0], 150)


@pytest.mark.usefixtures("small_blocks")
@hypothesis_settings(deadline=None)
@given(data=st.data())
def test_of_equally_far_points_the_first_is_chosen(data: st.DataObject) -> None:
    count = data.draw(st.integers(2, 60))
    grid = data.draw(st.lists(st.tuples(*[st.integers(0, 3)] * 2), min_size=count, max_size=count))
    features = np.array(grid, np.float32)
    wanted = data.draw(st.integers(1, count))
    chosen = select(features, wanted, seed=data.draw(st.integers(0, 5)))
    assert chosen == one_by_one(coreset.rounded(features), chosen[0], wanted)


@pytest.mark.parametrize(("frontier", "rows", "centres"), [(1, 1, 1), (50, 64, 3), (16384, 2048, 1024)])
def test_neither_rounds_nor_blocks_change_the_choice(
    monkeypatch: pytest.MonkeyPatch, frontier: int, rows: int, centres: int
) -> None:
    features = np.random.default_rng(3).normal(size=(900, 60)).astype(np.float32)
    expected = select(features, 200, dimensions=16)
    for name, value in (("FRONTIER", frontier), ("ROWS", rows), ("CENTRES", centres)):
        monkeypatch.setattr(coreset, name, value)
    assert select(features, 200, dimensions=16) == expected


@pytest.mark.usefixtures("small_blocks")
def test_a_smaller_coreset_is_the_beginning_of_a_larger_one() -> None:
    features = clusters(300, 20)
    assert select(features, 40) == select(features, 120)[:40]


@pytest.mark.parametrize("features", [clusters(60, 4), np.zeros((60, 4), np.float32)], ids=["apart", "equal"])
def test_every_point_is_chosen_once_where_all_are_asked_for(features: Float32) -> None:
    assert sorted(select(features, 60)) == list(range(60))


def test_the_seed_decides_and_the_features_stay_as_they_are() -> None:
    features = clusters(200, 30)
    before = features.copy()
    assert select(features, 20, dimensions=8) == select(features, 20, dimensions=8)
    assert select(features, 20, dimensions=8) != select(features, 20, dimensions=8, seed=1)
    assert len({select(features, 1, seed=seed)[0] for seed in range(9)}) > 5
    np.testing.assert_array_equal(features, before)


def test_distances_are_measured_in_a_projection_only_where_it_is_smaller() -> None:
    features = np.random.default_rng(2).normal(size=(300, 12)).astype(np.float32)
    whole = select(features, 60, dimensions=12)
    assert whole == select(features, 60, dimensions=500)
    assert whole == one_by_one(coreset.rounded(features), whole[0], 60)
    assert select(features, 60, dimensions=3) != whole


def test_a_projection_keeps_distances_up_to_a_common_factor() -> None:
    features = np.random.default_rng(2).normal(size=(50, 700)).astype(np.float32)
    projected = coreset._projected(features, 400, np.random.default_rng(0))
    ratio = np.linalg.norm(projected[1:] - projected[0], axis=1) / np.linalg.norm(
        features[1:] - features[0], axis=1
    )
    assert projected.shape == (50, 400)
    assert ratio.std() / ratio.mean() < 3 / np.sqrt(2 * 400)


@pytest.mark.parametrize("scale", [1e-20, 1.0, 1e15])
def test_rounded_points_are_in_proportion_and_their_distances_exact_in_float32(scale: float) -> None:
    points = (np.random.default_rng(1).normal(300, 1, (500, 128)) * scale).astype(np.float32)
    whole = coreset.rounded(points)
    assert (whole == np.rint(whole)).all()
    norms = np.linalg.norm(whole.astype(np.float64), axis=1)
    assert 0.97 * coreset.LARGEST_NORM < norms.max() <= coreset.LARGEST_NORM
    apart, expected = (
        np.linalg.norm(np.diff(rows.astype(np.float64), axis=0), axis=1) for rows in (whole, points)
    )
    np.testing.assert_allclose(apart / apart.mean(), expected / expected.mean(), rtol=2e-3)


def test_rounding_leaves_the_coverage_as_good_as_it_was() -> None:
    features = np.random.default_rng(5).normal(size=(1500, 64)).astype(np.float32)
    chosen = select(features, 100)
    exact, points = [chosen[0]], features.astype(np.float64)
    while len(exact) < 100:
        exact.append(int(radius_per_point(points, exact).argmax()))
    assert radius_per_point(points, chosen).max() < 1.01 * radius_per_point(points, exact).max()


def radius_per_point(points: AnyArray, chosen: list[int]) -> AnyArray:
    apart = [np.linalg.norm(points - points[index], axis=1) for index in chosen]
    return np.asarray(np.stack(apart).min(axis=0))


# --- the seed's protocol ----------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("small_blocks")
def test_the_seeds_start_is_the_mean_distance_to_ten_points_that_are_not_chosen_themselves() -> None:
    features = clusters(250, 6)
    random = np.random.default_rng(7)
    drawn = random.choice(250, 10, replace=False)
    whole = coreset.rounded(features).astype(np.float64)
    nearest = np.stack([np.linalg.norm(whole - whole[index], axis=1) for index in drawn]).mean(axis=0)
    expected: list[int] = []
    for _ in range(60):
        expected.append(int(nearest.argmax()))
        nearest = np.minimum(nearest, np.linalg.norm(whole - whole[expected[-1]], axis=1))
        nearest[expected[-1]] = -1
    assert select(features, 60, seed=7, start="mean") == expected
    assert len(set(expected)) == 60


def test_fewer_points_than_starts_are_all_started_from() -> None:
    assert sorted(select(clusters(4, 2), 4, start="mean")) == [0, 1, 2, 3]


def test_progress_counts_the_points_chosen(monkeypatch: pytest.MonkeyPatch, small_blocks: None) -> None:
    del small_blocks
    shown: list[int] = []
    asked: list[tuple[str, int, str]] = []

    class Shown:
        def __init__(self, label: str, total: int, *, unit: str) -> None:
            asked.append((label, total, unit))

        def __enter__(self) -> Any:
            return shown.append

        def __exit__(self, *_: object) -> None:
            pass

    monkeypatch.setattr(coreset, "progress", Shown)
    select(clusters(300, 5), 100, label="coreset bottle")
    assert asked == [("coreset bottle", 100, "patches")]
    assert sum(shown) == 100
    assert len(shown) > 5
