"""Typed calls into `exporters`, which need MindSpore, onnx or an Ascend compiler: fit, export, quantise, convert weights.

The exporter's module is imported when the call is made.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from harness import registry
from harness.detector.artifact import Artifact, Variant, add_variant, locked
from harness.detector.settings import Settings
from harness.errors import UsageError
from harness.types import Category, Device

Precision = Literal["fp16", "int8"]
Calibration = Literal["minmax", "percentile"]
IMAGES = 32
"""Default number of good images that calibrate it and on which it is compared with float32."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PrecisionRequest:
    """How to reduce the precision of the float32 ONNX variant."""

    precision: Precision
    calibration: Calibration = "minmax"
    """How int8 finds the range of each tensor: its extrema, or the range of 99.999 % of its values."""
    keep_float: tuple[str, ...] = ()
    """Nodes, or operator types, that stay in float32."""
    reduce_head: bool = False
    """Reduce the precision of a head in the graph too."""
    images: int = IMAGES
    label: str | None = None
    """Part of the variant's id that names the settings; `None`: derived from them."""


def quantize(
    detector: Artifact, category: Category, request: PrecisionRequest, *, head_in_graph: bool = False
) -> Variant:
    """Write the requested variant into the artifact and list it; exports into one artifact wait for each other.

    Args:
        detector: Holds the float32 ONNX variant.
        category: Its good images calibrate and check.
        request: Precision and settings.
        head_in_graph: Use the ONNX variant that contains the head.

    Raises:
        ArtifactError: no float32 ONNX variant, or a graph that is not in float32.
        DatasetError: other training images than the fit saw, or none but those held out for the thresholds.
        ExportError: float16 cannot hold what the network computes, or nothing could be quantised.
        UsageError: a node or an operator type that the graph does not have.
    """
    export = registry.load("exporters.quantize.export:export")
    with locked(detector.path):
        variant: Variant = export(detector, category, request, head_in_graph=head_in_graph)
        add_variant(detector.path, variant)
    return variant


@dataclass(frozen=True, slots=True, kw_only=True)
class FitRequest:
    """Everything that decides a fit; equal requests give equal detectors."""

    detector: str
    backbone: str
    """`none` for a detector without one."""
    weights: Path | None
    """Backbone weights; `None` for an untrained backbone drawn from `seed`, or for none at all."""
    dataset: str
    category: Category
    out: Path
    """The artifact folder to write."""
    settings: Settings
    seed: int = 0
    device: Device = "cpu"
    """What a training runs on."""
    precision: Literal["fp32", "mixed"] = "fp32"
    init_from: Path | None = None
    """A checkpoint or an artifact's `net.safetensors` that the training starts from."""
    checkpoint_every: int = 10
    """Epochs between checkpoints."""
    resume: bool = False
    """Go on from the checkpoint that an unfinished training left."""
    force: bool = False
    """Replace an artifact that was fitted from another request."""
    digest: str = ""
    """SHA-256 of everything that decides the bits; the fit computes it and stores it in checkpoints."""


def detector_folder(out: Path, detector: str, backbone: str) -> Path:
    """The folder below `out` that holds a detector's artifacts, one per category: `DETECTOR-BACKBONE`."""
    return out / (detector if backbone == "none" else f"{detector}-{backbone}")


@dataclass(frozen=True, slots=True, kw_only=True)
class OmRequest:
    """How to compile a variant for an Ascend chip."""

    soc: str
    """As `Target.soc`."""
    cann: str | None = None
    """Version of the toolkit; `None`: as its own files say."""
    batches: tuple[int, ...] = (1,)
    """Rows the network takes at once: one static size, or two or more gears, ascending."""
    aipp: bool = False
    """The chip scales and normalises; the variant takes uint8 (N, H, W, C)."""
    precision_mode: str = "force_fp16"
    output_type: Literal["FP32", "FP16"] = "FP32"
    atc: str = "atc"
    """Command of the compiler; `simulated` is the shipped simulator, whose files no hardware runs."""
    timeout_s: float = 3600.0


def export(
    artifact: Artifact, format_: str, *, head_in_graph: bool = False, om: OmRequest | None = None
) -> Variant:
    """Write a variant of `format_` into the artifact and list it; exports into one artifact wait for each other.

    `om` is required for the format `om`, and for no other.
    """
    detector = artifact.manifest.detector
    if format_ != "om" and detector not in registry.LEARNERS and detector in registry.detector_names():
        variants = ", ".join(variant.id for variant in artifact.manifest.variants)
        raise UsageError(
            f"{artifact.path}: {detector} is a plug-in, whose fit has written the variant {variants}: it is "
            "ready for bench"
        )
    with locked(artifact.path):
        exporter = registry.resolve("format", format_, registry.EXPORTERS)
        om_options = {} if om is None else {"om": om}
        variant: Variant = exporter(artifact, head_in_graph=head_in_graph, **om_options)
        add_variant(artifact.path, variant)
    return variant


def fit(request: FitRequest) -> tuple[Artifact, bool]:
    """Fit a detector, or return the artifact that an equal request fitted before.

    Returns:
        The artifact, and whether it was fitted now.

    Raises:
        ArtifactError: the folder holds an artifact of another request, and `force` is not set.
        DatasetError: too few images.
        MissingExtra: MindSpore is not installed.
        UsageError: settings that do not belong together.
    """
    fitted: tuple[Artifact, bool] = registry.load("exporters.fit.job:fit")(request)
    return fitted


def check_fit(request: FitRequest) -> None:
    """Raise what would stop the fit of any category, whatever its images."""
    registry.load("exporters.fit.job:check")(request)


def quantizable_groups(artifact: Artifact) -> dict[str, tuple[str, ...]]:
    """Name → nodes of the float32 ONNX variant that are worth keeping in float32 together.

    Raises:
        ArtifactError: no float32 ONNX variant, or a graph that is not in float32.
    """
    groups: dict[str, tuple[str, ...]] = registry.load("exporters.quantize.export:groups")(artifact)
    return groups


def om_dry_run(artifact: Artifact, request: OmRequest, *, head_in_graph: bool = False) -> str:
    """The command and the AIPP file of an export to OM, as text; writes nothing and needs no `atc`.

    Raises:
        ArtifactError: no variant to compile.
        UsageError: the request does not fit the artifact or the toolkit.
    """
    text: str = registry.load("exporters.ascend.om:dry_run")(artifact, request, head_in_graph=head_in_graph)
    return text


def fp16_report(artifact: Artifact, category: Category, *, images: int, head_in_graph: bool = False) -> Any:
    """Report whether float16 can hold the network's tensors on `images` good images.

    Raises:
        ArtifactError: no ONNX variant, or a tensor that is not finite in float32.
        MissingExtra: onnx or onnxruntime is not installed.
    """
    report = registry.load("exporters.ascend.fp16_report:report")
    return report(artifact, category, images=images, head_in_graph=head_in_graph)


def convert_weights(source: Path, target: Path) -> Any:
    """Write a backbone's weights from any supported file as `.safetensors`, float32.

    Raises:
        UsageError: `target` has another ending.
        WeightsError: the file is damaged, or is not of a known backbone.
    """
    return registry.load("exporters.weights.convert:convert")(source, target)


def require_weights(path: Path, backbone: str) -> None:
    """Raise `WeightsError` unless the file at `path` holds the weights of `backbone`."""
    registry.load("exporters.weights.convert:load_backbone")(path, backbone)
