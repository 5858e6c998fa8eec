from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from harness.datasets import read_image, read_mask
from harness.datasets.images import IMAGE_SUFFIXES, as_uint8
from harness.errors import DatasetError
from harness.types import AnyArray

Writer = Callable[..., Path]

SMOOTH = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (48, 40, 3), dtype=np.uint8), (0, 0), 2)
LOSSLESS = [".png", ".bmp", ".dib", ".tif", ".tiff", ".ppm", ".pnm", ".pam", ".ras", ".sr"]
LOSSY = [".jpg", ".jpeg", ".jpe", ".webp", ".jp2"]


def _png(colour_type: int, row: bytes, width: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", width, 1, 8, colour_type, 0, 0, 0)
    pixels = zlib.compress(b"\0" + row)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def _with_segment(jpeg: bytes, payload: bytes) -> bytes:
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(payload) + 2) + payload + jpeg[2:]


@pytest.mark.parametrize("suffix", LOSSLESS)
def test_lossless_formats_come_back_pixel_for_pixel(tmp_path: Path, write: Writer, suffix: str) -> None:
    assert suffix in IMAGE_SUFFIXES
    np.testing.assert_array_equal(read_image(write(tmp_path / f"a{suffix}", SMOOTH)), SMOOTH)


@pytest.mark.parametrize("suffix", LOSSY)
def test_lossy_formats_come_back_nearly(tmp_path: Path, write: Writer, suffix: str) -> None:
    read = read_image(write(tmp_path / f"a{suffix}", SMOOTH))
    assert suffix in IMAGE_SUFFIXES
    assert read.dtype == np.uint8
    assert abs(read.astype(int) - SMOOTH).mean() < 4


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".tif", ".pgm", ".jp2"])
def test_grey_images_stay_two_dimensional(tmp_path: Path, write: Writer, suffix: str) -> None:
    assert read_image(write(tmp_path / f"a{suffix}", SMOOTH[..., 0])).shape == (48, 40)


def test_every_16_bit_value_is_rounded_to_the_nearest_8_bit_value(tmp_path: Path, write: Writer) -> None:
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    expected = np.rint(values * (255 / 65535)).astype(np.uint8)
    np.testing.assert_array_equal(read_image(write(tmp_path / "a.png", values)), expected)
    np.testing.assert_array_equal(read_image(write(tmp_path / "a.tif", values)), expected)


def test_alpha_is_dropped_and_colours_keep_their_order(tmp_path: Path, write: Writer) -> None:
    bgra = np.dstack([SMOOTH, np.full((48, 40), 7, np.uint8)])
    read = read_image(write(tmp_path / "a.png", bgra))
    np.testing.assert_array_equal(read, SMOOTH)
    assert read.flags.c_contiguous
    wide = read_image(write(tmp_path / "b.png", bgra.astype(np.uint16) * 257))
    np.testing.assert_array_equal(wide, SMOOTH)


def test_grey_with_alpha_keeps_its_grey(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(_png(4, bytes([10, 0, 200, 255]), 2))
    np.testing.assert_array_equal(read_image(path).reshape(1, 2, -1)[..., 0], [[10, 200]])
    np.testing.assert_array_equal(as_uint8(np.array([[[10, 0], [200, 255]]], np.uint8), path), [[10, 200]])


def test_exif_orientation_is_ignored_because_masks_are_drawn_on_stored_pixels(
    tmp_path: Path, write: Writer
) -> None:
    path = write(tmp_path / "a.jpg", SMOOTH)
    quarter_turn = b"Exif\0\0II*\0\x08\0\0\0\x01\0" + struct.pack("<HHIHH", 0x112, 3, 1, 6, 0) + b"\0\0\0\0"
    path.write_bytes(_with_segment(path.read_bytes(), quarter_turn))
    assert cv2.imread(str(path)).shape == (40, 48, 3)
    assert read_image(path).shape == SMOOTH.shape


def test_unicode_and_spaces_in_paths_work(tmp_path: Path, write: Writer) -> None:
    path = write(tmp_path / "Prüfling 缺陷" / "größe 1 .png", SMOOTH)
    np.testing.assert_array_equal(read_image(path), SMOOTH)


@pytest.mark.parametrize("part", [0.3, 0.6, 0.95, "all but two bytes"])
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".tif", ".webp", ".ppm", ".jp2", ".ras", ".pam"])
def test_a_truncated_file_is_refused_by_name(
    tmp_path: Path, write: Writer, suffix: str, part: float | str
) -> None:
    path = write(tmp_path / f"cut{suffix}", SMOOTH)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * part)] if isinstance(part, float) else data[:-2])
    with pytest.raises(DatasetError, match=rf"cut\{suffix}.*truncated"):
        read_image(path)


