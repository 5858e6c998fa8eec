"""The level of maps and structural similarity."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from harness.parity import (
    compare,
)
from harness.parity.levels.maps import WINDOW, structural_similarity
from harness.types import AnyArray
from tests.harness.parity.pairs import (
    failing,
    level,
    messages,
    numbers,
    verdicts,
    with_pixel,
)
from tests.harness.record_factory import Results, outputs


@pytest.mark.parametrize(("change", "failed"), [(0.999e-3, set()), (1.001e-3, {"maps"}), (1.0, {"maps"})])
def test_a_map_value_may_change_by_a_thousandth_of_the_same_range(
    results: Results, change: float, failed: set[str]
) -> None:
    base = outputs()
    highest = np.unravel_index(np.argmax(base.maps), base.maps.shape)
    pair = results.compared(base, with_pixel(base, tuple(map(int, highest)), base.maps.max() + change))
    assert failing(pair) == failed
    assert numbers(pair, "maps")["largest_difference"] == pytest.approx(change, rel=1e-3)
    assert numbers(pair, "maps")["mean_difference"] == pytest.approx(change / base.maps.size, rel=1e-3)


@pytest.mark.parametrize("missing", ["reference", "other"])
def test_maps_without_evidence_are_not_measured(results: Results, missing: str) -> None:
    reference, other = results.add("reference", outputs()), results.add("other", outputs())
    gone = {"reference": reference, "other": other}[missing].evidence
    assert gone is not None
    (results.folder / gone.file).unlink()
    pair = compare(results.folder, reference, other)
    assert pair.verdict == "not measured"
    assert {name for name, verdict in verdicts(pair).items() if verdict != "passed"} == {"maps"}
    assert f"evidence of {missing} is missing" in messages(pair, "maps")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_map_that_is_not_finite_fails_even_if_both_records_agree(results: Results, value: float) -> None:
    broken = with_pixel(outputs(), (2, 1, 1), value)
    pair = results.compared(broken, broken)
    assert "maps" in failing(pair)
    assert "maps of other are NaN or infinite: 1 of 8 images (test/good/002.png)" in messages(pair, "maps")
    assert pair.largest[0].image == "test/good/002.png"


def test_differences_near_the_end_of_float32_stay_finite(results: Results) -> None:
    far = float(np.finfo(np.float32).max)
    pair = results.compared(with_pixel(outputs(), (0, 0, 0), far), with_pixel(outputs(), (0, 0, 0), -far))
    assert numbers(pair, "maps")["largest_difference"] == 2 * far


def test_maps_of_two_shapes_fail(results: Results) -> None:
    pair = results.compared(outputs(side=6), outputs(side=8))
    assert "maps" in failing(pair)
    assert "(8, 6, 6) on reference and (8, 8, 8) on other" in messages(pair, "maps")


def slow_similarity(one: AnyArray, two: AnyArray) -> float:
    """Compute the index of Wang et al. 2004 window by window; both maps are scaled to [0, 1]."""
    offsets = np.arange(WINDOW) - WINDOW // 2
    gauss = np.exp(-(offsets**2) / (2 * 1.5**2))
    weights = np.outer(gauss, gauss) / gauss.sum() ** 2
    indices = []
    for row in range(one.shape[0] - WINDOW + 1):
        for column in range(one.shape[1] - WINDOW + 1):
            a, b = (values[row : row + WINDOW, column : column + WINDOW] for values in (one, two))
            mean_a, mean_b = (weights * a).sum(), (weights * b).sum()
            var_a, var_b = (weights * (a - mean_a) ** 2).sum(), (weights * (b - mean_b) ** 2).sum()
            both = (weights * (a - mean_a) * (b - mean_b)).sum()
            top = (2 * mean_a * mean_b + 1e-4) * (2 * both + 9e-4)
            indices.append(top / ((mean_a**2 + mean_b**2 + 1e-4) * (var_a + var_b + 9e-4)))
    return float(np.mean(indices))


def test_structural_similarity_is_that_of_every_window_on_its_own() -> None:
    random = np.random.default_rng(0)
    one = random.random((2, 14, 12)).astype(np.float32) * 8 - 3
    two = one + random.normal(size=one.shape).astype(np.float32)
    similarity = structural_similarity(one, two)
    assert similarity is not None
    low, high = float(one.min()), float(one.max())
    for index in range(2):
        scaled = ((values[index].astype(np.float64) - low) / (high - low) for values in (one, two))
        assert similarity[index] == pytest.approx(slow_similarity(*scaled), abs=1e-9)


def test_structural_similarity_is_1_of_equal_maps_and_does_not_depend_on_the_unit() -> None:
    random = np.random.default_rng(1)
    one, two = random.random((2, 3, 16, 16)).astype(np.float32)
    assert structural_similarity(one, one) == pytest.approx(np.ones(3))
    plain, scaled = structural_similarity(one, two), structural_similarity(one * 64 - 32, two * 64 - 32)
    assert plain is not None
    assert scaled == pytest.approx(plain, abs=1e-5)
    assert (plain < 0.5).all()


@pytest.mark.parametrize("maps", [np.zeros((2, 16, 16), np.float32), np.eye(10, dtype=np.float32)[None]])
def test_structural_similarity_of_flat_or_small_maps_is_undefined(maps: AnyArray) -> None:
    assert structural_similarity(maps, maps) is None


def test_the_level_of_maps_names_the_image_of_the_lowest_similarity(results: Results) -> None:
    base = outputs(side=16)
    maps = base.maps.copy()
    maps[5] = maps[5][::-1]
    report = level(results.compared(base, dataclasses.replace(base, maps=maps)), "maps")
    assert report.images["lowest_similarity"] == "test/crack/005.png"
    lowest = report.numbers["lowest_similarity"]
    assert lowest is not None
    assert lowest < 0.5
    assert "lowest_similarity" not in level(results.compared(outputs(), outputs()), "maps").numbers
