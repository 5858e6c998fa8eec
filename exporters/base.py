"""What is exported: the artifact's network, alone or with its head in the graph."""

from __future__ import annotations

from dataclasses import dataclass

from exporters.runtime import nn
from harness import registry
from harness.detector.artifact import Artifact
from harness.detector.preprocess import Layout
from harness.heads.graph import HEAD


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
        return "".join(f"-{item}" for item in self.contains)


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
