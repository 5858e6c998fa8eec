from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.heads.fastflow import OUTPUTS, FastflowHead
from harness.types import AnyArray, Float32

SIZE = (16, 32)
GRIDS = ((4, 8), (2, 4), (1, 2))
CHANNELS = (3, 5, 8)
BATCH = np.zeros((4, 3, *SIZE), np.float32)
HEAD = FastflowHead({"map_size": [*SIZE]}, {}, threads=1)

Latent = dict[str, Float32]


def drawn(seed: int, count: int = 4) -> Latent:
    """Standard normal, as of good images."""
    random = np.random.default_rng(seed)
    return {
        name: random.normal(size=(count, channels, *grid)).astype(np.float32)
        for name, channels, grid in zip(OUTPUTS, CHANNELS, GRIDS, strict=True)
    }


@pytest.fixture
def latent() -> Latent:
    return drawn(3)


def bilinear(layer: AnyArray, row: int, column: int) -> float:
    """One pixel of a layer upsampled to `SIZE` with half-pixel centres and the border repeated."""
    y = np.clip((row + 0.5) * layer.shape[0] / SIZE[0] - 0.5, 0, layer.shape[0] - 1)
    x = np.clip((column + 0.5) * layer.shape[1] / SIZE[1] - 0.5, 0, layer.shape[1] - 1)
    near = [(i, j) for i, j in np.ndindex(*layer.shape) if abs(y - i) < 1 and abs(x - j) < 1]
    return float(sum((1 - abs(y - i)) * (1 - abs(x - j)) * layer[i, j] for i, j in near))


def slowly(latent: Latent, image: int) -> AnyArray:
    """The map by its definition, a pixel at a time, in float64."""
    layers = []
    for name, grid in zip(OUTPUTS, GRIDS, strict=True):
        layer = np.empty(grid)
        for y, x in np.ndindex(*grid):
            vector = latent[name][image, :, y, x].astype(np.float64)
            layer[y, x] = -np.exp(-np.sum(vector**2) / (2 * len(vector)))
        layers.append(layer)
    found = np.empty(SIZE)
    for row, column in np.ndindex(*SIZE):
        found[row, column] = np.mean([bilinear(layer, row, column) for layer in layers])
    return found


def test_maps_and_scores_are_those_of_the_definition(latent: Latent) -> None:
    scores = HEAD(BATCH, latent)
    assert scores.maps.dtype == scores.images.dtype == np.float32
    assert scores.maps.shape == (4, *SIZE)
    expected = np.stack([slowly(latent, image) for image in range(4)])
    np.testing.assert_allclose(scores.maps, expected, rtol=1e-5)
    np.testing.assert_array_equal(scores.images, scores.maps.max(axis=(1, 2)))
    assert -1 < scores.maps.min() < scores.maps.max() < 0


def test_a_map_checked_by_hand() -> None:
    """Means of squares of 2·ln 2, 2·ln 4 and 0 give p of 1/2, 1/4 and 1."""
    means = (2 * np.log(2), 2 * np.log(4), 0)
    outputs = {
        name: np.sqrt(np.full((1, channels, *grid), mean, np.float32))
        for name, channels, grid, mean in zip(OUTPUTS, CHANNELS, GRIDS, means, strict=True)
    }
    scores = HEAD(BATCH[:1], outputs)
    np.testing.assert_allclose(scores.maps, np.full((1, *SIZE), -(0.5 + 0.25 + 1) / 3), rtol=1e-6)


