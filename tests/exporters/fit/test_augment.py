from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest

from harness.detector.settings import SsimAe
from harness.errors import UsageError
from harness.types import AnyArray, UInt8

if TYPE_CHECKING:
    from exporters.fit.augment import Augmentation

SIDE = 128
ROOM = 150


def frames(count: int, channels: int = 1, room: int = ROOM) -> UInt8:
    return np.random.default_rng(0).integers(0, 256, (count, room, room, channels), np.uint8)


def augmentation(images: UInt8, *, seed: int = 0, **given: Any) -> Augmentation:
    from exporters.fit.augment import Augmentation

    settings = SsimAe(**{"window": SIDE, "batch_size": 4, "images_per_epoch": 12} | given)
    return Augmentation(frames=images, settings=settings, seed=seed)


def turned(frame: UInt8, corner: tuple[int, int], side: int, angle: float, *, seed: bool = False) -> AnyArray:
    from exporters.fit.augment import turned

    return turned(frame, corner, side, angle, seed=seed)


# --- which images -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "per_epoch"), [(3, 12), (5, 12), (7, 4), (10, 10_000)])
def test_every_image_is_drawn_as_often_as_the_others_or_once_more(count: int, per_epoch: int) -> None:
    drawn = augmentation(frames(count, room=SIDE), images_per_epoch=per_epoch).chosen(0)
    often = np.bincount(drawn, minlength=count)
    assert len(drawn) == per_epoch
    assert often.min() == per_epoch // count
    assert often.max() <= per_epoch // count + 1


def test_who_is_drawn_once_more_and_when_changes_from_epoch_to_epoch() -> None:
    drawn = augmentation(frames(5, room=SIDE))
    orders = [drawn.chosen(epoch).tolist() for epoch in range(20)]
    assert len({tuple(order) for order in orders}) == 20
    extra = {image for order in orders for image in range(5) if order.count(image) == 3}
    assert extra == {0, 1, 2, 3, 4}
    assert orders[0] != sorted(orders[0])


def test_an_epoch_is_as_many_whole_batches_as_it_has_images_for() -> None:
    assert augmentation(frames(3), images_per_epoch=15).steps == 3
    assert augmentation(frames(3), images_per_epoch=10_000, batch_size=128).steps == 78


def test_an_epoch_smaller_than_a_batch_is_refused() -> None:
    with pytest.raises(UsageError, match="images_per_epoch 3 is less than batch_size 4"):
        _ = augmentation(frames(3), images_per_epoch=3).steps


def test_an_epochs_batches_are_its_images_each_once() -> None:
    images = np.arange(12, dtype=np.uint8)[:, None, None, None] * np.ones((1, SIDE, SIDE, 1), np.uint8)
    drawn = augmentation(images)
    values = [round(255 * float(image.mean())) for step in range(3) for image in drawn.batch(0, step)]
    assert sorted(values) == list(range(12))
    assert values == drawn.chosen(0).tolist()


# --- pure functions ---------------------------------------------------------------------------------------------------

ALL: dict[str, Any] = {"rotate": 30.0, "flip_horizontal": 0.5, "flip_vertical": 0.5}


@pytest.mark.parametrize("protocol", ["standard", "seed"])
def test_a_batch_is_a_pure_function_of_seed_epoch_and_step(protocol: str) -> None:
    images = frames(3)
    first = augmentation(images, protocol=protocol, **ALL)
    expected = first.batch(1, 2)
    first.batch(0, 0)
    np.testing.assert_array_equal(first.batch(1, 2), expected)
    np.testing.assert_array_equal(augmentation(images, protocol=protocol, **ALL).batch(1, 2), expected)


def test_another_seed_epoch_or_step_gives_another_batch() -> None:
    images = frames(1)
    batches = [augmentation(images, seed=seed, **ALL).batch(*at) for seed, at in ((0, (0, 0)), (1, (0, 0)))]
    batches += [augmentation(images, **ALL).batch(*at) for at in ((0, 1), (1, 0), (0, 2), (2, 0))]
    assert len({batch.tobytes() for batch in batches}) == 6
    rows = [row.tobytes() for row in batches[0]]
    assert len(set(rows)) == 4  # one image, augmented four times


