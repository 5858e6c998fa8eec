"""How pictures go into a model that was not exported here, and what comes out: the manifest beside it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import msgspec

from harness import errors, storage
from harness.detector.preprocess import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Colour,
    Crop,
    Decode,
    Interpolation,
    Layout,
    Normalise,
    Positive,
    Resize,
    Scale,
    Size,
    Step,
)
from harness.errors import ArtifactError, UsageError
from harness.onnx_models.graph import is_name, printable

SCHEMA = 1
Range = Literal["byte", "unit", "imagenet"]


class Description(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The contents of a model's manifest; `None` is what is not known, or not there."""

    schema: int = SCHEMA
    model_sha256: str
    """Of the file and its external data: a description is of one model."""
    name: str
    """What tables call it."""
    layout: Literal["NCHW", "NHWC"] | None = None
    size: tuple[Size, Size] | None = None
    """Height and width that go in; metrics are computed in this frame."""
    resize: tuple[Size, Size] | None = None
    """Squash to this first, then keep the centre of `size`; straight to `size` when not given."""
    interpolation: Interpolation = "pyramid"
    colour: Literal["RGB", "BGR", "GREY"] | None = None
    range: Range | None = None
    """What the pixel values 0 … 255 become: `byte` as they are, `unit` [0, 1], `imagenet` normalised with ImageNet's mean
    and standard deviation."""
    mean: tuple[float, float, float] | None = None
    std: tuple[Positive, Positive, Positive] | None = None
    """With `unit`: (x − mean) / std follows."""
    map: str | None = None
    """Output that is the anomaly map: (N, H, W), (N, 1, H, W) or (N, H, W, 1), higher is more anomalous."""
    score: str | None = None
    """Output that is the image score: one number per image, higher is more anomalous."""
    image_threshold: float | None = None
    """An image is called defective when its score is greater."""
    pixel_threshold: float | None = None
    how: dict[str, str] = {}
    """Field → where its value comes from, or why it has none."""

    def __post_init__(self) -> None:
        """Raise `ValueError` unless `name` may stand in records and tables."""
        if not is_name(self.name):
            raise ValueError(f"name {self.name!r} is not one line of printable characters")

    def steps(self) -> tuple[Step, ...]:
        """The host's preprocessing; call once nothing is missing."""
        assert self.size is not None and self.colour is not None  # noqa: PT018, S101 - `require_complete`
        height, width = self.resize or self.size
        steps: list[Step] = [Decode(), Colour(order=self.colour)]
        steps.append(Resize(height=height, width=width, interpolation=self.interpolation))
        if self.resize is not None:
            steps.append(Crop(height=self.size[0], width=self.size[1]))
        if self.range is not None:
            steps.append(Scale(divisor=1.0 if self.range == "byte" else 255.0))
        if self.range == "imagenet":
            steps.append(Normalise(mean=IMAGENET_MEAN, std=IMAGENET_STD))
        elif self.mean is not None and self.std is not None:
            steps.append(Normalise(mean=self.mean, std=self.std))
        return (*steps, Layout(order="NCHW")) if self.layout == "NCHW" else tuple(steps)


_TYPES = {
    field.name: field.type
    for field in msgspec.structs.fields(Description)
    if field.name not in ("schema", "model_sha256", "how")
}
SETTABLE = tuple(_TYPES)


def read(path: Path) -> Description:
    """Read a model's manifest strictly.

    Raises:
        ArtifactError: no such file, or not one of this schema.
    """
    remedy = "draft it again: python -m harness onnx describe"
    return storage.read_json(path, Description, schema=SCHEMA, error=ArtifactError, remedy=remedy)


def write(path: Path, description: Description) -> None:
    """Write a model's manifest, to be completed by hand and given to `bench --manifest`."""
    storage.write_json(path, msgspec.to_builtins(description))


def declare(description: Description, assignments: Sequence[str]) -> Description:
    """`description` with what was declared as `NAME=VALUE`: numbers are separated by commas, sizes by x.

    Raises:
        UsageError: an unknown name, or a value that it cannot have.
    """
    seen = set()
    for item in assignments:
        name, equals, text = item.partition("=")
        if not equals or not text:
            raise UsageError(f"--set {printable(item)}: expected NAME=VALUE")
        if name in seen:
            raise UsageError(f"--set {name} is given twice")
        seen.add(name)
        try:
            description = assign(description, name, text, how="declared")
        except ValueError as error:
            raise UsageError(f"--set {printable(item)}: {error}") from error
    return description


def assign(description: Description, name: str, text: str, *, how: str) -> Description:
    """`description` with the field `name` as `text` says, and `how` it came to be.

    Raises:
        ValueError: an unknown name, or a value that it cannot have, with those that it can.
    """
    if name not in _TYPES:
        raise ValueError(errors.unknown("declaration", name, SETTABLE))
    try:
        value = msgspec.convert(_value(name, text), _TYPES[name])
    except msgspec.ValidationError as error:
        possible = ", ".join(_choices(_TYPES[name]))
        raise ValueError(f"{error}{possible and f'; one of {possible}'}") from error
    return msgspec.structs.replace(description, **{name: value}, how=description.how | {name: how})


def _choices(type_: Any) -> list[str]:
    """The texts that a field may hold, where they are few."""
    return [
        text for kind in (type_, *get_args(type_)) if get_origin(kind) is Literal for text in get_args(kind)
    ]


def _value(name: str, text: str) -> Any:
    """The value as JSON would hold it; a text where it is no finite number, which the type then refuses."""
    try:
        if name in ("size", "resize"):
            sides = [int(side) for side in text.split("x")]
            return sides * 2 if len(sides) == 1 else sides
        if name not in ("mean", "std", "image_threshold", "pixel_threshold"):
            return text
        numbers = [float(number) for number in text.split(",")]
    except ValueError:
        return text
    if not all(math.isfinite(number) for number in numbers):
        return text
    if len(numbers) > 1:
        return numbers
    return numbers[0] if name.endswith("_threshold") else numbers * 3


def problems(description: Description) -> Mapping[str, str]:
    """What contradicts itself in the description alone: field → why."""
    found = {}
    if (description.mean is None) != (description.std is None):
        found["mean"] = "mean and std go together"
    elif description.mean is not None and description.range != "unit":
        found["mean"] = "mean and std are of pixel values in [0, 1]: they need range=unit"
    size, resize = description.size, description.resize
    if size is not None and resize is not None and (size[0] > resize[0] or size[1] > resize[1]):
        found["resize"] = f"size {_sides(size)} cannot be cut from resize {_sides(resize)}"
    if description.score is not None and description.score == description.map:
        found["score"] = "one output cannot be both map and score"
    if description.pixel_threshold is not None and description.map is None:
        found["pixel_threshold"] = "without a map there are no pixels to decide"
    return found


def _sides(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"
