"""A variant in a lower precision: what may be asked for, and how it comes into the artifact."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from harness import registry
from harness.detector import artifact
from harness.detector.artifact import Artifact, Variant, add_variant, locked
from harness.types import Category

if TYPE_CHECKING:
    from harness.detector.settings import Settings
from harness.types import Device

Precision = Literal["fp16", "int8"]
Calibration = Literal["minmax", "percentile"]
IMAGES = 32
"""Good images it is calibrated on and compared with float32, unless asked otherwise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PrecisionRequest:
    """How the precision of the float32 ONNX variant is to be lowered."""

    precision: Precision
    calibration: Calibration = "minmax"
    """How int8 finds the range of each tensor: its extrema, or the range of 99.999 % of its values."""
    keep_float: tuple[str, ...] = ()
    """Nodes, or operator types, that stay in float32."""
    lower_head: bool = False
    """Lower a head in the graph too."""
    images: int = IMAGES
    label: str | None = None
    """What the variant's id says of the settings; made of them when not given."""


def lower(
    found: Artifact, category: Category, request: PrecisionRequest, *, head_in_graph: bool = False
) -> Variant:
    """Write the variant that `request` asks for into the artifact, one export at a time, and list it.

    Args:
        found: Holds the float32 ONNX variant.
        category: Whose good images calibrate and check.
        request: What is asked.
        head_in_graph: Take the ONNX variant that holds the head.

    Raises:
        ArtifactError: no float32 ONNX variant, or a graph that is not in float32.
        DatasetError: other training images than the fit saw, or none but those held out for the thresholds.
        ExportError: float16 cannot hold what the network computes, or nothing could be quantised.
        UsageError: a node or an operator type that the graph does not have.
    """
    export = registry.resolve("stage", "lower_precision", registry.STAGES)
    with artifact.locked(found.path):
        variant: Variant = export(found, category, request, head_in_graph=head_in_graph)
        artifact.add_variant(found.path, variant)
    return variant


@dataclass(frozen=True, slots=True, kw_only=True)
class FitRequest:
    """All that is asked of a fit; equal requests give equal detectors."""

    detector: str
    backbone: str
    """`none` for a detector without one."""
    weights: Path | None
    """Backbone weights; `None` for an untrained backbone drawn from `seed`, or for none at all."""
    dataset: str
    category: Category
    out: Path
    """The artifact folder to make."""
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
    """Of everything that decides the bits; the fit itself finds it, and its checkpoints carry it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OmRequest:
    """How a variant is to be compiled for an Ascend chip."""

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
    """Have the exporter of `format_` write a variant into the artifact, one export at a time, and list it.

    `om` goes with the format of that name alone, which needs it.
    """
    with locked(artifact.path):
        exporter = registry.resolve("format", format_, registry.EXPORTERS)
        asked = {} if om is None else {"om": om}
        variant: Variant = exporter(artifact, head_in_graph=head_in_graph, **asked)
        add_variant(artifact.path, variant)
    return variant
