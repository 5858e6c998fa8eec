from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.heads.resampling import resampling_matrix
from harness.heads.stpm import STUDENT, TEACHER, StpmHead
from harness.types import AnyArray, Float32

GRIDS = ((4, 6), (2, 3), (1, 2))
CHANNELS = (3, 5, 8)
SIZE = (8, 12)
BATCH = np.zeros((4, 3, *SIZE), np.float32)
PARAMETERS = {"protocol": "standard", "grids": [[*grid] for grid in GRIDS], "map_size": [*SIZE]}

Features = dict[str, Float32]


def head(**changes: Any) -> StpmHead:
    return StpmHead(PARAMETERS | changes, {}, threads=1)


@pytest.fixture
def features() -> Features:
    """Of four images; as after a ReLU, a third of all values is zero, but no vector is."""
    random = np.random.default_rng(3)
    made: Features = {}
    for names in (STUDENT, TEACHER):
        for name, channels, grid in zip(names, CHANNELS, GRIDS, strict=True):
            values = np.maximum(random.normal(0.4, 1, (4, channels, *grid)), 0)
            values[:, 0] += 0.1
            made[name] = values.astype(np.float32)
    return made


def unit(vector: AnyArray) -> AnyArray:
    exact = vector.astype(np.float64)
    return np.asarray(exact / np.sqrt(np.sum(exact**2)))


def bilinear(layer: AnyArray, row: int, column: int) -> float:
    """One pixel of a layer upsampled to `SIZE` with half-pixel centres and the border repeated."""
    y = np.clip((row + 0.5) * layer.shape[0] / SIZE[0] - 0.5, 0, layer.shape[0] - 1)
    x = np.clip((column + 0.5) * layer.shape[1] / SIZE[1] - 0.5, 0, layer.shape[1] - 1)
    near = [(i, j) for i, j in np.ndindex(*layer.shape) if abs(y - i) < 1 and abs(x - j) < 1]
    return float(sum((1 - abs(y - i)) * (1 - abs(x - j)) * layer[i, j] for i, j in near))


def slowly(features: Features, image: int) -> AnyArray:
    """The map by its definition, a pixel at a time, in float64."""
    layers = []
    for student, teacher, grid in zip(STUDENT, TEACHER, GRIDS, strict=True):
        layer = np.empty(grid)
        for y, x in np.ndindex(*grid):
            difference = unit(features[student][image, :, y, x]) - unit(features[teacher][image, :, y, x])
            layer[y, x] = 0.5 * np.sum(difference**2)
        layers.append(layer)
    found = np.ones(SIZE)
    for row, column in np.ndindex(*SIZE):
        found[row, column] = np.prod([bilinear(layer, row, column) for layer in layers])
    return found


def test_maps_and_scores_are_those_of_the_definition(features: Features) -> None:
    scores = head()(BATCH, features)
    assert scores.maps.dtype == scores.images.dtype == np.float32
    assert scores.maps.shape == (4, *SIZE)
    expected = np.stack([slowly(features, image) for image in range(4)])
    np.testing.assert_allclose(scores.maps, expected, rtol=1e-5)
    np.testing.assert_array_equal(scores.images, scores.maps.max(axis=(1, 2)))
    assert 0 <= scores.maps.min() < scores.maps.max() <= 1


def test_a_map_checked_by_hand() -> None:
    """(3, 4) and (4, 3) have the cosine 24/25, (1, 0) and (0, 1) are at right angles, (0, 2) and (5, 5) at half of one."""
    vectors = {"1": ((3, 4), (4, 3)), "2": ((1, 0), (0, 1)), "3": ((0, 2), (5, 5))}
    outputs = {
        f"{network}{layer}": np.array(pair[which], np.float32).reshape(1, 2, 1, 1)
        for layer, pair in vectors.items()
        for which, network in enumerate(("student", "teacher"))
    }
    scores = head(grids=[[1, 1]] * 3, map_size=[2, 2])(BATCH[:1], outputs)
    expected = (1 - 24 / 25) * 1 * (1 - np.sqrt(0.5))
    np.testing.assert_allclose(scores.maps, np.full((1, 2, 2), expected), rtol=1e-6)


def test_small_distances_do_not_cancel() -> None:
    """1 − Σ ŝt̂ would be 0 or 6e-8 here."""
    angle, one = 1e-5, np.ones((1, 1, 1, 1), np.float32)
    near = np.concatenate([np.cos(angle) * one, np.sin(angle) * one], axis=1)
    far = np.concatenate([one, 0 * one], axis=1)
    outputs = {"student1": near, "teacher1": far}
    for layer in ("2", "3"):  # at right angles: 1
        outputs |= {f"student{layer}": far, f"teacher{layer}": far[:, ::-1]}
    scores = head(grids=[[1, 1]] * 3, map_size=[1, 1])(BATCH[:1], outputs)
    assert scores.images[0] == pytest.approx(0.5e-10, rel=1e-4)


@settings(deadline=None, max_examples=25)
@given(scale=st.floats(1e-3, 1e4), name=st.sampled_from((*STUDENT, *TEACHER)), row=st.integers(0, 3))
def test_the_length_of_a_vector_does_not_matter(scale: float, name: str, row: int) -> None:
    outputs = drawn(row)
    scaled = {**outputs, name: outputs[name] * np.float32(scale)}
    expected = head()(BATCH[:1], outputs).maps
    np.testing.assert_allclose(head()(BATCH[:1], scaled).maps, expected, rtol=1e-5)


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 1000))
def test_student_and_teacher_may_change_places(seed: int) -> None:
    outputs = drawn(seed)
    names = dict(zip((*STUDENT, *TEACHER), (*TEACHER, *STUDENT), strict=True))
    swapped = {names[name]: array for name, array in outputs.items()}
    np.testing.assert_array_equal(head()(BATCH[:1], swapped).maps, head()(BATCH[:1], outputs).maps)