@pytest.mark.parametrize("channels", [1, 3])
def test_a_batch_is_float32_from_0_to_1_channels_first(channels: int) -> None:
    images = np.zeros((1, SIDE, SIDE, channels), np.uint8)
    images[0, 2, 5] = range(100, 100 + channels)
    images[0, 0, 0] = 255
    batch = augmentation(images, batch_size=2, channels=channels).batch(0, 0)
    assert batch.dtype == np.float32
    assert batch.shape == (2, channels, SIDE, SIDE)
    assert batch.flags["C_CONTIGUOUS"]
    expected = np.arange(100, 100 + channels, dtype=np.float32) / np.float32(255)
    np.testing.assert_array_equal(batch[1, :, 2, 5], expected)
    assert batch.max() == 1


# --- crops and flips --------------------------------------------------------------------------------------------------


def corners_of(drawn: Augmentation, batches: int) -> set[tuple[int, int]]:
    """Top left corners of crops of an image whose pixels tell their place."""
    found = set()
    for step in range(batches):
        for image in drawn.batch(0, step):
            row, column = np.rint(image[:, 0, 0] * 255).astype(int)
            found.add((row, column))
    return found


def test_crops_come_from_anywhere_in_the_image_up_to_its_last_row_and_column() -> None:
    room = SIDE + 2
    places = np.stack(np.meshgrid(range(room), range(room), indexing="ij"), axis=-1).astype(np.uint8)
    drawn = augmentation(places[None], batch_size=20, images_per_epoch=200, channels=1)
    assert corners_of(drawn, 10) == {(row, column) for row in range(3) for column in range(3)}


def test_a_crop_is_a_piece_of_the_image_as_it_is() -> None:
    images = frames(1, room=SIDE + 5)
    pieces = np.lib.stride_tricks.sliding_window_view(images[0, :, :, 0], (SIDE, SIDE)).reshape(
        -1, SIDE, SIDE
    )
    known = {piece.tobytes() for piece in pieces}
    for image in augmentation(images).batch(0, 0):
        assert np.rint(image[0] * 255).astype(np.uint8).tobytes() in known


@pytest.mark.parametrize(("name", "axis"), [("flip_vertical", 0), ("flip_horizontal", 1)])
def test_flips_turn_their_own_axis_and_no_other(name: str, axis: int) -> None:
    images = frames(1, room=SIDE)
    settings: dict[str, Any] = {name: 1.0}
    batch = augmentation(images, **settings).batch(0, 0)
    expected = np.flip(images[0, :, :, 0], axis).astype(np.float32) / np.float32(255)
    for image in batch:
        np.testing.assert_array_equal(image[0], expected)


def test_flips_come_as_often_as_asked_and_apart_from_each_other() -> None:
    images = frames(1, room=SIDE)
    drawn = augmentation(images, batch_size=400, images_per_epoch=400, flip_vertical=0.3, flip_horizontal=0.6)
    plain = images[0, :, :, 0].astype(np.float32) / np.float32(255)
    kinds = {
        plain[:: -1 if down else 1, :: -1 if across else 1].tobytes(): (down, across)
        for down in (False, True)
        for across in (False, True)
    }
    found = np.array([kinds[image[0].tobytes()] for image in drawn.batch(0, 0)])
    down, across = found.mean(axis=0)
    assert abs(down - 0.3) < 0.1
    assert abs(across - 0.6) < 0.1
    assert abs((found[:, 0] & found[:, 1]).mean() - 0.18) < 0.08


# --- rotations --------------------------------------------------------------------------------------------------------


def test_a_quarter_turn_is_numpys_counter_clockwise() -> None:
    image = frames(1, 3, SIDE)[0]
    np.testing.assert_array_equal(turned(image, (0, 0), SIDE, 90), np.rot90(image))
    np.testing.assert_array_equal(turned(image, (0, 0), SIDE, 90, seed=True), np.rot90(image))
    np.testing.assert_array_equal(turned(image, (0, 0), SIDE, 180), image[::-1, ::-1])


