"""Augmented training images for SSIM-AE: seeded crops, rotations and flips of the good images, made on the host."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from harness.detector.settings import SsimAe
from harness.errors import UsageError
from harness.types import AnyArray, Float32, UInt8


@dataclass(frozen=True, slots=True, kw_only=True)
class Augmentation:
    """Batches of augmented images, each a pure function of seed, epoch and step."""

    frames: UInt8
    """(N, H, W, C) good images, resized and not cropped."""
    settings: SsimAe
    seed: int

    @property
    def steps(self) -> int:
        """Batches per epoch; images that do not fill one are left out.

        Raises:
            UsageError: an epoch is smaller than a batch.
        """
        settings = self.settings
        if settings.images_per_epoch < settings.batch_size:
            raise UsageError(
                f"images_per_epoch {settings.images_per_epoch} is less than batch_size {settings.batch_size}: "
                "an epoch would have no step; raise the one or lower the other"
            )
        return settings.images_per_epoch // settings.batch_size

    def batch(self, epoch: int, step: int) -> Float32:
        """Images (batch, C, window, window) from 0 to 1."""
        size = self.settings.batch_size
        chosen = self.chosen(epoch)[step * size : (step + 1) * size]
        random = np.random.default_rng((self.seed, epoch, step + 1))  # the order of an epoch is step 0
        images = np.stack([self._augmented(self.frames[index], random) for index in chosen])
        return np.ascontiguousarray(images.transpose(0, 3, 1, 2)).astype(np.float32) / np.float32(255)

    def chosen(self, epoch: int) -> NDArray[np.int64]:
        """The frames of an epoch in random order, each as often as the others, or once more."""
        random = np.random.default_rng((self.seed, epoch))
        often = random.permutation(len(self.frames))[
            np.arange(self.settings.images_per_epoch) % len(self.frames)
        ]
        return random.permutation(often)

    def _augmented(self, frame: UInt8, random: Generator) -> AnyArray:
        """Crop at random, rotate about the crop's centre, flip; (window, window, C)."""
        settings, side = self.settings, self.settings.window
        top, left = (int(random.integers(0, room - side, endpoint=True)) for room in frame.shape[:2])
        angle = random.uniform(-settings.rotate, settings.rotate)
        flips = random.random(2) < (settings.flip_vertical, settings.flip_horizontal)
        if (
            settings.protocol == "seed"
        ):  # crops first: what a rotation turns in from outside the crop is black
            image = turned(frame[top : top + side, left : left + side], (0, 0), side, angle, seed=True)
        else:
            image = turned(frame, (top, left), side, angle, seed=False)
        return image[:: -1 if flips[0] else 1, :: -1 if flips[1] else 1]


def turned(frame: UInt8, corner: tuple[int, int], side: int, angle: float, *, seed: bool) -> AnyArray:
    """The square of `side` pixels at `corner` (top, left), turned counter-clockwise by `angle` degrees in its place.

    It shows what `frame` shows there, linearly interpolated; outside of the frame that is its reflection. By `seed` it is
    the nearest pixel, and black.
    """
    top, left = corner
    if angle == 0:
        return frame[top : top + side, left : left + side]
    middle = (side - 1) / 2
    matrix = np.asarray(cv2.getRotationMatrix2D((left + middle, top + middle), angle, 1.0), np.float64)
    matrix[:, 2] -= (left, top)
    image = cv2.warpAffine(
        frame,
        matrix,
        (side, side),
        flags=cv2.INTER_NEAREST if seed else cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_CONSTANT if seed else cv2.BORDER_REFLECT_101,
    )
    return image.reshape(side, side, -1)
