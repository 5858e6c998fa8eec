"""One side of a comparison: a graph on a backend, run through the backend's adapter, and the inputs that it reads."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from harness import registry, storage
from harness.blame.nodes.graph import Graph
from harness.detector.artifact import Artifact, TensorSpec, Variant
from harness.detector.preprocess import Preprocessor
from harness.errors import UsageError
from harness.types import AnyArray, Sample

if TYPE_CHECKING:
    from harness.contracts import DeviceReport, Session

FORMAT = "onnx"
_CUT_INSTEAD = "python -m harness blame prepare"


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """A graph and the backend that runs it."""

    artifact: Artifact
    variant: Variant
    """Gives its precision and input stage to the temporary variants that run."""
    graph: Graph
    backend: str
    threads: int = 1

    def run(self, model: Any, batch: AnyArray) -> tuple[dict[str, AnyArray], Variant, DeviceReport]:
        """Run `model`: its outputs by name, float32; the temporary variant that held it; the device that ran it."""
        with _opened(self, model) as (session, variant):
            return session.run(batch), variant, session.report

    def values(self, names: Sequence[str], batch: AnyArray) -> dict[str, AnyArray]:
        """Values of the tensors called `names`, which are all made outputs at once."""
        return self.run(self.graph.exposed(names), batch)[0]

    def outputs(self, batches: Sequence[AnyArray]) -> list[dict[str, AnyArray]]:
        """Outputs of the unchanged graph for each batch."""
        with _opened(self, self.graph.model) as (session, _):
            return [session.run(batch) for batch in batches]

    def batch(self, row: AnyArray) -> AnyArray:
        """One input (C, H, W), repeated to the graph's batch size."""
        return np.repeat(row[None], self.graph.spec(self.graph.input.name).shape[0] or 1, axis=0)


def open_side(artifact: Artifact, variant: Variant, backend: str, *, model: Path | None = None) -> Side:
    """Open one side.

    Args:
        artifact: Has the preprocessing and the variant.
        variant: Runs; with the file `model`, if that is named.
        backend: Runs the variant.
        model: An ONNX file in place of the variant's own.

    Raises:
        ArtifactError: the file is missing, altered or no ONNX model with one input.
        UsageError: the variant is not ONNX, or the backend does not open ONNX.
    """
    if variant.format != FORMAT:
        raise UsageError(
            f"{variant.id} is {variant.format}, a graph that cannot be opened: cut its ONNX variant instead ({_CUT_INSTEAD})"
        )
    formats = registry.backend(backend).formats
    if FORMAT not in formats:
        raise UsageError(
            f"{backend} opens {', '.join(formats)}, not {FORMAT}: cut the model instead ({_CUT_INSTEAD})"
        )
    path = artifact.model_file(variant) if model is None else model
    return Side(artifact=artifact, variant=variant, graph=Graph(path), backend=backend)


@contextlib.contextmanager
def _opened(side: Side, model: Any) -> Iterator[tuple[Session, Variant]]:
    """A session of `model`, which is the variant of a temporary artifact."""
    backend = registry.backend(side.backend)
    os.environ.update(backend.environment)  # as a worker does before it imports the runtime
    with tempfile.TemporaryDirectory(prefix="blame-") as folder:
        path = Path(folder) / "model.onnx"
        onnx.save(model, str(path))
        constants = {tensor.name for tensor in model.graph.initializer}
        source = next(value for value in model.graph.input if value.name not in constants)
        variant = Variant(
            id=side.variant.id,
            format=FORMAT,
            precision=side.variant.precision,
            input=_spec(source),
            input_stage=side.variant.input_stage,
            outputs=tuple(_spec(value) for value in model.graph.output),
            files={path.name: storage.sha256_of_file(path)},
            agreement={},
        )
        temporary = Artifact(path=path.parent, manifest=side.artifact.manifest, sha256=side.artifact.sha256)
        session = backend.open(temporary, variant, threads=side.threads)
        try:
            yield session, variant
        finally:
            session.close()


def _spec(value: Any) -> TensorSpec:
    tensor = value.type.tensor_type
    dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type))
    shape = tuple(side.dim_value if side.HasField("dim_value") else None for side in tensor.shape.dim)
    return TensorSpec(name=value.name, dtype=dtype.name, shape=shape)


@dataclass(frozen=True, slots=True, kw_only=True)
class InputRow:
    """One input of the network."""

    image: str
    """Name of the image, with the number of the row if the image has several."""
    values: AnyArray
    """(N, …): the row, repeated to the graph's batch size N."""


def input_rows(side: Side, samples: Sequence[Sample]) -> tuple[InputRow, ...]:
    """Every input of these images."""
    preprocessor = Preprocessor(side.artifact.manifest.preprocessing, until=side.variant.input_stage)
    rows = []
    for sample in samples:
        windows = preprocessor.rows(sample.path)
        for number, window in enumerate(windows):
            name = f"{sample.name} (row {number})" if len(windows) > 1 else sample.name
            rows.append(InputRow(image=name, values=side.batch(window)))
    return tuple(rows)


def evenly_spread(samples: Sequence[Sample], count: int) -> tuple[Sample, ...]:
    """At most `count` of the samples, evenly spread."""
    places = np.linspace(0, len(samples) - 1, min(count, len(samples))).round().astype(int)
    return tuple(samples[place] for place in places)
