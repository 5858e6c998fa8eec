from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import cv2
import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from harness.detector.preprocess import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Colour,
    Crop,
    Decode,
    Interpolation,
    Layout,
    Normalise,
    Preprocessor,
    Resize,
    Scale,
    Step,
    Windows,
    standard_steps,
)
from harness.errors import ArtifactError
from harness.types import AnyArray, Bool, UInt8


def noise(*shape: int, seed: int = 0) -> UInt8:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def resized(image: UInt8, size: tuple[int, int], interpolation: Interpolation = "pyramid") -> UInt8:
    """Resize through the public way, colours as they are; gives one channel back for grey."""
    steps = (Decode(), Resize(height=size[0], width=size[1], interpolation=interpolation))
    frame = Preprocessor(steps, until="resize").frame(image)
    return frame[:, :, 0] if image.ndim == 2 else frame


def cropped(image: UInt8, size: tuple[int, int]) -> UInt8:
    return Preprocessor((Decode(), Crop(height=size[0], width=size[1])), until="crop").frame(image)[:, :, 0]


def block_means(image: UInt8, rows: int, columns: int) -> UInt8:
    """Mean of blocks, halves rounded up, in whole numbers."""
    height, width = image.shape[0] // rows, image.shape[1] // columns
    blocks = image.astype(int).reshape(height, rows, width, columns, *image.shape[2:])
    count = rows * columns
    means: UInt8 = ((blocks.sum(axis=(1, 3)) + count // 2) // count).astype(np.uint8)
    return means


def stepwise(frame: UInt8, divisor: float, mean: tuple[float, ...], std: tuple[float, ...]) -> AnyArray:
    """Scale, normalise and layout as single float32 operations on every pixel."""
    scaled = frame.astype(np.float32) / np.float32(divisor)
    normal = (scaled - np.array(mean, np.float32)) / np.array(std, np.float32)
    assert normal.dtype == np.float32
    return normal.transpose(2, 0, 1)


# --- values -----------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=30)
@given(
    divisor=st.floats(0.5, 300),
    mean=st.tuples(*[st.floats(-2, 2)] * 3),
    std=st.tuples(*[st.floats(0.01, 2)] * 3),
)
def test_tensors_equal_the_single_steps_bit_for_bit(
    divisor: float, mean: tuple[float, float, float], std: tuple[float, float, float]
) -> None:
    values = np.arange(256, dtype=np.uint8)
    frame = np.stack([values, values[::-1], np.roll(values, 7)], axis=-1).reshape(16, 16, 3)
    steps = (Decode(), Scale(divisor=divisor), Normalise(mean=mean, std=std), Layout(order="NCHW"))
    tensor = Preprocessor(steps).tensor(frame)
    assert tensor.dtype == np.float32
    assert tensor.flags.c_contiguous
    assert tensor.tobytes() == stepwise(frame, divisor, mean, std).tobytes()


def test_standard_tensors_have_the_values_of_imagenet_normalisation() -> None:
    frame = np.array([[[0, 255, 128]]], np.uint8)
    tensor = Preprocessor(standard_steps(1, 1)).tensor(frame)
    expected = [(0 - 0.485) / 0.229, (1 - 0.456) / 0.224, (128 / 255 - 0.406) / 0.225]
    assert tensor.shape == (3, 1, 1)
    assert tensor.ravel() == pytest.approx(expected, rel=1e-6)


def test_grey_becomes_three_equal_channels() -> None:
    image = noise(40, 30)
    frame = Preprocessor(standard_steps(20, 16)).frame(image)
    assert frame.shape == (16, 16, 3)
    for channel in range(3):
        np.testing.assert_array_equal(frame[:, :, channel], cropped(resized(image, (20, 20)), (16, 16)))


@pytest.mark.parametrize(("order", "expected"), [("RGB", [3, 2, 1]), ("BGR", [1, 2, 3])])
def test_the_colour_step_gives_the_order_it_names(tmp_path: Path, order: Any, expected: list[int]) -> None:
    path = tmp_path / "blue 1, green 2, red 3.png"
    assert cv2.imwrite(str(path), np.full((4, 4, 3), [1, 2, 3], np.uint8))
    ready = Preprocessor((Decode(), Colour(order=order)), until="colour")
    frame = ready.frame(ready.decode(path))
    assert frame.flags.c_contiguous
    assert frame.tolist() == [[expected] * 4] * 4


# --- crop -------------------------------------------------------------------------------------------------------------


def test_the_odd_pixel_is_cut_from_bottom_and_right() -> None:
    image = np.arange(30, dtype=np.uint8).reshape(5, 6)
    assert cropped(image, (2, 3)).tolist() == [
        [7, 8, 9],
        [13, 14, 15],
    ]  # 1 row above, 2 below; 1 left, 2 right
    assert cropped(image, (3, 2)).tolist() == [[8, 9], [14, 15], [20, 21]]
    assert cropped(image, (5, 6)).tolist() == image.tolist()


@pytest.mark.parametrize("size", [(6, 6), (5, 7), (100, 100)])
def test_a_crop_larger_than_the_image_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(ArtifactError, match=rf"crop {size[0]} x {size[1]} does not fit into \(5, 6\)"):
        cropped(noise(5, 6), size)


@pytest.mark.parametrize("crop", [0, -1, 257])
def test_a_standard_crop_lies_within_the_resized_image(crop: int) -> None:
    with pytest.raises(ArtifactError, match=f"crop {crop} must be between 1 and resize 256"):
        standard_steps(256, crop)


# --- resize -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [(), (3,)], ids=["grey", "colour"])
@pytest.mark.parametrize("factors", [(2, 2), (4, 4), (2, 1), (1, 4), (2, 4)])
def test_a_power_of_two_gives_means_of_blocks(channels: tuple[int, ...], factors: tuple[int, int]) -> None:
    image = noise(13 * factors[0], 17 * factors[1], *channels)
    expected = image
    rows, columns = factors
    while (rows, columns) != (1, 1):  # halving again and again rounds again and again
        step = (min(rows, 2), min(columns, 2))
        expected = block_means(expected, *step)
        rows, columns = rows // step[0], columns // step[1]
    np.testing.assert_array_equal(resized(image, (13, 17)), expected)


def test_halves_are_rounded_up() -> None:
    image = np.array([[0, 1, 1, 2], [0, 1, 2, 2]], np.uint8)  # means 0.5 and 1.75
    assert resized(image, (1, 2)).tolist() == [[1, 2]]


@settings(deadline=None, max_examples=60)
@given(source=st.tuples(st.integers(2, 40), st.integers(2, 40)), data=st.data())
def test_a_pyramid_is_linear_exact_while_no_side_shrinks(
    source: tuple[int, int], data: st.DataObject
) -> None:
    size = tuple(data.draw(st.integers(side, 3 * side)) for side in source)
    image = noise(*source)
    expected = cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR_EXACT)
    np.testing.assert_array_equal(resized(image, (size[0], size[1])), expected)


@pytest.mark.parametrize(
    ("source", "between", "size"),
    [
        ((70, 30), (120, 40), (15, 20)),  # height by 4.67 through 8 · 15, width by 1.5 through 2 · 20
        ((30, 90), (40, 160), (40, 20)),  # height grows, width by 4.5 through 8 · 20
        ((63, 31), (80, 40), (20, 10)),  # both by a little more than 3, through 4
    ],
)
def test_each_side_has_its_own_pyramid(
    source: tuple[int, int], between: tuple[int, int], size: tuple[int, int]
) -> None:
    image = noise(*source)
    first = cv2.resize(image, between[::-1], interpolation=cv2.INTER_LINEAR_EXACT).astype(np.uint8)
    while first.shape != size:
        first = block_means(first, 1 + (first.shape[0] > size[0]), 1 + (first.shape[1] > size[1]))
    np.testing.assert_array_equal(resized(image, size), first)


@settings(deadline=None, max_examples=60)
@given(
    source=st.tuples(st.integers(1, 200), st.integers(1, 200)),
    size=st.tuples(st.integers(1, 50), st.integers(1, 50)),
    value=st.integers(0, 255),
)
def test_any_size_becomes_exactly_the_size_asked_for_and_plain_stays_plain(
    source: tuple[int, int], size: tuple[int, int], value: int
) -> None:
    frame = resized(np.full((*source, 3), value, np.uint8), size)
    assert frame.shape == (*size, 3)
    assert (frame == value).all()


@pytest.mark.parametrize("interpolation", get_args(Interpolation))
def test_a_picture_of_the_size_asked_for_stays_as_it_is(interpolation: Interpolation) -> None:
    image = np.random.default_rng(0).integers(0, 256, (37, 53, 3), dtype=np.uint8)
    assert np.array_equal(resized(image, (37, 53), interpolation), image)
    if interpolation.startswith("pil_"):
        kernel = Image.Resampling[interpolation.removeprefix("pil_").upper()]
        assert np.array_equal(np.asarray(Image.fromarray(image).resize((53, 37), kernel)), image)
    elif interpolation != "pyramid":
        flag = getattr(cv2, f"INTER_{interpolation.upper()}")
        assert np.array_equal(cv2.resize(image, (53, 37), interpolation=flag), image)


def aliased(interpolation: Interpolation) -> float:
    """RMS contrast that stripes too fine for the target, 3.5 times smaller, have left; their own is 1."""
    left = []
    for frequency in np.linspace(0.16, 0.5, 35):  # in cycles per source pixel; the target shows up to 1/7
        stripes = 127.5 + 100 * np.sin(2 * np.pi * frequency * np.arange(224) + 1)
        image = np.tile(stripes.round().astype(np.uint8), (224, 1))
        left.append(resized(image, (64, 64), interpolation).std() / (100 / np.sqrt(2)))
    return float(np.sqrt(np.mean(np.square(left))))


def test_a_pyramid_has_a_third_of_the_aliasing_of_plain_bilinear() -> None:
    assert aliased("linear_exact") > 0.65
    assert aliased("pyramid") < 0.4 * aliased("linear_exact")


def test_a_checkerboard_of_single_pixels_becomes_nearly_grey() -> None:
    board = (np.indices((224, 224)).sum(axis=0) % 2 * 255).astype(np.uint8)  # 3.5 times 64
    assert resized(board, (64, 64)).std() < 5
    assert resized(board, (64, 64), "linear_exact").std() > 30


@pytest.mark.parametrize(
    ("name", "flag"),
    [
        ("linear_exact", cv2.INTER_LINEAR_EXACT),
        ("linear", cv2.INTER_LINEAR),
        ("nearest_exact", cv2.INTER_NEAREST_EXACT),
        ("area", cv2.INTER_AREA),
        ("cubic", cv2.INTER_CUBIC),
        ("lanczos4", cv2.INTER_LANCZOS4),
    ],
)
def test_the_other_interpolations_are_those_of_opencv(name: Any, flag: int) -> None:
    image = noise(50, 60, 3)
    np.testing.assert_array_equal(
        resized(image, (20, 25), name), cv2.resize(image, (25, 20), interpolation=flag)
    )


# --- masks ------------------------------------------------------------------------------------------------------------


def mask_of(mask: Bool, steps: tuple[Step, ...]) -> tuple[Bool, bool]:
    return Preprocessor(steps).mask(mask)


def test_masks_are_enlarged_and_reduced_to_the_nearest_pixel() -> None:
    mask = np.array([[1, 0], [0, 0]], np.bool_)
    large, cut = mask_of(mask, standard_steps(6, 6))
    assert large.dtype == np.bool_
    assert not cut
    assert large.tolist() == np.kron(mask, np.ones((3, 3), np.bool_)).tolist()
    small, _ = mask_of(np.kron(mask, np.ones((9, 9), np.bool_)), standard_steps(6, 6))
    assert small.tolist() == large.tolist()


def test_a_reduced_mask_takes_the_pixel_at_the_centre() -> None:
    mask = np.zeros((9, 9), np.bool_)
    mask[4, 4] = mask[0, 8] = True
    found, _ = mask_of(mask, standard_steps(3, 3))
    assert found.tolist() == [[False, False, False], [False, True, False], [False, False, False]]


def test_a_defect_across_the_border_of_the_crop_is_told_and_its_rest_kept() -> None:
    mask = np.zeros((8, 8), np.bool_)
    mask[3, :5] = True
    found, is_cut = mask_of(mask, standard_steps(8, 6))
    assert (int(found.sum()), is_cut) == (4, True)


@pytest.mark.parametrize(
    ("pixel", "left", "cut"),
    [((4, 4), 1, False), ((1, 1), 1, False), ((6, 6), 1, False), ((0, 4), 0, True), ((4, 7), 0, True)],
)
def test_defects_outside_the_crop_are_told(pixel: tuple[int, int], left: int, cut: bool) -> None:  # noqa: FBT001 - a table
    mask = np.zeros((8, 8), np.bool_)
    mask[pixel] = True
    found, is_cut = mask_of(mask, standard_steps(8, 6))
    assert (int(found.sum()), is_cut) == (left, cut)


def test_masks_stay_in_the_frame_of_their_image() -> None:
    # Nine times nine pixels per target pixel: with plain blocks every interpolation has the same frame.
    mask = np.kron(noise(10, 12) > 127, np.ones((9, 9), np.bool_))
    ready = Preprocessor(
        (Decode(), Resize(height=10, width=12, interpolation="area"), Crop(height=7, width=5)), until="crop"
    )
    frame = ready.frame((mask * 255).astype(np.uint8))
    np.testing.assert_array_equal(ready.mask(mask)[0], frame[:, :, 0] > 127)


# --- stages -----------------------------------------------------------------------------------------------------------


def test_a_graph_that_normalises_gets_the_uint8_frame() -> None:
    image = noise(40, 30, 3)
    ready = Preprocessor(standard_steps(20, 16), until="crop")
    frame = ready.frame(image)
    np.testing.assert_array_equal(frame, Preprocessor(standard_steps(20, 16)).frame(image))
    assert ready.tensor(frame).dtype == np.uint8
    np.testing.assert_array_equal(ready.tensor(frame), frame)
    assert frame.shape == (16, 16, 3)


@pytest.mark.parametrize(("until", "shift"), [("scale", 0.0), ("normalise", 0.5)])
def test_a_graph_may_take_over_between_scale_and_layout(until: str, shift: float) -> None:
    steps = (
        Decode(),
        Scale(divisor=255),
        Normalise(mean=(0.5,) * 3, std=(1.0,) * 3),
        Layout(order="NCHW"),
    )
    frame = noise(5, 7, 3)
    tensor = Preprocessor(steps, until=until).tensor(frame)
    assert tensor.shape == (5, 7, 3)
    assert tensor.flags.c_contiguous
    np.testing.assert_array_equal(tensor, frame.astype(np.float32) / np.float32(255) - np.float32(shift))


def test_uint8_can_be_given_channels_first() -> None:
    frame = noise(5, 7, 3)
    tensor = Preprocessor((Decode(), Layout(order="NCHW"))).tensor(frame)
    assert tensor.dtype == np.uint8
    np.testing.assert_array_equal(tensor, np.moveaxis(frame, -1, 0))


@pytest.mark.parametrize("until", ["decode", "colour", "resize", "", "Layout"])
def test_a_graph_never_takes_over_before_the_frame_is_done(until: str) -> None:
    with pytest.raises(ArtifactError, match=f"until '{until}'"):
        Preprocessor(standard_steps(256, 224), until=until)


@pytest.mark.parametrize("last", range(1, 4))
def test_each_step_of_the_frame_is_the_hosts(last: int) -> None:
    steps = standard_steps(256, 224)[: last + 1]
    with pytest.raises(ArtifactError, match="are the host's, no graph does them"):
        Preprocessor(steps, until=steps[last - 1].stage)
    Preprocessor(steps, until=steps[last].stage)


@pytest.mark.parametrize("first", range(6))
def test_two_steps_in_the_wrong_order_are_refused(first: int) -> None:
    steps = list(standard_steps(256, 224))
    steps[first], steps[first + 1] = steps[first + 1], steps[first]
    with pytest.raises(ArtifactError, match="expected in the order"):
        Preprocessor(tuple(steps))


# --- grey -------------------------------------------------------------------------------------------------------------


GREY = (Decode(), Colour(order="GREY"), Scale(divisor=255.0), Layout(order="NCHW"))


def test_colours_become_grey_by_their_brightness_on_every_processor() -> None:
    image = noise(64, 64, 3)
    frame = Preprocessor(GREY).frame(image)
    assert frame.shape == (64, 64, 1)
    assert frame.dtype == np.uint8
    exact = image[:, :, ::-1] @ np.array([0.299, 0.587, 0.114])
    assert np.abs(frame[:, :, 0] - exact).max() < 0.51
    np.testing.assert_array_equal(frame[:, :, 0], cv2.cvtColor(image, cv2.COLOR_BGR2GRAY))


@pytest.mark.parametrize(
    ("bgr", "grey"), [((255, 0, 0), 29), ((0, 255, 0), 150), ((0, 0, 255), 76), ((9, 9, 9), 9)]
)
def test_a_colour_has_its_grey(bgr: tuple[int, int, int], grey: int) -> None:
    frame = Preprocessor(GREY).frame(np.full((2, 3, 3), bgr, np.uint8))
    np.testing.assert_array_equal(frame, np.full((2, 3, 1), grey))


def test_a_grey_image_stays_as_it_is_in_one_channel() -> None:
    image = noise(5, 7)
    ready = Preprocessor(GREY)
    np.testing.assert_array_equal(ready.frame(image)[:, :, 0], image)
    tensor = ready.tensor(ready.frame(image))
    assert tensor.dtype == np.float32
    np.testing.assert_array_equal(tensor, image[None].astype(np.float32) / np.float32(255))


# --- windows ----------------------------------------------------------------------------------------------------------


CUT = (*GREY, Windows(size=4, stride=2))


def test_one_image_becomes_its_windows_row_by_row() -> None:
    tensor = np.arange(2 * 6 * 8).reshape(2, 6, 8)
    windows = Preprocessor(CUT).windows(tensor)
    assert windows.shape == (6, 2, 4, 4)
    corners = [(0, 0), (0, 2), (0, 4), (2, 0), (2, 2), (2, 4)]
    assert Windows(size=4, stride=2).origins(6, 8) == tuple(corners)
    for window, (top, left) in zip(windows, corners, strict=True):
        np.testing.assert_array_equal(window, tensor[:, top : top + 4, left : left + 4])


def test_an_image_of_the_windows_size_is_its_only_window() -> None:
    tensor = noise(1, 4, 4)
    np.testing.assert_array_equal(Preprocessor(CUT).windows(tensor), tensor[None])


def test_all_steps_are_the_hosts_unless_a_graph_takes_over_before_the_windows() -> None:
    tensor = noise(1, 8, 8)
    assert Preprocessor(CUT).windows(tensor).shape == (9, 1, 4, 4)
    assert Preprocessor(CUT, until="windows").windows(tensor).shape == (9, 1, 4, 4)
    np.testing.assert_array_equal(Preprocessor(CUT, until="layout").windows(tensor), tensor[None])
    np.testing.assert_array_equal(Preprocessor(GREY).windows(tensor), tensor[None])


def test_the_rows_of_a_file_are_the_windows_of_its_tensor(tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    cv2.imwrite(str(path), noise(8, 8, 3))
    preprocessor = Preprocessor((*standard_steps(8, 8), Windows(size=4, stride=2)))
    tensor = preprocessor.tensor(preprocessor.frame(preprocessor.decode(path)))
    assert preprocessor.rows(path).shape == (9, 3, 4, 4)
    np.testing.assert_array_equal(preprocessor.rows(path), preprocessor.windows(tensor))


def test_windows_further_apart_than_they_are_large_leave_gaps() -> None:
    apart = Windows(size=4, stride=6)
    assert apart.origins(4, 4) == ((0, 0),)
    with pytest.raises(ArtifactError, match="windows of 4 pixels every 6 do not cover 10 x 4"):
        apart.origins(10, 4)
    assert Windows(size=4, stride=4).origins(8, 4) == ((0, 0), (4, 0))


@pytest.mark.parametrize("size", [(3, 8), (8, 3), (7, 8), (8, 7)])
def test_windows_that_leave_a_border_uncovered_are_refused(size: tuple[int, int]) -> None:
    with pytest.raises(
        ArtifactError, match=rf"windows of 4 pixels every 2 do not cover {size[0]} x {size[1]}"
    ):
        Preprocessor(CUT).windows(np.zeros((1, *size)))


# --- manifests --------------------------------------------------------------------------------------------------------


def steps_from(document: Any) -> tuple[Step, ...]:
    return msgspec.json.decode(msgspec.json.encode(document), type=tuple[Step, ...])


def test_steps_survive_the_manifest() -> None:
    steps = standard_steps(256, 224)
    document = json.loads(msgspec.json.encode(steps))
    assert document[:2] == [{"step": "decode"}, {"step": "colour", "order": "RGB"}]
    assert document[5]["mean"] == list(IMAGENET_MEAN)
    assert document[5]["std"] == list(IMAGENET_STD)
    assert steps_from(document) == steps
    assert json.loads(msgspec.json.encode(CUT))[-1] == {"step": "windows", "size": 4, "stride": 2}
    assert steps_from(CUT) == CUT


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ({"step": "sharpen"}, r"Invalid value 'sharpen' - at `\$\[0\]\.step`"),
        ({"step": "decode", "gamma": 2.2}, r"unknown field `gamma` - at `\$\[0\]`"),
        ({"step": "crop", "height": 3}, r"missing required field `width` - at `\$\[0\]`"),
        ({"step": "crop", "height": 0, "width": 3}, r">= 1 - at `\$\[0\]\.height`"),
        ({"step": "resize", "height": 3, "width": 0, "interpolation": "pyramid"}, r"at `\$\[0\]\.width`"),
        ({"step": "resize", "height": 3, "width": 3, "interpolation": "magic"}, r"'magic'.*interpolation`"),
        ({"step": "scale", "divisor": 0.0}, r"> 0.0 - at `\$\[0\]\.divisor`"),
        ({"step": "normalise", "mean": [0, 0, 0], "std": [1, 0, 1]}, r"at `\$\[0\]\.std\[1\]`"),
        ({"step": "windows", "size": 4, "stride": 0}, r">= 1 - at `\$\[0\]\.stride`"),
        ({"step": "colour", "order": "YUV"}, r"'YUV' - at `\$\[0\]\.order`"),
    ],
)
def test_a_step_nobody_knows_is_refused_with_its_place(step: dict[str, Any], message: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=message):
        steps_from([step])