def test_it_turns_in_its_place() -> None:
    image = frames(1, 1, ROOM)[0]
    top, left = 7, 13
    np.testing.assert_array_equal(
        turned(image, (top, left), SIDE, 90), np.rot90(image[top : top + SIDE, left : left + SIDE])
    )


def test_no_rotation_leaves_every_pixel_as_it_is() -> None:
    image = frames(1, 3, ROOM)[0]
    np.testing.assert_array_equal(turned(image, (3, 9), SIDE, 0), image[3 : 3 + SIDE, 9 : 9 + SIDE])


def smooth(room: int) -> UInt8:
    y, x = np.mgrid[:room, :room]
    return np.asarray(128 + 60 * np.sin(x / 9) + 50 * np.cos(y / 13), np.uint8)[:, :, None]


def test_a_rotation_by_any_angle_shows_what_the_image_shows_there() -> None:
    image = smooth(ROOM)
    found = turned(image, (10, 10), SIDE, 20)
    angle, middle = math.radians(20), (SIDE - 1) / 2
    for y, x in ((40, 50), (64, 64), (90, 33), (20, 100)):
        right, down = x - middle, y - middle
        # Counter-clockwise on the screen, where y grows downwards.
        source_x = 10 + middle + right * math.cos(angle) - down * math.sin(angle)
        source_y = 10 + middle + right * math.sin(angle) + down * math.cos(angle)
        exact = 128 + 60 * math.sin(source_x / 9) + 50 * math.cos(source_y / 13)
        assert abs(float(found[y, x, 0]) - exact) < 3


def test_what_a_rotation_turns_in_from_outside_is_a_reflection_by_default_and_black_by_the_seed() -> None:
    image = np.full((SIDE, SIDE, 1), 200, np.uint8)
    assert (turned(image, (0, 0), SIDE, 45) == 200).all()
    seeds = turned(image, (0, 0), SIDE, 45, seed=True)
    assert seeds[0, 0, 0] == 0
    assert seeds[SIDE // 2, SIDE // 2, 0] == 200
    assert 0.1 < (seeds == 0).mean() < 0.25


def test_the_seed_takes_the_nearest_pixel() -> None:
    image = np.zeros((SIDE, SIDE, 1), np.uint8)
    image[::2] = 255
    assert set(np.unique(turned(image, (0, 0), SIDE, 33, seed=True))) == {0, 255}
    assert len(np.unique(turned(image, (0, 0), SIDE, 33))) > 20


def test_by_default_a_rotated_crop_shows_the_image_beyond_the_crop_and_by_the_seed_it_does_not() -> None:
    image = np.full((1, 3 * SIDE, 3 * SIDE, 1), 200, np.uint8)
    image[0, :60], image[0, -60:], image[0, :, :60], image[0, :, -60:] = (90,) * 4
    settings: dict[str, Any] = {"rotate": 45.0, "batch_size": 12}
    standard = augmentation(image, **settings).batch(0, 0)
    seeds = augmentation(image, protocol="seed", **settings).batch(0, 0)
    assert standard.min() > 80 / 255
    assert seeds.min() == 0


def test_angles_go_to_either_side_up_to_the_one_asked_for() -> None:
    room = 2 * SIDE
    image = np.zeros((room, room, 1), np.uint8)
    image[:, :, 0] = np.where(
        np.indices((room, room)).sum(axis=0) > room - 1, 220, 30
    )  # an edge at 45 degrees
    drawn = augmentation(image[None], batch_size=60, images_per_epoch=60, rotate=20.0)
    angles = [angle for item in drawn.batch(0, 0) if (angle := edge_angle(item[0])) is not None]
    assert len(angles) > 10
    assert -21 < min(angles) < -5
    assert 5 < max(angles) < 21


def edge_angle(image: AnyArray) -> float | None:
    """How far the direction of the one edge in a picture is turned from 45 degrees; none where there is no edge."""
    plane = cv2.GaussianBlur(image, (0, 0), 2)
    down, across = np.gradient(plane)
    strength = np.hypot(down, across)
    if strength.max() < 0.05:
        return None
    weights = strength > strength.max() / 2
    return 45 - math.degrees(math.atan2(float(down[weights].mean()), float(across[weights].mean())))
