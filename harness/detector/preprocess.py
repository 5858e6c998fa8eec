"""From an image file to the network's input: an ordered list of steps, the same on every device.

The list lies in the artifact's manifest. A variant says after which step its graph takes over; the host runs the list
up to there. Resizing happens on uint8 with a bit-exact interpolation: `linear` differs between processors in the last
bit, `linear_exact` and `pyramid` do not. The interpolations `pil_…` are Pillow's, whose kernels widen with the reduction,
where OpenCV's do not; and masks have rules of their own, for the tables of scripts that used them (docs/explanation/protocols.md).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import cv2
import msgspec
import numpy as np

from harness.datasets.images import read_image
from harness.errors import ArtifactError
from harness.types import AnyArray, Bool, Float32, MaskResize, UInt8

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

Size = Annotated[int, msgspec.Meta(ge=1, le=16384)]
Positive = Annotated[float, msgspec.Meta(gt=0)]
# fmt: off
Interpolation = Literal[
    "pyramid",
    "linear_exact", "linear", "nearest_exact", "area", "cubic", "lanczos4",
    "pil_bilinear", "pil_lanczos",
]
# fmt: on
"""`pyramid` is bit-exact and as free of aliasing as `area`; then OpenCV's, then Pillow's."""


class _Step(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="step"):
    @property
    def stage(self) -> str:
        """Name of the step, as in the manifest."""
        return str(self.__struct_config__.tag)


class Decode(_Step, tag="decode", frozen=True, kw_only=True):
    """File → uint8 (H, W) grey or (H, W, 3) BGR, as `harness.datasets.images.read_image` does it."""


class Colour(_Step, tag="colour", frozen=True, kw_only=True):
    """Grey or BGR → three channels in `order`, or one for `GREY`: 0.299 R + 0.587 G + 0.114 B (ITU-R BT.601), rounded."""

    order: Literal["RGB", "BGR", "GREY"]


class Resize(_Step, tag="resize", frozen=True, kw_only=True):
    """uint8 → uint8 of exactly this size, whatever the aspect ratio."""

    height: Size
    width: Size
    interpolation: Interpolation


class Crop(_Step, tag="crop", frozen=True, kw_only=True):
    """The centre of this size; the odd pixel is cut from the bottom and the right."""

    height: Size
    width: Size


class Scale(_Step, tag="scale", frozen=True, kw_only=True):
    """uint8 → float32, divided by `divisor`."""

    divisor: Positive


class Normalise(_Step, tag="normalise", frozen=True, kw_only=True):
    """(x − mean) / std per channel, in float32."""

    mean: tuple[float, float, float]
    std: tuple[Positive, Positive, Positive]


class Layout(_Step, tag="layout", frozen=True, kw_only=True):
    """Channels last → channels first."""

    order: Literal["NCHW"]


class Windows(_Step, tag="windows", frozen=True, kw_only=True):
    """(C, H, W) → (count, C, size, size), row by row: one image becomes several inputs of the network."""

    size: Size
    stride: Size

    def origins(self, height: int, width: int) -> tuple[tuple[int, int], ...]:
        """Top and left of each window.

        Raises:
            ArtifactError: the windows leave gaps, or do not end at the border.
        """
        if not (self._cover(height) and self._cover(width)):
            raise ArtifactError(
                f"windows of {self.size} pixels every {self.stride} do not cover {height} x {width} pixels to the border: "
                "the crop must be the window plus a multiple of the stride, and the stride no larger than the window"
            )
        return tuple(
            (top, left)
            for top in range(0, height - self.size + 1, self.stride)
            for left in range(0, width - self.size + 1, self.stride)
        )

    def _cover(self, side: int) -> bool:
        return side == self.size or (
            side > self.size >= self.stride and (side - self.size) % self.stride == 0
        )


Step = Decode | Colour | Resize | Crop | Scale | Normalise | Layout | Windows


def standard_steps(resize: int, crop: int, interpolation: Interpolation = "pyramid") -> tuple[Step, ...]:
    """Squash to `resize` × `resize`, centre `crop` × `crop`, ImageNet normalisation (PaDiM, section IV-A).

    Raises:
        ArtifactError: when the crop is larger than the resized image.
    """
    if not 0 < crop <= resize:
        raise ArtifactError(f"crop {crop} must be between 1 and resize {resize}")
    return (
        Decode(),
        Colour(order="RGB"),
        Resize(height=resize, width=resize, interpolation=interpolation),
        Crop(height=crop, width=crop),
        Scale(divisor=255.0),
        Normalise(mean=IMAGENET_MEAN, std=IMAGENET_STD),
        Layout(order="NCHW"),
    )


def _resized(image: AnyArray, step: Resize) -> AnyArray:
    """Resize to the step's size, whatever the aspect ratio.

    `pyramid` goes by `INTER_LINEAR_EXACT` to the smallest size that is the target times powers of two and not below the
    source, then halves: at exactly one half, bilinear interpolation is the mean of 2 × 2 pixels. Every step is integer
    arithmetic, so the result is the same on every processor; no step shrinks by another factor than two, so none
    aliases. Where the image does not shrink it is plain `INTER_LINEAR_EXACT`.
    """
    if image.shape[:2] == (step.height, step.width):
        return image
    if step.interpolation.startswith("pil_"):
        return _resized_by_pillow(image, step.width, step.height, step.interpolation)
    if step.interpolation != "pyramid":
        flag = int(getattr(cv2, f"INTER_{step.interpolation.upper()}"))
        return cv2.resize(image, (step.width, step.height), interpolation=flag)
    height, width = (
        _doubled(target, source)
        for target, source in zip((step.height, step.width), image.shape[:2], strict=False)
    )
    while True:
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR_EXACT)
        if (height, width) == (step.height, step.width):
            return image
        height, width = max(height // 2, step.height), max(width // 2, step.width)


def _resized_by_pillow(image: AnyArray, width: int, height: int, interpolation: str) -> AnyArray:
    from PIL import Image

    kernel = Image.Resampling[interpolation.removeprefix("pil_").upper()]
    resized: AnyArray = np.asarray(Image.fromarray(image).resize((width, height), kernel))
    return resized


def _doubled(target: int, source: int) -> int:
    """The smallest target · 2^k that is not below `source`."""
    while target < source:
        target *= 2
    return target


def _centre(image: AnyArray, crop: Crop) -> AnyArray:
    top, left = (image.shape[0] - crop.height) // 2, (image.shape[1] - crop.width) // 2
    if min(top, left) < 0:
        raise ArtifactError(f"crop {crop.height} x {crop.width} does not fit into {image.shape[:2]} pixels")
    return image[top : top + crop.height, left : left + crop.width]


def _grey(image: AnyArray) -> AnyArray:
    """In integers of 15 bits, as OpenCV does it where no library of the processor's does it for OpenCV."""
    blue, green, red = (image[:, :, channel].astype(np.uint32) for channel in range(3))
    grey: AnyArray = (3735 * blue + 19235 * green + 9798 * red + (1 << 14)) >> 15
    return grey


