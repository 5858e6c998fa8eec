from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from harness.types import AnyArray

Writer = Callable[..., Path]


@pytest.fixture
def write() -> Writer:
    """Write pixels, by default an 8x10 grey gradient, as an image; unicode paths included."""

    def write_image(path: Path, pixels: AnyArray | None = None) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        if pixels is None:
            pixels = np.arange(80, dtype=np.uint8).reshape(8, 10)
        encoded, data = cv2.imencode(path.suffix, pixels)
        assert encoded
        path.write_bytes(data.tobytes())
        return path

    return write_image


@pytest.fixture
def root(tmp_path: Path, write: Writer) -> Path:
    """A data set with one category, `nut`: 4 train, 2 good, 2 cracked with masks."""
    nut = tmp_path / "data set ü" / "nut"
    mask = np.zeros((8, 10), np.uint8)
    mask[2:4, 3:6] = 255
    for index in range(4):
        write(nut / "train" / "good" / f"{index}.png", np.full((8, 10), index, np.uint8))
    for index in range(2):
        write(nut / "test" / "good" / f"{index}.png", np.full((8, 10), 10 + index, np.uint8))
        write(nut / "test" / "crack" / f"{index}.png", np.full((8, 10), 20 + index, np.uint8))
        write(nut / "ground_truth" / "crack" / f"{index}_mask.png", mask)
    return nut.parent