def test_where_all_latent_variables_are_zero_nothing_can_be_more_normal(latent: Latent) -> None:
    scores = HEAD(BATCH, {name: 0 * array for name, array in latent.items()})
    np.testing.assert_allclose(scores.maps, -1, rtol=1e-6)


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 1000), row=st.integers(0, 3))
def test_neither_signs_nor_the_order_of_channels_matter(seed: int, row: int) -> None:
    random = np.random.default_rng(seed)
    outputs = {name: array[row : row + 1] for name, array in drawn(seed).items()}
    changed = {
        name: (array * random.choice([-1, 1], array.shape))[:, random.permutation(array.shape[1])]
        for name, array in outputs.items()
    }
    expected = HEAD(BATCH[:1], outputs).maps
    np.testing.assert_allclose(HEAD(BATCH[:1], changed).maps, expected, rtol=1e-6)


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 1000), factor=st.floats(1.01, 10), name=st.sampled_from(OUTPUTS))
def test_what_lies_further_out_scores_higher_everywhere(seed: int, factor: float, name: str) -> None:
    outputs = drawn(seed)
    further = {**outputs, name: outputs[name] * np.float32(factor)}
    assert (HEAD(BATCH, further).maps >= HEAD(BATCH, outputs).maps).all()
    assert (HEAD(BATCH, further).maps.mean(axis=(1, 2)) > HEAD(BATCH, outputs).maps.mean(axis=(1, 2))).all()


def test_a_defect_is_found_where_it_is(latent: Latent) -> None:
    latent["z1"][2, :, 3, 6] += 6
    scores = HEAD(BATCH, {**latent, "z2": 0 * latent["z2"], "z3": 0 * latent["z3"]})
    row, column = np.unravel_index(scores.maps[2].argmax(), SIZE)
    assert (row // 4, column // 4) == (3, 6)
    assert scores.images.argmax() == 2


def test_images_do_not_depend_on_their_batch(latent: Latent) -> None:
    whole = HEAD(BATCH, latent)
    for image in range(4):
        alone = HEAD(BATCH[:1], {name: array[image : image + 1] for name, array in latent.items()})
        np.testing.assert_allclose(alone.maps[0], whole.maps[image], rtol=5e-6)


def test_the_farthest_finite_values_are_defects_and_infinite_ones_an_overflow(latent: Latent) -> None:
    far = np.full_like(latent["z1"], 3e38)
    zero = {name: 0 * latent[name] for name in ("z2", "z3")}
    np.testing.assert_allclose(HEAD(BATCH, {"z1": far, **zero}).maps, -2 / 3, rtol=1e-6)
    for broken in (np.inf, -np.inf, np.nan):
        far[1, 0, 2, 2] = broken
        found = np.isnan(HEAD(BATCH, {"z1": far, **zero}).maps)
        assert found[1].any()
        assert not found[[0, 2, 3]].any()


@pytest.mark.parametrize("name", OUTPUTS)
def test_a_missing_output_is_named_with_what_is_there(latent: Latent, name: str) -> None:
    del latent[name]
    there = ", ".join(sorted(latent))
    with pytest.raises(ValueError, match=rf"FastFlow scores the outputs z1, z2, z3; the net gave {there}$"):
        HEAD(BATCH, latent)
    with pytest.raises(ValueError, match="the net gave none"):
        HEAD(BATCH, {})


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("z1", (4, 3, 8, 4)),
        ("z2", (4, 5, 2, 2)),
        ("z3", (1, 8, 1, 2)),
        ("z1", (3, 3, 4, 8)),
        ("z2", (4, 2, 4)),
        ("z2", (4, 5, 2, 4, 1)),
        ("z3", ()),
    ],
)
def test_misshapen_outputs_are_refused(latent: Latent, name: str, shape: tuple[int, ...]) -> None:
    latent[name] = np.ones(shape, np.float32)
    grid = ", ".join(map(str, GRIDS[int(name[1]) - 1]))
    with pytest.raises(ValueError, match=rf"{name} has shape \(.*\), expected \(4, C, {grid}\)"):
        HEAD(BATCH, latent)


@pytest.mark.parametrize("parameters", [{}, {"map_size": [16, 32], "sigma": 4.0}, {"map_size": 16}])
def test_parameters_it_does_not_know_are_refused(parameters: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError):
        FastflowHead(parameters, {}, threads=1)
