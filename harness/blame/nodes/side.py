"""One side of a comparison: a graph on a backend, run through the backend's adapter as any variant is."""

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """A graph and what runs it."""

    artifact: Artifact
    variant: Variant
    """What a temporary variant takes its precision and stage from."""
    graph: Graph
    backend: str
    threads: int = 1

    def run(self, model: Any, batch: AnyArray) -> tuple[dict[str, AnyArray], Variant, DeviceReport]:
        """Outputs of `model` by name, float32; the variant that was made of it, and what it ran on."""
        with _opened(self, model) as (session, variant):
            return session.run(batch), variant, session.report

    def values(self, names: Sequence[str], batch: AnyArray) -> dict[str, AnyArray]:
        """The tensors of the graph called `names`, all exposed at once."""
        return self.run(self.graph.exposed(names), batch)[0]

    def outputs(self, batches: Sequence[AnyArray]) -> list[dict[str, AnyArray]]:
        """What the graph gives, as it is, for each batch."""
        with _opened(self, self.graph.model) as (session, _):
            return [session.run(batch) for batch in batches]


def side(artifact: Artifact, variant: Variant, backend: str, *, model: Path | None = None) -> Side:
    """Open one side.

    Args:
        artifact: Whose preprocessing and variants.
        variant: What runs; of another file where `model` is given.
        backend: What runs it.
        model: An ONNX file in place of the variant's own.

    Raises:
        ArtifactError: the file is missing, altered or no ONNX model of one input.
        UsageError: the variant is not ONNX, or the backend does not open ONNX.
    """
    if variant.format != FORMAT:
        raise UsageError(
            f"{variant.id} is {variant.format}, a graph that cannot be opened: cut its ONNX variant instead "
            "(python -m harness blame prepare)"
        )
    formats = registry.backend(backend).formats
    if FORMAT not in formats:
        raise UsageError(
            f"{backend} opens {', '.join(formats)}, not {FORMAT}: cut the model instead (python -m harness blame prepare)"
        )
    path = artifact.model_file(variant) if model is None else model
    return Side(artifact=artifact, variant=variant, graph=Graph(path), backend=backend)


@contextlib.contextmanager
def _opened(asked: Side, model: Any) -> Iterator[tuple[Session, Variant]]:
    """A session of `model`, as a variant of a temporary artifact."""
    backend = registry.backend(asked.backend)
    os.environ.update(backend.environment)  # as a worker does before the runtime is imported
    with tempfile.TemporaryDirectory(prefix="blame-") as folder:
        path = Path(folder) / "model.onnx"
        onnx.save(model, str(path))
        constants = {item.name for item in model.graph.initializer}
        source = next(value for value in model.graph.input if value.name not in constants)
        variant = Variant(
            id=asked.variant.id,
            format=FORMAT,
            precision=asked.variant.precision,
            input=_spec(source),
            input_stage=asked.variant.input_stage,
            outputs=tuple(_spec(value) for value in model.graph.output),
            files={path.name: storage.sha256_of_file(path)},
            agreement={},
        )
        temporary = Artifact(path=path.parent, manifest=asked.artifact.manifest, sha256=asked.artifact.sha256)
        session = backend.open(temporary, variant, threads=asked.threads)
        try:
            yield session, variant
        finally:
            session.close()


def _spec(value: Any) -> TensorSpec:
    tensor = value.type.tensor_type
    dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type))
    sides = tuple(side.dim_value if side.HasField("dim_value") else None for side in tensor.shape.dim)
    return TensorSpec(name=value.name, dtype=dtype.name, shape=sides)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One input of the network."""

    image: str
    """Name of the image, with the number of the row where it has several."""
    values: AnyArray
    """(1, …); or as often as a fixed batch wants it."""


def rows(side: Side, samples: Sequence[Sample]) -> tuple[Row, ...]:
    """Every input of these images."""
    preprocessor = Preprocessor(side.artifact.manifest.preprocessing, until=side.variant.input_stage)
    found = []
    for sample in samples:
        made = preprocessor.rows(sample.path)
        for number, row in enumerate(made):
            name = f"{sample.name} (row {number})" if len(made) > 1 else sample.name
            found.append(Row(image=name, values=repeated(side, row)))
    return tuple(found)


def repeated(side: Side, row: AnyArray) -> AnyArray:
    """One input as a batch of the size that the graph wants."""
    return np.repeat(row[None], side.graph.spec(side.graph.input.name).shape[0] or 1, axis=0)


def chosen(samples: Sequence[Sample], count: int) -> tuple[Sample, ...]:
    """As many, evenly spread."""
    places = np.linspace(0, len(samples) - 1, min(count, len(samples))).round().astype(int)
    return tuple(samples[place] for place in places)
