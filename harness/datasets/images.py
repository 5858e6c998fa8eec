"""Images and masks from disk: every format OpenCV reads, as 8-bit arrays; damaged files are refused."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from harness.errors import DatasetError
from harness.types import AnyArray, Bool, UInt8

# fmt: off
IMAGE_SUFFIXES = frozenset({
    ".avif", ".bmp", ".dib", ".exr", ".gif", ".hdr", ".jp2", ".jpe", ".jpeg", ".jpg", ".pam", ".pbm", ".pfm", ".pgm",
    ".pic", ".png", ".pnm", ".ppm", ".pxm", ".ras", ".sr", ".tif", ".tiff", ".webp",
})
# fmt: on
"""Lower-case suffixes of the formats OpenCV can be built to read; other files are not images."""


def images_in(folder: Path) -> list[Path]:
    """Give the image files directly in `folder`, sorted; none if the folder does not exist."""
    if not folder.is_dir():
        return []
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in IMAGE_SUFFIXES and not is_hidden(path) and path.is_file()
    )


def is_hidden(path: Path) -> bool:
    """Whether a file or folder is hidden and so no data."""
    return path.name.startswith(".")


def read_image(path: Path) -> UInt8:
    """Read one image as (H, W) grey or (H, W, 3) BGR, uint8.

    16-bit values v become round(v · 255 / 65535); alpha is dropped. Pixels stay as they are stored: an EXIF
    orientation is ignored, because masks are drawn on the stored pixels. Of several pages the first is read.

    Raises:
        DatasetError: unreadable, empty or truncated file, or a depth other than 8 and 16 bits.
    """
    return as_uint8(stored_pixels(path), path)


def read_mask(path: Path, *, threshold: int = 127) -> Bool:
    """Read one ground truth as (H, W), true where its grey value (0..255, after `read_image`) is above `threshold`.

    Of a coloured mask the largest channel counts.

    Raises:
        DatasetError: as `read_image`, or no pixel is above `threshold`.
    """
    values = read_image(path)
    grey = values if values.ndim == 2 else values.max(axis=2)
    mask: Bool = grey > threshold
    if not mask.any():
        raise DatasetError(
            f"{path}: the mask is empty: its largest value is {grey.max()}, and defective is what is above "
            f"{threshold}: redraw it, or lower the limit with --mask-threshold"
        )
    return mask


def stored_pixels(path: Path) -> AnyArray:
    """Decode one image as it is stored: (H, W) or (H, W, C) in its own dtype, colour as BGR or BGRA.

    Raises:
        DatasetError: unreadable, empty or truncated file.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read: {error.strerror or error}") from error
    if not data:
        raise DatasetError(f"{path}: the file is empty: copy it again from its source")
    if data.startswith(b"\xff\xd8") and not _jpeg_is_whole(data):
        raise DatasetError(f"{path}: the JPEG is truncated: copy it again from its source")
    try:
        pixels: AnyArray | None = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise DatasetError(f"{path}: OpenCV cannot decode it: {error.err or error}") from error
    if pixels is None:
        raise DatasetError(
            f"{path}: OpenCV cannot decode it: truncated, damaged, or of a format this OpenCV ({cv2.__version__}) "
            f"does not read: copy it again from its source, or convert it to PNG"
        )
    return pixels


def as_uint8(pixels: AnyArray, path: Path) -> UInt8:
    """Give the stored pixels of `path` as contiguous (H, W) or (H, W, 3) uint8.

    Raises:
        DatasetError: the depth is neither 8 nor 16 bits unsigned, or there are more than four channels.
    """
    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    if channels > 4:
        raise DatasetError(
            f"{path}: {channels} channels: only grey and colour, with or without alpha, are read"
        )
    if pixels.dtype == np.uint16:
        # v · 255 / 65535 = v / 257, and 257 is odd: there are no halves to round either way.
        pixels = ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)
    elif pixels.dtype != np.uint8:
        raise DatasetError(f"{path}: pixels are {pixels.dtype}: convert the image to 8 or 16 bits unsigned")
    if pixels.ndim == 3:
        pixels = pixels[:, :, 0] if channels <= 2 else pixels[:, :, :3]
    return np.ascontiguousarray(pixels)


def _jpeg_is_whole(data: bytes) -> bool:
    """Whether the end marker follows the first scan.

    Measured on OpenCV 4.9 to 4.13: every other format is refused when cut anywhere, but 4.9 and 4.10 fill up a cut
    JPEG with grey. A thumbnail's end marker lies in a segment before the scan, so those are stepped over.
    """
    position = 2
    while position + 4 <= len(data) and data[position] == 0xFF:
        if data[position + 1] == 0xDA:  # start of scan
            return data.rfind(b"\xff\xd9") > position
        if data[position + 1] == 0xFF:  # fill byte
            position += 1
            continue
        position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    return False
