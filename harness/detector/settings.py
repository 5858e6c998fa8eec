"""Settings of the detectors with their defaults: one strict class per detector.

The command line and the suites give settings by name; `settings` refuses a name that the detector does not have, and a
value out of range. Equal settings, images, weights and seed give equal detectors.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec

from harness import errors
from harness.detector.preprocess import Interpolation, Size
from harness.errors import UsageError
from harness.plugins import Family

Count = Annotated[int, msgspec.Meta(ge=1)]
Positive = Annotated[float, msgspec.Meta(gt=0, le=1e6)]
NotNegative = Annotated[float, msgspec.Meta(ge=0, le=1e6)]
Share = Annotated[float, msgspec.Meta(gt=0, le=1)]
Probability = Annotated[float, msgspec.Meta(ge=0, le=1)]
Layer = Literal["layer1", "layer2", "layer3"]


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What every detector has."""

    resize: Size = 256
    """Images are squashed to this many pixels a side,"""
    crop: Size = 256
    """then cut to the centre of this many."""
    interpolation: Interpolation = "pyramid"
    protocol: Literal["standard", "seed"] = "standard"
    """`seed`: with those quirks of the original scripts that move a published number; see docs/explanation/protocols.md."""


class Padim(Settings, frozen=True, kw_only=True):
    """Defard et al. 2020."""

    crop: Size = 224
    channels: Count | None = None
    """Channels kept; 100 of ResNet-18's, 550 of a wide network's when not given."""
    draw: Literal["numpy", "modelzoo"] = "numpy"
    """Our seeded draw of channels, or the model zoo's own."""


class Patchcore(Settings, frozen=True, kw_only=True):
    """Roth et al. 2022, and the single-layer form of the seed."""

    crop: Size = 224
    layers: tuple[Layer, ...] = ("layer2", "layer3")
    """Two layers: the paper's form, pooled to 1024 dimensions. One layer: the seed's form, averaged 3 × 3, its own
    channels kept."""
    coreset: Share = 0.1
    """Share of the patches kept in the memory bank."""
    projection: Count = 128
    """Dimensions of the random projection the coreset is chosen in."""
    score: Literal["reweighted", "max", "top10"] = "reweighted"
    """Image score: the paper's equation 7, the largest patch distance, or the mean of the ten largest."""
    neighbours: Annotated[int, msgspec.Meta(ge=2)] = 9
    """Patches of the bank that re-weight the score: the nearest one, and those nearest to it."""
    bank: str | None = None
    """A faiss index (`IndexFlatL2`) to take over as the memory bank."""


class Trained(Settings, frozen=True, kw_only=True):
    """What every trained detector has."""

    epochs: Count
    batch_size: Count
    """Images per optimiser step, over all workers."""
    micro_batch: Count | None = None
    """Images per gradient; gradients are accumulated up to `batch_size`. All at once when not given."""
    learning_rate: Positive
    weight_decay: NotNegative
    early_stop: Count | None = None
    """Stop when the loss of held-out good images has not fallen for this many epochs, and keep the best epoch."""
    workers: Count = 1
    """Processes that share each batch, one device each."""


class Fastflow(Trained, frozen=True, kw_only=True):
    """Yu et al. 2021; the seed's schedule."""

    epochs: Count = 500
    batch_size: Count = 32
    learning_rate: Positive = 1e-3
    weight_decay: NotNegative = 1e-5
    flow_steps: Count = 8
    hidden_ratio: Positive = 1.0
    conv3x3_only: bool = False
    """Every coupling's kernels 3 × 3; else 3 × 3 and 1 × 1 take turns."""


class Stpm(Trained, frozen=True, kw_only=True):
    """Wang et al. 2021; the seed's schedule."""

    epochs: Count = 100
    batch_size: Count = 32
    learning_rate: Positive = 0.4
    weight_decay: NotNegative = 1e-4
    momentum: Probability = 0.9