def drawn(seed: int) -> Features:
    random = np.random.default_rng(seed)
    return {
        name: random.uniform(0.1, 1, (1, channels, *grid)).astype(np.float32)
        for names in (STUDENT, TEACHER)
        for name, channels, grid in zip(names, CHANNELS, GRIDS, strict=True)
    }


@pytest.mark.parametrize("layer", range(3))
def test_where_the_networks_agree_at_one_layer_nothing_is_anomalous(features: Features, layer: int) -> None:
    outputs = {**features, STUDENT[layer]: features[TEACHER[layer]]}
    scores = head()(BATCH, outputs)
    assert (scores.maps == 0).all()
    assert (scores.images == 0).all()


def test_a_defect_at_all_scales_is_found_where_it_is(features: Features) -> None:
    outputs = {**features, **dict(zip(STUDENT, (features[name].copy() for name in TEACHER), strict=True))}
    for name, (y, x) in zip(STUDENT, ((3, 4), (1, 2), (0, 1)), strict=True):
        outputs[name][2, :, y, x] = np.roll(outputs[name][2, :, y, x], 1) + 0.5
    scores = head()(BATCH, outputs)
    row, column = np.unravel_index(scores.maps[2].argmax(), SIZE)
    assert (row // 2, column // 2) == (3, 4)
    assert scores.images.argmax() == 2
    assert (scores.images[[0, 1, 3]] == 0).all()


def test_images_do_not_depend_on_their_batch(features: Features) -> None:
    whole = head()(BATCH, features)
    for image in range(4):
        alone = head()(BATCH[:1], {name: array[image : image + 1] for name, array in features.items()})
        np.testing.assert_allclose(alone.maps[0], whole.maps[image], rtol=5e-6)
        np.testing.assert_allclose(alone.images[0], whole.images[image], rtol=5e-6)


def test_a_vector_of_zeros_is_half_a_distance_of_one_from_any_other(features: Features) -> None:
    outputs = {name: np.zeros_like(array) if name in STUDENT else array for name, array in features.items()}
    np.testing.assert_allclose(head()(BATCH, outputs).maps, 0.5**3, rtol=1e-5)


def test_the_seeds_protocol_divides_short_vectors_by_a_hundredth(features: Features) -> None:
    """A squared length of 1e-6 is below its 1e-4: the vector becomes (0.1, 0), not (1, 0)."""
    short, right = (np.array(pair, np.float32).reshape(1, 2, 1, 1) for pair in ((1e-3, 0), (0, 1)))
    outputs = dict.fromkeys(STUDENT, short) | dict.fromkeys(TEACHER, right)
    single = {"grids": [[1, 1]] * 3, "map_size": [1, 1]}
    seed = head(protocol="seed", **single)(BATCH[:1], outputs)
    assert seed.images[0] == pytest.approx((0.5 * (0.1**2 + 1)) ** 3, rel=1e-5)
    assert head(**single)(BATCH[:1], outputs).images[0] == pytest.approx(1, rel=1e-5)
    np.testing.assert_array_equal(head(protocol="seed")(BATCH, features).maps, head()(BATCH, features).maps)


def test_layers_are_upsampled_bilinearly_without_blur(features: Features) -> None:
    """With the other layers' maps at 1 everywhere, the map is the first layer's, upsampled."""
    outputs = {**features}
    for layer in (1, 2):
        one = np.zeros_like(features[STUDENT[layer]])
        one[:, 0] = 1
        outputs |= {STUDENT[layer]: one, TEACHER[layer]: one[:, ::-1]}
    distances = head(grids=[[4, 6], [2, 3], [1, 2]], map_size=[4, 6])(BATCH, outputs).maps
    rows, columns = resampling_matrix(4, 8, 0), resampling_matrix(6, 12, 0)
    np.testing.assert_allclose(head()(BATCH, outputs).maps, rows @ distances @ columns.T, rtol=1e-5)


@pytest.mark.parametrize("name", ["student1", "student3", "teacher2"])
def test_a_missing_output_is_named_with_what_is_there(features: Features, name: str) -> None:
    del features[name]
    there = ", ".join(sorted(features))
    with pytest.raises(ValueError, match=rf"STPM scores the outputs .*{name}.*; the net gave {there}"):
        head()(BATCH, features)
    with pytest.raises(ValueError, match="the net gave none"):
        head()(BATCH, {})


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("student1", (4, 3, 6, 4)),
        ("student2", (4, 5, 2, 2)),
        ("student3", (1, 8, 1, 2)),
        ("teacher1", (4, 4, 4, 6)),
        ("teacher2", (4, 5, 1, 3)),
        ("teacher3", (1, 8, 1, 2)),
        ("student2", (4, 5, 6)),
        ("student2", ()),
    ],
)
def test_misshapen_outputs_are_refused(features: Features, name: str, shape: tuple[int, ...]) -> None:
    features[name] = np.ones(shape, np.float32)
    grid = ", ".join(map(str, GRIDS[int(name[-1]) - 1]))
    with pytest.raises(
        ValueError,
        match=rf"student{name[-1]} has shape \(.*\) and its teacher \(.*\), expected \(4, C, {grid}\) twice",
    ):
        head()(BATCH, features)


def test_both_networks_misshapen_alike_are_refused(features: Features) -> None:
    fewer = {name: array[:3] for name, array in features.items()}
    with pytest.raises(ValueError, match=r"expected \(4, C, 4, 6\) twice"):
        head()(BATCH, fewer)
