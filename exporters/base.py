"""What is exported: the artifact's network, alone or with its head in the graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from exporters.errors import ExportMismatch
from exporters.runtime import mindspore as ms
from exporters.runtime import nn
from harness import registry
from harness.detector.artifact import HEAD, Artifact
from harness.detector.preprocess import Layout, Preprocessor
from harness.heads.graph import MAP, SCORE
from harness.types import AnyArray, Float32


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A cell, and what its graph is called from outside."""

    artifact: Artifact
    cell: nn.Cell
    shape: tuple[int, int, int]
    """(C, H, W) of one input row."""
    outputs: tuple[str, ...]
    contains: tuple[str, ...]
    """What of preprocessing and head the graph holds."""
    input_stage: str
    """Last preprocessing step the host runs before the graph takes over."""

    @property
    def variant(self) -> str:
        """What distinguishes the variant's id, after format and precision: nothing, or `-head`."""
        return "".join(f"-{part}" for part in self.contains)


def subject(artifact: Artifact, *, head_in_graph: bool) -> Subject:
    """The network of `artifact`; with its head, the graph takes the whole image and cuts windows itself.

    Raises:
        UsageError: the head does not fit into a graph (see the detector's `with_head`).
    """
    table = registry.NETS_WITH_HEAD if head_in_graph else registry.NETS
    cell, shape, outputs = registry.resolve("net", artifact.manifest.detector, table)(artifact)
    whole = next(step.stage for step in artifact.manifest.preprocessing if isinstance(step, Layout))
    return Subject(
        artifact=artifact,
        cell=cell,
        shape=shape,
        outputs=outputs,
        contains=(HEAD,) if head_in_graph else (),
        input_stage=whole if head_in_graph else artifact.manifest.preprocessing[-1].stage,
    )


TOLERANCE = 1e-4
"""Largest accepted difference, relative to the largest value of the expected output."""


BATCHES = (1, 3)
"""One image, and a batch that no constant of the graph can have been folded for."""


def agreement(
    subject: Subject, run: Callable[[Float32], Mapping[str, AnyArray]], *, what: str
) -> dict[str, float]:
    """Largest relative difference between `run` and the cell per batch size, on seeded noise.

    A variant that holds the head is also compared with the numpy head on the outputs of the network without it; those
    differences go under `head` and the batch size.

    Raises:
        ExportMismatch: a difference over `TOLERANCE`, another shape, or a value that is not finite.
    """
    differences = {}
    for batch in BATCHES:
        where = f"{subject.artifact.path.name}: {what}, batch {batch}"
        images = _noise(subject, batch)
        got = run(images)
        differences[str(batch)] = _worst(
            got, outputs(subject.cell, images, subject.outputs), f"{where}, the cell's"
        )
        if HEAD in subject.contains:
            differences[f"head {batch}"] = _worst(got, _scored(subject, batch), f"{where}, the numpy head's")
    return differences


def outputs(cell: nn.Cell, batch: Float32, names: Sequence[str]) -> dict[str, AnyArray]:
    """What the cell computes, by the names of its outputs."""
    result = cell(ms.Tensor(batch))
    tensors = result if isinstance(result, tuple) else (result,)
    return {name: tensor.asnumpy() for name, tensor in zip(names, tensors, strict=True)}


def _noise(subject: Subject, batch: int) -> Float32:
    """Images (batch, C, H, W) of uniform noise, preprocessed as images are."""
    channels, height, width = subject.shape
    frames = np.random.default_rng(batch).integers(0, 256, (batch, height, width, channels), np.uint8)
    preprocessor = Preprocessor(subject.artifact.manifest.preprocessing)
    return np.stack([preprocessor.tensor(frame) for frame in frames])


def _scored(subject: Subject, batch: int) -> dict[str, AnyArray]:
    """Map and score by the network without its head, and the numpy head."""
    artifact = subject.artifact
    net, _, names = registry.resolve("net", artifact.manifest.detector, registry.NETS)(artifact)
    preprocessor = Preprocessor(artifact.manifest.preprocessing)
    rows = np.concatenate([preprocessor.windows(image) for image in _noise(subject, batch)])
    spec = artifact.manifest.head
    scores = registry.head(spec.name)(spec.parameters, artifact.state(), threads=1)(
        rows, outputs(net, rows, names)
    )
    return {MAP: scores.maps, SCORE: scores.images}


def _worst(got: Mapping[str, AnyArray], expected: Mapping[str, AnyArray], where: str) -> float:
    return max(_difference(got[name], array, f"output {name} of {where}") for name, array in expected.items())


def _difference(got: AnyArray, expected: AnyArray, where: str) -> float:
    if got.shape != expected.shape:
        raise ExportMismatch(f"{where} has another shape: {got.shape} in place of {expected.shape}; not kept")
    difference = float(np.abs(got - expected).max() / max(np.abs(expected).max(), np.finfo(np.float32).tiny))
    if not difference <= TOLERANCE:  # NaN too
        raise ExportMismatch(
            f"{where} differs by {difference:.2g} of its largest value (accepted: {TOLERANCE:g}); not kept"
        )
    return difference