# --- real images ------------------------------------------------------------------------------------------------------


@pytest.mark.real
@pytest.mark.parametrize(
    ("folder", "channels"), [("mvtec/bottle/test/broken_large", 3), ("magnetic_tile/tile/test/crack", 1)]
)
def test_real_images_of_any_size_become_the_same_input(shared: Path, folder: str, channels: int) -> None:
    ready = Preprocessor(standard_steps(256, 224))
    sizes = set()
    for path in sorted((shared / "data" / folder).iterdir())[:4]:
        stored = ready.decode(path)
        sizes.add(stored.shape[:2])
        assert stored.ndim == (3 if channels == 3 else 2)
        tensor = ready.tensor(ready.frame(stored))
        colour = stored[:, :, ::-1] if channels == 3 else np.repeat(stored[:, :, None], 3, axis=2)
        frame = resized(np.ascontiguousarray(colour), (256, 256))[16:240, 16:240]
        np.testing.assert_array_equal(tensor, stepwise(frame, 255, IMAGENET_MEAN, IMAGENET_STD))
    assert (len(sizes) > 1) == (channels == 1)


@pytest.mark.real
def test_a_real_image_keeps_its_mean_colour_and_its_defect(shared: Path) -> None:
    bottle = shared / "data" / "mvtec" / "bottle"
    ready = Preprocessor(standard_steps(256, 256))
    stored = ready.decode(bottle / "test" / "broken_large" / "000.png")
    frame = ready.frame(stored)
    assert frame.mean(axis=(0, 1)) == pytest.approx(stored[:, :, ::-1].mean(axis=(0, 1)), abs=0.5)
    grey = ready.decode(bottle / "ground_truth" / "broken_large" / "000_mask.png") > 127
    mask, cut = ready.mask(grey)
    assert mask.mean() == pytest.approx(grey.mean(), rel=0.02)
    assert not cut


@pytest.mark.real
def test_the_pyramid_stays_closer_to_area_averaging_than_plain_bilinear(shared: Path) -> None:
    stored = Preprocessor.decode(shared / "data" / "mvtec" / "bottle" / "test" / "good" / "000.png")
    area = cv2.resize(stored, (256, 256), interpolation=cv2.INTER_AREA).astype(float)
    error = {
        name: np.abs(resized(stored, (256, 256), name) - area).mean() for name in ("pyramid", "linear_exact")
    }
    assert error["pyramid"] < 0.5 * error["linear_exact"]