class SsimAe(Trained, frozen=True, kw_only=True):
    """Bergmann et al. 2019; the seed's settings for colour images, 3 × 256 × 256."""

    resize: Size = 266
    epochs: Count = 200
    batch_size: Count = 128
    learning_rate: Positive = 2e-4
    weight_decay: NotNegative = 1e-5
    channels: Literal[1, 3] = 3
    """1: images are turned grey."""
    window: Literal[128, 256] = 256
    """Side of the network's input; images larger than it are scored by windows."""
    stride: Count = 32
    """Pixels between windows."""
    latent: Count = 500
    images_per_epoch: Count = 10_000
    """Augmented images drawn per epoch."""
    rotate: NotNegative = 0.0
    """Largest rotation in degrees, to either side."""
    flip_horizontal: Probability = 0.0
    flip_vertical: Probability = 0.0
    percentile: Annotated[float, msgspec.Meta(ge=0, le=100)] = 98.0
    """Of the good residuals: the pixel threshold, unless `threshold` is given."""
    threshold: Positive | None = None


_SETTINGS: dict[str, type[Settings]] = {
    "padim": Padim,
    "patchcore": Patchcore,
    "fastflow": Fastflow,
    "stpm": Stpm,
    "ssim_ae": SsimAe,
}


_DETECTORS: Family[Any] = Family(
    kind="detector",
    builtin=dict.fromkeys(_SETTINGS, ""),
    group="harness.detectors",
    members=("settings",),
)


def settings(detector: str, chosen: Mapping[str, Any]) -> Settings:
    """The settings of `detector`: those chosen, and its defaults for the others.

    Raises:
        UsageError: an unknown detector or name, or a value of the wrong type or out of range.
    """
    plugin = _DETECTORS.plugin(detector)
    kind: type[Settings] = _SETTINGS[detector] if plugin is None else plugin.settings
    for name in chosen:
        if name not in kind.__struct_fields__:
            command = f"python -m harness settings {detector}"
            raise UsageError(errors.unknown(f"setting of {detector}", name, kind.__struct_fields__, command))
    values = {
        name: value.split(",") if name == "layers" and isinstance(value, str) else value
        for name, value in chosen.items()
    }
    try:
        result = msgspec.convert(values, kind, strict=False)  # the command line gives text
    except msgspec.ValidationError as error:
        raise UsageError(f"{detector}: {error}") from error
    if result.crop > result.resize:
        raise UsageError(f"{detector}: crop {result.crop} must be between 1 and resize {result.resize}")
    return result


def described(detector: str) -> list[dict[str, str]]:
    """One row per setting of `detector`: its name, its default, and the values it takes.

    Raises:
        UsageError: an unknown detector.
    """
    kind = type(settings(detector, {}))
    properties = msgspec.json.schema(kind)["$defs"][kind.__name__]["properties"]
    return [
        {"setting": name, "default": _text(schema["default"]), "values": _values(schema)}
        for name, schema in properties.items()
    ]


def _values(schema: Mapping[str, Any]) -> str:
    """The values that a JSON schema allows, in words."""
    if "anyOf" in schema:
        return " or ".join(_values(option) for option in schema["anyOf"])
    if "enum" in schema:
        return ", ".join(_text(option) for option in schema["enum"])
    if schema["type"] == "array":
        return f"some of {_values(schema['items'])}"
    if schema["type"] == "null":
        return "not given"
    bounds = {"minimum": "from", "exclusiveMinimum": "above", "maximum": "to"}
    kind = {"integer": "whole number", "number": "number", "boolean": "true or false", "string": "text"}[
        schema["type"]
    ]
    return " ".join(
        [kind, *(f"{word} {_text(schema[name])}" for name, word in bounds.items() if name in schema)]
    )


def _text(value: Any) -> str:
    if value is None:
        return "–"
    return (
        ",".join(value)
        if isinstance(value, tuple)
        else f"{value:g}"
        if isinstance(value, float)
        else str(value)
    )
