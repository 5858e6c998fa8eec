"""Explains how a picture was changed before the network, from the expected picture and the actual input."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np

from harness.types import AnyArray, UInt8

EXACT = 1e-3
"""Largest share of a channel's spread that an explanation may leave unexplained, as a root mean square."""
_NEAR = 0.5
"""The same share for pictures that are only alike."""
_ZOOMS = (*np.arange(1.04, 2.01, 0.02),)
_FULL = 255.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """The blamed stage of two inputs, and how they differ."""

    stage: Literal["decode", "frame", "input"]
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Fit:
    """The best fit of `actual[c] = scale[c] · picture[order[c]] + offset[c]`."""

    stage: Literal["frame", "input"]
    label: str
    """The rearrangement; empty if there is none."""
    scale: AnyArray
    offset: AnyArray
    rest: float
    """Share of the spread that the fit does not explain, in the worst channel."""


def explain(frame: UInt8, actual: AnyArray) -> Explanation | None:
    """Explain how an input differs from the one that `frame` should have become; `None` if there is no explanation.

    Args:
        frame: (H, W, C), uint8, before scaling.
        actual: (C, H, W), the network's input for the same image, normalised in any way; or another frame in that layout.
    """
    picture = frame.transpose(2, 0, 1).astype(np.float64)
    planes = actual.astype(np.float64)
    if planes.ndim != 3 or not np.isfinite(planes).all():
        return None
    fits = [
        _fit(picture, arranged, stage, " and ".join(filter(None, (label, swapped))), order)
        for stage, label, arranged in _arranged(planes, picture.shape)
        for order, swapped in _orders(len(picture))
    ]
    if not fits:
        return Explanation(
            stage="frame", text=f"its shape is {planes.shape}, the reference's {picture.shape}"
        )
    exact = next((fit for fit in fits if fit.rest <= EXACT), None)
    if exact is not None:
        return Explanation(
            stage=exact.stage if exact.label else "input", text=exact.label or _normalisation(exact)
        )
    zoom = _zoom(picture, planes)
    if zoom is not None:
        return Explanation(stage="frame", text=zoom)
    plain = fits[0]
    if plain.label or plain.rest >= _NEAR:
        return None
    return Explanation(stage="frame", text=_resampled(picture, planes, plain))


def shows(frame: UInt8, actual: AnyArray) -> bool:
    """Whether `actual`, (C, H, W), is `frame`, (H, W, C), normalised in some way."""
    if actual.shape != (frame.shape[2], *frame.shape[:2]) or not np.isfinite(actual).all():
        return False
    picture = frame.transpose(2, 0, 1).astype(np.float64)
    fit = _fit(picture, actual.astype(np.float64), "input", "", list(range(len(picture))))
    return fit.rest <= EXACT and bool((fit.scale > 0).all())


def _arranged(
    planes: AnyArray, shape: tuple[int, ...]
) -> Iterator[tuple[Literal["frame", "input"], str, AnyArray]]:
    """`planes` as they are, then with one rearrangement undone each, if they then have the picture's shape."""
    channels, height, width = shape
    for label, arranged in (
        ("", planes),
        ("height and width are transposed", planes.transpose(0, 2, 1)),
        ("it is mirrored left to right", planes[:, :, ::-1]),
        ("it is upside down", planes[:, ::-1]),
    ):
        if arranged.shape == shape:
            yield "frame", label, arranged
    if planes.size == channels * height * width:
        read = planes.reshape(height, width, channels).transpose(2, 0, 1)
        yield "input", "channels-last values (NHWC) lie where channels-first (NCHW) belong", read


def _orders(channels: int) -> tuple[tuple[list[int], str], ...]:
    straight = (list(range(channels)), "")
    swapped = (list(range(channels))[::-1], "the channels are in reverse order (BGR for RGB)")
    return (straight, swapped) if channels > 1 else (straight,)


def _fit(
    picture: AnyArray, planes: AnyArray, stage: Literal["frame", "input"], label: str, order: list[int]
) -> _Fit:
    """Least squares, channel by channel."""
    scales, offsets, rests = [], [], []
    for plane, source in zip(planes, picture[order], strict=True):
        centred = source - source.mean()
        variance = float((centred**2).mean())
        scale = float((centred * (plane - plane.mean())).mean()) / variance if variance else 0.0
        offset = float(plane.mean() - scale * source.mean())
        spread = float(plane.std())
        error = float(np.sqrt(((plane - scale * source - offset) ** 2).mean()))
        scales.append(scale)
        offsets.append(offset)
        rests.append(error / spread if spread else 0.0)
    return _Fit(stage=stage, label=label, scale=np.array(scales), offset=np.array(offsets), rest=max(rests))


def _normalisation(fit: _Fit) -> str:
    """The mean and standard deviation, of pixels from 0 to 1, that give the fitted line."""
    if not (fit.scale > 0).all():
        return "its values do not grow with the pixels' values"
    std = 1 / (fit.scale * _FULL)
    mean = -fit.offset * std
    if (std < 0.02).all():
        raw = f"mean {_numbers(mean * _FULL)} and std {_numbers(std * _FULL)} of pixels from 0 to 255"
        return (
            f"the pictures agree, it is normalised otherwise: {raw}, as if the division by 255 were missing"
        )
    return (
        f"the pictures agree, it is normalised otherwise: by mean {_numbers(mean)} and std {_numbers(std)} "
        "of pixels from 0 to 1"
    )


def _numbers(values: AnyArray) -> str:
    return " ".join(f"{value:.4g}" for value in values + 0.0)


def _zoom(picture: AnyArray, planes: AnyArray) -> str | None:
    """An explanation if one of the two shows the centre of the other."""
    if picture.shape != planes.shape:
        return None
    expected, actual = picture.mean(axis=0), planes.mean(axis=0)
    wider = {factor: _correlation(_centre(actual, factor), expected) for factor in _ZOOMS}
    narrower = {factor: _correlation(_centre(expected, factor), actual) for factor in _ZOOMS}
    plain = _correlation(expected, actual)
    for correlations, text in (
        (wider, "it shows more of the image, as if the crop were missing"),
        (narrower, "it shows less of the image, as if it were cropped without resizing first"),
    ):
        factor, correlation = max(correlations.items(), key=operator.itemgetter(1))
        if correlation > 0.9 and 1 - correlation < (1 - plain) / 2:
            return f"{text} (about {factor:.2f} times)"
    return None


def _centre(plane: AnyArray, factor: float) -> AnyArray:
    height, width = (max(2, round(side / factor)) for side in plane.shape)
    top, left = (plane.shape[0] - height) // 2, (plane.shape[1] - width) // 2
    part = np.ascontiguousarray(plane[top : top + height, left : left + width])
    enlarged: AnyArray = cv2.resize(part, plane.shape[::-1], interpolation=cv2.INTER_LINEAR)
    return enlarged


def _correlation(one: AnyArray, two: AnyArray) -> float:
    a, b = one - one.mean(), two - two.mean()
    scale = float(np.sqrt((a * a).sum() * (b * b).sum()))
    return float((a * b).sum()) / scale if scale else 0.0


def _resampled(picture: AnyArray, planes: AnyArray, fit: _Fit) -> str:
    if not fit.scale.all():
        return "the pictures differ"
    scale, offset = fit.scale[:, None, None], fit.offset[:, None, None]
    apart = np.abs((planes - offset) / scale - picture)
    return (
        f"the pictures are alike and differ by {apart.mean():.2g} grey values on average, {apart.max():.3g} at most, "
        f"on {np.mean(apart >= 0.5):.0%} of the values: another interpolation, or another decoder"
    )
