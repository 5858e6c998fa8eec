"""A variant in a lower precision: what may be asked for, and how it comes into the artifact."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from harness import registry
from harness.detector import artifact
from harness.detector.artifact import Artifact, Variant
from harness.types import Category

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
