"""Bugs of another program's preprocessor, whose batches `bench --inputs` reads."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from benchmarks.bugs.change import Change, Place
from benchmarks.bugs.deployment import Deployment
from harness.detector.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocessor, standard_steps
from harness.types import AnyArray, Float32, Sample, UInt8

Make = Callable[[Sample], Float32]
RESIZE, CROP = 72, 64
_MEAN, _STD = np.array(IMAGENET_MEAN, np.float32), np.array(IMAGENET_STD, np.float32)
_RIGHT = Preprocessor(standard_steps(RESIZE, CROP))
_UNCROPPED = Preprocessor(standard_steps(RESIZE, RESIZE))
_SQUASHED = Preprocessor(standard_steps(CROP, CROP))


def frame(sample: Sample) -> UInt8:
    """The right frame: RGB (64, 64, 3), uint8."""
    return _RIGHT.frame(_RIGHT.decode(sample.path))


def normalised(
    picture: AnyArray, *, mean: AnyArray = _MEAN, std: AnyArray = _STD, full: float = 255
) -> Float32:
    """RGB (H, W, 3) → (3, H, W)."""
    scaled = picture.astype(np.float32) / np.float32(full)
    values = (scaled - mean.astype(np.float32)) / std.astype(np.float32)
    return np.ascontiguousarray(values.transpose(2, 0, 1))


def _read(sample: Sample) -> AnyArray:
    """The image as stored, BGR (H, W, 3), uint8."""
    image = cv2.imread(str(sample.path), cv2.IMREAD_COLOR)
    assert image is not None
    return image


def _centre(picture: AnyArray, *, shift: int = 0) -> AnyArray:
    top = (picture.shape[0] - CROP) // 2 + shift
    return picture[top : top + CROP, top : top + CROP]


def _interpolated(flag: int) -> Make:
    def make(sample: Sample) -> Float32:
        image = cv2.resize(_read(sample), (RESIZE, RESIZE), interpolation=flag)
        return normalised(_centre(image[:, :, ::-1]))

    return make


def _compressed(sample: Sample) -> Float32:
    data = cv2.imencode(".jpg", _read(sample), [cv2.IMWRITE_JPEG_QUALITY, 75])[1]
    image = cv2.imdecode(data, cv2.IMREAD_COLOR)
    assert image is not None
    return normalised(_RIGHT.frame(image.astype(np.uint8)))


def _bug(name: str, place: Place, make: Make) -> Change:
    def inject(deployment: Deployment) -> None:
        deployment.preprocess_elsewhere(make)
        deployment.bench()

    return Change(name=name, where="preprocessor", inject=inject, place=place)


def _out_of_order(deployment: Deployment) -> None:
    """The images are in the file system's order, not in the index's."""
    samples = deployment.category().test
    other = dict(zip((sample.name for sample in samples), samples[::-1], strict=True))
    deployment.preprocess_elsewhere(lambda sample: normalised(frame(other[sample.name])))
    deployment.bench()


def _one_twice(deployment: Deployment) -> None:
    samples = deployment.category().test
    twin = {samples[5].name: samples[4]}
    deployment.preprocess_elsewhere(lambda sample: normalised(frame(twin.get(sample.name, sample))))
    deployment.bench()


_HALVES = np.full(3, 0.5)

BUGS = (
    _bug("BGR for RGB", "frame", lambda sample: normalised(frame(sample)[:, :, ::-1])),
    _bug("height and width transposed", "frame", lambda sample: normalised(frame(sample).transpose(1, 0, 2))),
    _bug("resized without crop", "frame", lambda sample: normalised(_SQUASHED.frame(_read(sample)))),
    _bug("cropped without resize", "frame", lambda sample: normalised(_centre(_read(sample)[:, :, ::-1]))),
    _bug(
        "crop one pixel off",
        "frame",
        lambda sample: normalised(_centre(_UNCROPPED.frame(_read(sample)), shift=1)),
    ),
    _bug("nearest neighbour for bilinear", "frame", _interpolated(cv2.INTER_NEAREST)),
    _bug("bilinear without antialiasing", "frame", _interpolated(cv2.INTER_LINEAR)),
    _bug("images compressed as JPEG on the way", "frame", _compressed),
    _bug("mean and std of 0.5", "input", lambda sample: normalised(frame(sample), mean=_HALVES, std=_HALVES)),
    _bug(
        "mean and std in the order BGR",
        "input",
        lambda sample: normalised(frame(sample), mean=_MEAN[::-1], std=_STD[::-1]),
    ),
    _bug("std left out", "input", lambda sample: normalised(frame(sample), std=np.ones(3))),
    _bug("division by 255 missing", "input", lambda sample: normalised(frame(sample), full=1)),
    _bug(
        "NHWC bytes as NCHW",
        "input",
        lambda sample: normalised(frame(sample)).transpose(1, 2, 0).reshape(3, CROP, CROP),
    ),
    Change(name="images in another order", where="preprocessor", inject=_out_of_order, place="decode"),
    Change(name="one image twice, another never", where="preprocessor", inject=_one_twice, place="decode"),
)
