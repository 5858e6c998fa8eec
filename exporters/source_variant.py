"""Which of an artifact's variants is read, to compile it or to look into it."""

from __future__ import annotations

import shlex

from harness.detector.artifact import HEAD, Artifact, Variant
from harness.errors import ArtifactError
from harness.onnx_models.adopt import DETECTOR


def source(artifact: Artifact, formats: tuple[str, ...], *, head_in_graph: bool) -> Variant:
    """The float32 variant of the first of `formats` that there is, with its head in the graph or without.

    Raises:
        ArtifactError: there is none; says how the first format is exported. Or the model was not exported here.
    """
    if artifact.manifest.detector == DETECTOR:
        raise ArtifactError(
            f"{artifact.path}: a model that was not exported here, and its precision is not known: have it in the form wanted where "
            "it comes from, and measure both files with bench FILE.onnx"
        )
    fitting = [
        variant
        for variant in artifact.manifest.variants
        if (HEAD in variant.contains) == head_in_graph and variant.precision == "fp32"
    ]
    for format_ in formats:
        for variant in fitting:
            if variant.format == format_:
                return variant
    have = ", ".join(variant.id for variant in artifact.manifest.variants) or "none"
    option = " --head-in-graph" if head_in_graph else ""
    raise ArtifactError(
        f"{artifact.path}: no {formats[0].upper()} variant {'with' if head_in_graph else 'without'} its head in the graph "
        f"in float32 (variants: {have}); run: python -m harness export {shlex.quote(str(artifact.path))} --format {formats[0]}{option}"
    )
