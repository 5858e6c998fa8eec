"""AIR: only MindSpore on an Ascend host writes it."""

from __future__ import annotations

from typing import NoReturn

from harness.artifact import Artifact
from harness.errors import Unavailable


def export(artifact: Artifact, *, head_in_graph: bool = False) -> NoReturn:
    """Refuse, saying where it can be done and what replaces it.

    Raises:
        Unavailable: always; MindSpore writes AIR on its Ascend target alone, which this exporter does not drive yet.
    """
    del head_in_graph
    raise Unavailable(
        f"{artifact.path}: AIR can only be written by MindSpore on an Ascend 910 host; AIR is deprecated, "
        "export ONNX instead (--format onnx), which atc converts to OM"
    )