class Preprocessor:
    """Runs the preprocessing steps up to where the graph takes over.

    `decode`, then `frame`, then `tensor` are timed and digested: pixels as stored, uint8 (H, W, C) as the network sees them, and the image as the network's input; `windows` cuts that
    into the inputs of a network smaller than the image.
    """

    def __init__(self, steps: tuple[Step, ...], *, until: str | None = None) -> None:
        """Run `steps` up to and with the one called `until`; all of them when none is named."""
        stages = [step.stage for step in steps]
        until = stages[-1] if until is None else until
        if until not in stages or stages != sorted(stages, key=list(_ORDER).index):
            raise ArtifactError(
                f"preprocessing steps {stages} (until {until!r}): expected in the order {_ORDER}"
            )
        if any(isinstance(step, Colour | Resize | Crop) for step in steps[stages.index(until) + 1 :]):
            raise ArtifactError(
                f"until {until!r}: colour, resize and crop are the host's, no graph does them"
            )
        self._geometry = [step for step in steps if isinstance(step, Resize | Crop)]
        self._order = next((step.order for step in steps if isinstance(step, Colour)), "BGR")
        host = steps[: stages.index(until) + 1]
        self._table = _lookup_table(host)
        self._channels_first = any(isinstance(step, Layout) for step in host)
        self._windows = next((step for step in host if isinstance(step, Windows)), None)

    @staticmethod
    def decode(path: Path) -> UInt8:
        """Pixels as stored: uint8, (H, W) or (H, W, 3) in BGR."""
        return read_image(path)

    def frame(self, pixels: UInt8) -> UInt8:
        """The picture the network sees: colour order, resize and crop done; uint8 (H, W, 3), grey (H, W, 1)."""
        image: AnyArray = pixels
        for step in self._geometry:
            image = _resized(image, step) if isinstance(step, Resize) else _centre(image, step)
        # Colour comes after the geometry only because it is cheaper there: every channel is resized alike.
        if self._order == "GREY":
            image = (image if image.ndim == 2 else _grey(image))[:, :, None]
        elif image.ndim == 2:
            image = np.repeat(image[:, :, None], 3, axis=2)
        elif self._order == "RGB":
            image = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
        return np.ascontiguousarray(image, dtype=np.uint8)

    def tensor(self, frame: UInt8) -> AnyArray:
        """One image as the network takes it: float32 (C, H, W), or uint8 (H, W, C) if the graph normalises."""
        if self._table is None:
            return np.ascontiguousarray(frame.transpose(2, 0, 1)) if self._channels_first else frame
        planes = np.empty((frame.shape[2], *frame.shape[:2]), np.float32)
        for channel in range(frame.shape[2]):
            cv2.LUT(cv2.extractChannel(frame, channel), self._table[channel], dst=planes[channel])
        return planes if self._channels_first else np.ascontiguousarray(planes.transpose(1, 2, 0))

    def windows(self, tensor: AnyArray) -> AnyArray:
        """The network's inputs for one image: (windows, …); one window if no step cuts windows."""
        if self._windows is None:
            return tensor[None]
        size = self._windows.size
        origins = self._windows.origins(*tensor.shape[1:])
        return np.stack([tensor[:, top : top + size, left : left + size] for top, left in origins])

    def rows(self, path: Path) -> AnyArray:
        """The network's inputs for the image file `path`: decode, frame, tensor, windows; (windows, …) as `windows` gives."""
        return self.windows(self.tensor(self.frame(self.decode(path))))

    def mask(self, mask: Bool, resize: MaskResize = "nearest") -> tuple[Bool, bool]:
        """Ground truth in the frame of the map, and whether the crop cut defective pixels away.

        `nearest` takes the nearest pixel, then crops as the image is cropped. The others are of the original scripts:
        `bilinear_truncated` and `area_truncated` interpolate the grey values 0 and 255 and keep what is still 255, so
        that defects lose their rim; `dilated` interpolates straight to the frame, uncropped, and keeps what is not 0.
        """
        if resize == "dilated":
            return self._dilated(mask), False
        image: AnyArray = mask.astype(np.uint8) * np.uint8(255)
        cut = False
        for step in self._geometry:
            if isinstance(step, Resize):
                image = _resized_mask(image, step, resize)
            else:
                uncropped, image = image, _centre(image, step)
                cut = cut or bool(np.count_nonzero(uncropped) > np.count_nonzero(image))
        return image == 255, cut

    def _dilated(self, mask: Bool) -> Bool:
        size = (self._geometry[-1].width, self._geometry[-1].height) if self._geometry else mask.shape[::-1]
        values = cv2.resize(mask.astype(np.uint8) * np.uint8(255), size, interpolation=cv2.INTER_LINEAR)
        dilated: Bool = values > 0
        return dilated


