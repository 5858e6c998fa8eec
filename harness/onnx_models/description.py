"""The description of an ONNX model from elsewhere: how it reads pictures and what it outputs. Stored as its manifest."""

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
    """The contents of a model's manifest; a field is `None` if it is unknown or absent."""

    schema: int = SCHEMA
    model_sha256: str
    """Digest of the file and its external data: a description belongs to one model."""
    name: str
    """The model's name in tables."""
    layout: Literal["NCHW", "NHWC"] | None = None
    size: tuple[Size, Size] | None = None
    """Height and width of the input, in pixels; metrics are computed in this frame."""
    resize: tuple[Size, Size] | None = None
    """Height and width to resize to before the centre crop to `size`; `None` resizes directly to `size`."""
    interpolation: Interpolation = "pyramid"
    colour: Literal["RGB", "BGR", "GREY"] | None = None
    range: Range | None = None
    """Scale of the pixel values 0 … 255: `byte` keeps them, `unit` scales to [0, 1], `imagenet` also normalises with
    ImageNet's mean and standard deviation."""
    mean: tuple[float, float, float] | None = None
    std: tuple[Positive, Positive, Positive] | None = None
    """With `unit`: the values become (x − mean) / std."""
    map: str | None = None
    """Output with the anomaly map: (N, H, W), (N, 1, H, W) or (N, H, W, 1); larger is more anomalous."""
    score: str | None = None
    """Output with the image score: one number per image; larger is more anomalous."""
    image_threshold: float | None = None
    """An image counts as defective if its score is greater."""
    pixel_threshold: float | None = None
    how: dict[str, str] = {}
    """Field → the source of its value, or the reason why it has none."""

    def __post_init__(self) -> None:
        """Raise `ValueError` unless `name` may stand in records and tables."""
        if not is_name(self.name):
            raise ValueError(f"name {self.name!r} is not one line of printable characters")

    def steps(self) -> tuple[Step, ...]:
        """The preprocessing steps before the network; the description must be complete."""
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
        ArtifactError: the file is missing, or has another schema.
    """
    remedy = "draft it again: python -m harness onnx describe"
    return storage.read_json(path, Description, schema=SCHEMA, error=ArtifactError, remedy=remedy)


def write(path: Path, description: Description) -> None:
    """Write a model's manifest, to be completed by hand for `bench --manifest`."""
    storage.write_json(path, msgspec.to_builtins(description))


def declare(description: Description, assignments: Sequence[str]) -> Description:
    """`description` with the declarations `NAME=VALUE`: commas separate numbers, x separates the sides of a size.

    Raises:
        UsageError: a name is unknown or declared twice, or a value is not possible.
    """
    seen = set()
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not equals or not text:
            raise UsageError(f"--set {printable(assignment)}: expected NAME=VALUE")
        if name in seen:
            raise UsageError(f"--set {name} is given twice")
        seen.add(name)
        try:
            description = assign(description, name, text, how="declared")
        except ValueError as error:
            raise UsageError(f"--set {printable(assignment)}: {error}") from error
    return description


def assign(description: Description, name: str, text: str, *, how: str) -> Description:
    """`description` with the field `name` set from `text`, and its source `how`.

    Raises:
        ValueError: the name is unknown, or the value is not possible; lists the possible ones.
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
    """The texts that a field may hold, if it has a fixed set of them."""
    return [
        text for kind in (type_, *get_args(type_)) if get_origin(kind) is Literal for text in get_args(kind)
    ]


def _value(name: str, text: str) -> Any:
    """The value as in JSON; a text if it is no finite number, which the type then rejects."""
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
    """Contradictions inside the description: field → reason."""
    reasons = {}
    if (description.mean is None) != (description.std is None):
        reasons["mean"] = "mean and std go together"
    elif description.mean is not None and description.range != "unit":
        reasons["mean"] = "mean and std are of pixel values in [0, 1]: they need range=unit"
    size, resize = description.size, description.resize
    if size is not None and resize is not None and (size[0] > resize[0] or size[1] > resize[1]):
        reasons["resize"] = f"size {_sides(size)} cannot be cut from resize {_sides(resize)}"
    if description.score is not None and description.score == description.map:
        reasons["score"] = "one output cannot be both map and score"
    if description.pixel_threshold is not None and description.map is None:
        reasons["pixel_threshold"] = "without a map there are no pixels to decide"
    return reasons


def _sides(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"