def test_a_cut_jpeg_is_seen_before_opencv_can_fill_it_up(tmp_path: Path, write: Writer) -> None:
    path = write(tmp_path / "a.jpg", SMOOTH)
    with_thumbnail = _with_segment(path.read_bytes(), b"Exif\0\0\xff\xd8 a thumbnail \xff\xd9")
    path.write_bytes(with_thumbnail[:-20])
    with pytest.raises(DatasetError, match="the JPEG is truncated"):
        read_image(path)
    path.write_bytes(with_thumbnail + b"what some cameras append")
    assert read_image(path).shape == SMOOTH.shape


@pytest.mark.parametrize("cut", range(2, 40))
def test_a_jpeg_cut_in_its_headers_is_refused(tmp_path: Path, write: Writer, cut: int) -> None:
    path = write(tmp_path / "a.jpg", SMOOTH)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(DatasetError, match="the JPEG is truncated"):
        read_image(path)


def test_fill_bytes_before_a_jpeg_marker_are_allowed(tmp_path: Path, write: Writer) -> None:
    path = write(tmp_path / "a.jpg", SMOOTH)
    data = path.read_bytes()
    path.write_bytes(data[:2] + b"\xff\xff" + data[2:])
    assert read_image(path).shape == SMOOTH.shape


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"not an image", "cannot decode"),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 99, "cannot decode"),
    ],
)
def test_what_is_no_image_is_refused_by_name(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "bad ü.png"
    path.write_bytes(content)
    with pytest.raises(DatasetError, match=f"bad ü.png.*{message}"):
        read_image(path)


def test_a_missing_file_and_a_folder_are_refused_by_name(tmp_path: Path) -> None:
    for path in (tmp_path / "gone.png", tmp_path):
        with pytest.raises(DatasetError, match=rf"{path.name}: cannot be read: \w+"):
            read_image(path)


def test_a_picture_beyond_opencvs_pixel_limit_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(_png(0, b"", 1).replace(struct.pack(">II", 1, 1), struct.pack(">II", 1 << 20, 1 << 20)))
    with pytest.raises(DatasetError, match=r"bomb.png: OpenCV cannot decode it"):
        read_image(path)


def test_what_opencv_raises_is_translated(
    tmp_path: Path, write: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise cv2.error("too many pixels")

    path = write(tmp_path / "a.png", SMOOTH)
    monkeypatch.setattr(cv2, "imdecode", refuse)
    with pytest.raises(DatasetError, match=r"a.png: OpenCV cannot decode it: too many pixels"):
        read_image(path)


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (np.zeros((4, 5), np.float32), "float32: convert"),
        (np.zeros((4, 5), np.int32), "int32: convert"),
        (np.zeros((4, 5, 5), np.uint8), "5 channels"),
    ],
)
def test_other_depths_and_channels_are_refused_by_name(pixels: AnyArray, message: str) -> None:
    with pytest.raises(DatasetError, match=f"a.tif: .*{message}"):
        as_uint8(pixels, Path("a.tif"))


def test_a_float_image_is_refused_when_read(tmp_path: Path, write: Writer) -> None:
    with pytest.raises(DatasetError, match=r"a.tif: pixels are float32"):
        read_image(write(tmp_path / "a.tif", np.zeros((4, 5), np.float32)))


@pytest.mark.parametrize("values", [[0, 127, 128, 255], [0, 127 * 257, 128 * 257, 65535]])
def test_a_mask_is_what_lies_above_the_threshold(tmp_path: Path, write: Writer, values: list[int]) -> None:
    dtype = np.uint16 if max(values) > 255 else np.uint8
    mask = read_mask(write(tmp_path / "m.png", np.array([values], dtype)))
    assert mask.dtype == np.bool_
    np.testing.assert_array_equal(mask, [[False, False, True, True]])


def test_of_a_coloured_mask_the_largest_channel_counts(tmp_path: Path, write: Writer) -> None:
    colours = np.array([[[0, 0, 200], [100, 100, 100], [200, 0, 0]]], np.uint8)
    np.testing.assert_array_equal(read_mask(write(tmp_path / "m.png", colours)), [[True, False, True]])


def test_an_empty_mask_says_its_largest_value_and_the_option(tmp_path: Path, write: Writer) -> None:
    path = write(tmp_path / "m.png", np.array([[0, 1]], np.uint8))
    with pytest.raises(DatasetError, match=r"m.png.*largest value is 1.*above 127.*--mask-threshold"):
        read_mask(path)
    np.testing.assert_array_equal(read_mask(path, threshold=0), [[False, True]])