def _resized_mask(image: AnyArray, step: Resize, resize: MaskResize) -> AnyArray:
    """Grey values 0 and 255 in the step's size, what is not fully defective set to 0."""
    if resize == "bilinear_truncated":
        values = _resized_by_pillow(image, step.width, step.height, "pil_bilinear")
    else:
        flag = cv2.INTER_AREA if resize == "area_truncated" else cv2.INTER_NEAREST_EXACT
        values = cv2.resize(image, (step.width, step.height), interpolation=flag)
    return np.where(values == 255, values, 0).astype(np.uint8)


_ORDER = ("decode", "colour", "resize", "crop", "scale", "normalise", "layout", "windows")


def _lookup_table(steps: tuple[Step, ...]) -> Float32 | None:
    """Scale and normalise as one float32 table (3, 256): bit for bit the steps, computed once per value."""
    if not any(isinstance(step, Scale) for step in steps):
        return None
    values = np.repeat(np.arange(256, dtype=np.float32)[None], 3, axis=0)
    for step in steps:
        if isinstance(step, Scale):
            values = values / np.float32(step.divisor)
        elif isinstance(step, Normalise):
            mean, std = (np.array(numbers, np.float32)[:, None] for numbers in (step.mean, step.std))
            values = (values - mean) / std
    return values
